//! How far a long read has come: a bar where a person watches, a log line each quarter where nobody does.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The progress of reading a known number of bytes.
#[derive(Debug)]
pub struct Progress {
    total_bytes: u64,
    seen_bytes: AtomicU64,
    bar: Option<ProgressBar>,
    told_quarters: AtomicU64,
}

impl Progress {
    /// Begins to tell about `total_bytes`; `what` names the work in one word.
    pub fn start(what: &'static str, total_bytes: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("  {msg:10} [{bar:30}] {bytes} of {total_bytes}")
                .expect("the template is a constant")
                .progress_chars("=> ");
            let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr_with_hz(20));
            bar.with_style(style).with_message(what)
        });
        if let Some(bar) = &bar {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Progress { total_bytes, seen_bytes: AtomicU64::new(0), bar, told_quarters: AtomicU64::new(0) }
    }

    /// Counts `bytes` more.  May be called from several threads.
    pub fn advance(&self, bytes: u64) {
        let seen = self.seen_bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if let Some(bar) = &self.bar {
            bar.set_position(seen);
            return;
        }
        let quarters = seen.saturating_mul(4).checked_div(self.total_bytes).unwrap_or(4).min(4);
        if self.told_quarters.fetch_max(quarters, Ordering::Relaxed) < quarters {
            tracing::info!(bytes = seen, total_bytes = self.total_bytes, "reading weights");
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
