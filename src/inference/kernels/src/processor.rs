//! What computes: a set of instructions and the threads that use them.

use std::io;
use std::num::NonZero;
use std::thread;

use crate::{Isa, Pool};

/// The instructions and the threads of one engine.
#[derive(Debug)]
pub struct Processor {
    /// What the kernels are compiled for.
    pub isa: Isa,
    /// Who computes them.
    pub pool: Pool,
}

impl Processor {
    /// So many threads with the best instructions that there are.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub fn new(threads: NonZero<usize>) -> io::Result<Processor> {
        Ok(Processor { isa: Isa::best(), pool: Pool::new(threads)? })
    }

    /// How many threads compute best here: one for each core that this process may use, but no more than the quota of its
    /// control group lets run.  Two threads of one core share the units that the kernels keep busy.
    pub fn default_threads() -> NonZero<usize> {
        let allowed = thread::available_parallelism().map_or(1, NonZero::get);
        let cores = allowed_processors().map_or(allowed, |processors| processors / threads_per_core());
        NonZero::new(cores.min(allowed)).unwrap_or(NonZero::<usize>::MIN)
    }
}

/// On how many processors, threads of cores, this process may run; `None` if the system does not tell.
fn allowed_processors() -> Option<usize> {
    let processors = rustix::thread::sched_getaffinity(None).ok()?;
    usize::try_from(processors.count()).ok()
}

/// How many threads a core runs at once, asked of the processor itself: in an empty root there is no /proc.
#[cfg(target_arch = "x86_64")]
fn threads_per_core() -> usize {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const TOPOLOGY: u32 = 0x0b;
    if __cpuid(0).eax < TOPOLOGY {
        return 1;
    }
    // The first level of the topology is that of the threads of a core, if its type says so.
    let level = __cpuid_count(TOPOLOGY, 0);
    let is_threads = level.ecx >> 8 & 0xff == 1;
    if is_threads { (level.ebx as usize & 0xffff).max(1) } else { 1 }
}

#[cfg(not(target_arch = "x86_64"))]
fn threads_per_core() -> usize {
    1
}
