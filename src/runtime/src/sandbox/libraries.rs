//! What the C library asks the system for once in a process, asked while it may: how many processors there are, before
//! its threads share what they allocate from, and whether it may give memory back.  Asked later it would be refused,
//! which does no harm; but a process that serves opens nothing, and whoever watches it should see nothing to explain.

use std::hint::black_box;
use std::sync::{RwLock, mpsc};
use std::thread;

use rustix::process::{Resource, getrlimit};

/// More threads at a time than the C library gives memory of their own without counting the processors.
const THREADS: usize = 12;
/// Less than what is mapped by itself.
const PIECE_BYTES: usize = 96 << 10;
/// Together more than the C library keeps of what is given back.
const PIECES: usize = 8;

/// Lets the C library ask.  For each thread it sets 64 MiB of addresses aside and touches next to nothing of them; where
/// addresses are limited, they are kept for the model.
pub(super) fn let_the_c_library_ask() {
    if getrlimit(Resource::As).current.is_some() {
        return;
    }
    let gate = RwLock::new(());
    let closed = gate.write();
    let (has_allocated, all_have) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let (gate, has_allocated) = (&gate, has_allocated.clone());
            // A thread that cannot be started is one that will not ask later either.
            let _ = thread::Builder::new().spawn_scoped(scope, move || {
                let pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| black_box(Vec::with_capacity(PIECE_BYTES))).collect();
                drop(has_allocated);
                drop(gate.read());
                drop(pieces);
            });
        }
        drop(has_allocated);
        // Nothing is sent: it ends when each thread has allocated, and all are there at once.
        let () = all_have.iter().collect();
        drop(closed);
    });
}
