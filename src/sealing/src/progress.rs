//! A progress bar for work that takes seconds, shown on a terminal only.

use std::io::{self, Write};

use ampoule_bundle::Source;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts bytes towards a total that is known when the work begins.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar on standard error if that is a terminal; it draws nothing elsewhere.
    pub(crate) fn of_bytes(total_bytes: u64, label: &'static str) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}");
        bar.set_style(style.expect("the template is fixed and valid"));
        bar.set_message(label);
        Progress(bar)
    }

    /// Draws nothing anywhere.
    #[cfg(test)]
    pub(crate) fn hidden() -> Progress {
        Progress(ProgressBar::hidden())
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

/// Passes bytes on to a writer and counts them.
pub(crate) struct Counting<'a, W> {
    writer: W,
    progress: &'a Progress,
}

impl Progress {
    pub(crate) fn counting<W: Write>(&self, writer: W) -> Counting<'_, W> {
        Counting { writer, progress: self }
    }
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.progress.advance(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A source that reports how far it was read.
pub(crate) struct Metered<'a, S> {
    source: &'a S,
    progress: &'a Progress,
}

impl Progress {
    pub(crate) fn metering<'a, S: Source>(&'a self, source: &'a S) -> Metered<'a, S> {
        Metered { source, progress: self }
    }
}

impl<S: Source> Source for Metered<'_, S> {
    fn length(&self) -> io::Result<u64> {
        self.source.length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.source.read_at(buffer, offset)?;
        self.progress.advance(count as u64);
        Ok(count)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
