//! How far a long piece of work has come: a bar where a person watches, a log line each quarter where nobody does.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The progress of reading a known number of bytes, or of a known number of steps.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: u64,
    seen: AtomicU64,
    bar: Option<ProgressBar>,
    told_quarters: AtomicU64,
}

impl Progress {
    /// Begins to tell about `total_bytes`; `what` names the work in one word.
    pub fn start(what: &'static str, total_bytes: u64) -> Progress {
        Progress::with_template(what, total_bytes, "  {msg:10} [{bar:30}] {bytes} of {total_bytes}")
    }

    /// Begins to tell about `total` steps; `what` names the work in one word.
    pub fn of_steps(what: &'static str, total: u64) -> Progress {
        Progress::with_template(what, total, "  {msg:10} [{bar:30}] {pos} of {len}")
    }

    fn with_template(what: &'static str, total: u64, template: &'static str) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(template).expect("the template is a constant");
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(20));
            bar.with_style(style.progress_chars("=> ")).with_message(what)
        });
        if let Some(bar) = &bar {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Progress { what, total, seen: AtomicU64::new(0), bar, told_quarters: AtomicU64::new(0) }
    }

    /// Counts so many more.  May be called from several threads.
    pub fn advance(&self, more: u64) {
        let seen = self.seen.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        if let Some(bar) = &self.bar {
            bar.set_position(seen);
            return;
        }
        let quarters = seen.saturating_mul(4).checked_div(self.total).unwrap_or(4).min(4);
        if self.told_quarters.fetch_max(quarters, Ordering::Relaxed) < quarters {
            tracing::info!(work = self.what, done = seen, total = self.total, "a long piece of work goes on");
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
