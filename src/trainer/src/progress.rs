//! What a person sees while it trains: a bar with loss, speed and time left; plain lines where there is no terminal.

use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

/// Where progress goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nowhere; for tests.
    Silent,
    /// A bar on a terminal, a line now and then elsewhere; both on standard error.
    Shown,
}

/// Steps between two plain lines.
const LINE_STEPS: usize = 50;
/// Plain lines of work that only counts.
const COUNTED_LINES: usize = 10;
/// Weight of the newest loss in the average that is shown.
const SMOOTHING: f32 = 0.05;

/// The progress of one run.
#[derive(Debug)]
pub struct Bar {
    bar: Option<ProgressBar>,
    lines: bool,
    steps: usize,
    started: Instant,
    tokens: Cell<usize>,
    smooth_loss: Cell<f32>,
}

impl Progress {
    /// Says one sentence.
    pub fn note(self, text: &str) {
        if self == Self::Shown {
            eprintln!("{text}");
        }
    }

    /// Starts a run of so many steps.
    pub fn start(self, steps: usize) -> Bar {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = (self == Self::Shown && is_terminal).then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {eta} left")
                .expect("the template is a constant and valid");
            ProgressBar::new(steps as u64).with_style(style)
        });
        Bar {
            bar,
            lines: self == Self::Shown && !is_terminal,
            steps,
            started: Instant::now(),
            tokens: Cell::new(0),
            smooth_loss: Cell::new(f32::NAN),
        }
    }

    /// Starts counting `what` to so many.
    pub fn start_counting(self, what: &'static str, count: usize) -> Counter {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = (self == Self::Shown && is_terminal).then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}  {eta} left")
                .expect("the template is a constant and valid");
            ProgressBar::new(count as u64).with_style(style).with_message(what)
        });
        Counter { bar, lines: self == Self::Shown && !is_terminal, what, count, done: Cell::new(0) }
    }
}

/// The progress of work that only counts.
#[derive(Debug)]
pub struct Counter {
    bar: Option<ProgressBar>,
    lines: bool,
    what: &'static str,
    count: usize,
    done: Cell<usize>,
}

impl Counter {
    /// Records one more.
    pub fn advance(&self) {
        self.done.set(self.done.get() + 1);
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        if self.lines && self.done.get().is_multiple_of(self.count.div_ceil(COUNTED_LINES)) {
            eprintln!("{}: {} of {}", self.what, self.done.get(), self.count);
        }
    }

    /// Ends, and leaves nothing on the terminal.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Bar {
    /// Records one finished step.
    pub fn step(&self, step: usize, loss: f32, tokens: usize) {
        self.tokens.set(self.tokens.get() + tokens);
        let before = self.smooth_loss.get();
        self.smooth_loss.set(if before.is_nan() { loss } else { before + SMOOTHING * (loss - before) });
        let seconds = self.started.elapsed().as_secs_f64();
        let speed = self.tokens.get() as f64 / seconds.max(1e-9);
        if let Some(bar) = &self.bar {
            bar.set_message(format!("loss {:.4}  {speed:.0} tokens/s", self.smooth_loss.get()));
            bar.set_position(step as u64);
        }
        if self.lines && (step.is_multiple_of(LINE_STEPS) || step == self.steps) {
            let left = seconds / step as f64 * (self.steps - step) as f64;
            let loss = self.smooth_loss.get();
            eprintln!("step {step}/{}  loss {loss:.4}  {speed:.0} tokens/s  {left:.0} s left", self.steps);
        }
    }

    /// Ends the run.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
