//! The threads that compute: made once, woken by a counter that they spin on, asleep when there is nothing for a while.
//!
//! One pass over a layer hands out work half a dozen times, each worth some tens of microseconds.  Waking a sleeping thread
//! costs as much as that, so a thread that has just worked keeps looking for more before it sleeps.
//!
//! Work is cut into pieces that whoever is free takes, so that a processor that is busy with something else slows down its
//! own pieces alone.  Which thread computes a piece changes no result: a piece is computed by one thread.

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint;
use std::io;
use std::num::NonZero;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// How often a thread looks for work before it sleeps: some hundred microseconds.
const SPINS_BEFORE_SLEEP: usize = 4_000;
/// How often whoever waits for the others looks before it lets other threads run.
const SPINS_BEFORE_YIELD: usize = 2_000;

/// A number of threads that compute together.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    /// Held while the pool works: it does one thing at a time.
    busy: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

/// What the threads look at.
#[derive(Debug)]
struct Shared {
    task: UnsafeCell<Option<Task>>,
    /// Grows by one with each task.
    round: AtomicUsize,
    /// How many workers have not finished the current task.
    unfinished: AtomicUsize,
    /// For each worker, whether it sleeps or is about to.
    asleep: Vec<AtomicBool>,
    ending: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `task` is written by `Pool::run` alone, one thread at a time, while all workers wait for the next round; workers read
// it between the round's start and their own report that they have finished.  Everything else is made to be shared.
unsafe impl Sync for Shared {}

/// A borrowed closure whose lifetime the pool vouches for.
#[derive(Debug, Clone, Copy)]
struct Task(*const (dyn Fn() + Sync));

// SAFETY: the closure is `Sync`, so a reference to it may be used from any thread.
unsafe impl Send for Task {}

impl Pool {
    /// A pool of so many threads, the calling one included.
    ///
    /// # Errors
    /// When the system starts no more threads.
    pub fn new(threads: NonZero<usize>) -> io::Result<Pool> {
        let others = threads.get() - 1;
        let shared = Arc::new(Shared {
            task: UnsafeCell::new(None),
            round: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            asleep: (0..others).map(|_| AtomicBool::new(false)).collect(),
            ending: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Pool { shared, busy: Mutex::new(()), workers: Vec::with_capacity(others) };
        for index in 0..others {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new().name(format!("compute-{index}"));
            pool.workers.push(worker.spawn(move || shared.work(index))?);
        }
        Ok(pool)
    }

    /// How many threads compute, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `piece` for every number below `count`, on all threads, and returns when all calls have returned.  A piece must
    /// not hand work to its own pool, which is busy with it.
    ///
    /// # Panics
    /// With what a piece has panicked with, once no thread is in a piece any more.
    pub fn for_each(&self, count: usize, piece: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || count <= 1 {
            return (0..count).for_each(piece);
        }
        let next = AtomicUsize::new(0);
        self.run(&|| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                piece(index);
            }
        });
    }

    /// Calls `piece` with every stretch of `length` elements of `values`, the last of which may be shorter, and its number.
    ///
    /// # Panics
    /// As [`Pool::for_each`], and for stretches of no length.
    pub fn for_each_chunk<T: Send>(&self, values: &mut [T], length: usize, piece: impl Fn(usize, &mut [T]) + Sync) {
        let (total, values) = (values.len(), Pieces(values.as_mut_ptr()));
        self.for_each(total.div_ceil(length), |index| {
            let start = index * length;
            // SAFETY: each number is handed out once, so the stretches do not overlap, and none passes the end.
            let chunk = unsafe { std::slice::from_raw_parts_mut(values.at(start), length.min(total - start)) };
            piece(index, chunk);
        });
    }

    /// Calls `task` on every thread.
    fn run(&self, task: &(dyn Fn() + Sync)) {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the lifetime is forgotten, not the closure: this function does not return, nor unwind, before every worker
        // has reported that it is done with it.
        let task_pointer = Task(unsafe { std::mem::transmute::<&(dyn Fn() + Sync), *const (dyn Fn() + Sync)>(task) });
        // SAFETY: no worker reads the task between its report and the next round, and all have reported.
        unsafe { *self.shared.task.get() = Some(task_pointer) };
        self.shared.unfinished.store(self.workers.len(), Ordering::Relaxed);
        // What stands above is seen by whoever sees the new round.  Sequentially consistent, as are the flags of the sleepers:
        // a worker that was not seen asleep sees the round.
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&self.shared.asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        let own = panic::catch_unwind(AssertUnwindSafe(task));
        let mut spins = 0;
        while self.shared.unfinished.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        let other = self.shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(busy);
        if let Some(payload) = own.err().or(other) {
            panic::resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its pieces and has none of its own.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, index: usize) {
        let mut seen = 0;
        loop {
            seen = self.next_round(index, seen);
            if self.ending.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: the round was seen, so the task stands there, and it is not replaced before the report below.
            let task = unsafe { *self.task.get() };
            if let Some(Task(task)) = task {
                // SAFETY: `Pool::run` keeps the closure alive until every worker has reported.
                let outcome = panic::catch_unwind(AssertUnwindSafe(|| unsafe { (*task)() }));
                if let Err(payload) = outcome {
                    *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
                }
            }
            self.unfinished.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for the round after `seen`, awake at first and then asleep.
    fn next_round(&self, index: usize, seen: usize) -> usize {
        for _ in 0..SPINS_BEFORE_SLEEP {
            let round = self.round.load(Ordering::Acquire);
            if round != seen {
                return round;
            }
            hint::spin_loop();
        }
        self.asleep[index].store(true, Ordering::SeqCst);
        loop {
            let round = self.round.load(Ordering::SeqCst);
            if round != seen {
                self.asleep[index].store(false, Ordering::SeqCst);
                return round;
            }
            thread::park();
        }
    }
}

/// Where a slice begins that several threads write parts of.
pub(crate) struct Pieces<T>(pub(crate) *mut T);

// SAFETY: it is an address; who makes references of it answers for their not overlapping.
unsafe impl<T: Send> Send for Pieces<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Pieces<T> {}

impl<T> Pieces<T> {
    /// The address of the element with this number.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZero::new(threads).expect("at least one")).expect("threads start")
    }

    fn add(sum: &AtomicUsize, value: usize) {
        sum.fetch_add(value, Ordering::Relaxed);
    }

    #[test]
    fn every_piece_is_computed_once_however_many_threads_there_are() {
        for threads in [1, 2, 3, 5] {
            let pool = pool(threads);
            for count in [0, 1, 2, 7, 1000] {
                let calls: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                pool.for_each(count, |index| add(&calls[index], 1));
                assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn chunks_cover_a_slice_without_overlap() {
        let pool = pool(3);
        let mut values = vec![0_u64; 1003];
        pool.for_each_chunk(&mut values, 10, |index, chunk| {
            for (place, value) in chunk.iter_mut().enumerate() {
                *value += (index * 10 + place) as u64;
            }
        });
        assert!(values.iter().enumerate().all(|(place, value)| place as u64 == *value));
    }

    #[test]
    fn a_pool_that_slept_wakes_up() {
        let pool = pool(2);
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(20));
            let sum = AtomicUsize::new(0);
            pool.for_each(100, |index| add(&sum, index));
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = pool(2);
        for unlucky in [0, 50, 99] {
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(100, |index| assert_ne!(index, unlucky, "the unlucky piece"));
            }));
            assert!(outcome.is_err());
            let sum = AtomicUsize::new(0);
            pool.for_each(10, |index| add(&sum, index));
            assert_eq!(sum.into_inner(), 45);
        }
    }

    #[test]
    fn several_threads_may_hand_work_to_one_pool() {
        let pool = pool(2);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.for_each(20, |index| add(&sum, index));
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 50 * 190);
    }
}
