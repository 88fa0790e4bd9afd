//! A place for work that recurses deeply and may never end: a thread with a large stack, waited for until a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use super::TextError;

/// Only pages that are touched take memory.
const STACK_BYTES: usize = 512 << 20;

/// How many pieces of work may go on beyond their deadline, since a thread cannot be stopped; then no further one begins.
const MAX_OVERDUE: usize = 2;

/// Where work runs; clones share the count of what is overdue.
#[derive(Clone, Debug, Default)]
pub(super) struct DeepStack {
    overdue: Arc<AtomicUsize>,
}

impl DeepStack {
    /// Runs `work` on a thread of its own, and waits for it for `deadline` at most.
    ///
    /// # Errors
    /// [`TextError::TemplateDeadline`] when it does not end, or when earlier work has not; [`TextError::TemplateThread`]
    /// when the system gives no thread. A panic of `work` goes on here.
    pub(super) fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TextError> {
        let late = || TextError::TemplateDeadline { limit_seconds: deadline.as_secs() };
        if self.overdue.load(Ordering::Relaxed) >= MAX_OVERDUE {
            return Err(late());
        }
        // Without a buffer the worker knows whether its result was taken, and can say that it is no longer overdue.
        let (sender, receiver) = sync_channel(0);
        let overdue = Arc::clone(&self.overdue);
        let builder = thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES);
        let worker = builder.spawn(move || {
            if sender.send(work()).is_err() {
                overdue.fetch_sub(1, Ordering::Relaxed);
            }
        });
        let worker =
            worker.map_err(|error| TextError::TemplateThread { stack: STACK_BYTES, reason: error.to_string() })?;
        match receiver.recv_timeout(deadline) {
            Ok(result) => Ok(result),
            Err(RecvTimeoutError::Timeout) => {
                self.overdue.fetch_add(1, Ordering::Relaxed);
                Err(late())
            }
            Err(RecvTimeoutError::Disconnected) => match worker.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => Err(late()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_does_not_end_is_left_alone_and_soon_nothing_more_begins() {
        let (stack, soon) = (DeepStack::default(), Duration::from_millis(50));
        let never_ending = || {
            let (release, released) = std::sync::mpsc::channel::<()>();
            let outcome = stack.run(soon, move || released.recv());
            assert!(matches!(outcome, Err(TextError::TemplateDeadline { .. })));
            release
        };
        let held = [never_ending(), never_ending()];
        assert!(stack.run(soon, || ()).is_err(), "a third was begun");
        drop(held);
        while stack.overdue.load(Ordering::Relaxed) > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(stack.run(Duration::from_secs(60), || 7).unwrap(), 7);
    }

    #[test]
    fn a_panic_goes_on_where_the_result_is_awaited() {
        let outcome = std::panic::catch_unwind(|| DeepStack::default().run(Duration::from_secs(60), || panic!("ouch")));
        assert!(outcome.is_err());
    }
}
