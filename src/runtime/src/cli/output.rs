//! Standard output as a value that commands write to.  A full disk or a closed pipe is an error like any other, not a
//! panic of `println!`.

use std::fmt;
use std::io::{self, Write};

use crate::error::Error;

/// Where a command's answer goes.
pub struct Output {
    place: Box<dyn Write + Send>,
    is_empty: bool,
}

impl Output {
    /// The process's standard output.
    pub fn stdout() -> Output {
        Output::to(io::stdout())
    }

    /// Any other place, for tests.
    pub fn to(place: impl Write + Send + 'static) -> Output {
        Output { place: Box::new(place), is_empty: true }
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Writes one line.
    ///
    /// # Errors
    /// [`Error::Output`] when it cannot be written.
    pub fn line(&mut self, line: impl fmt::Display) -> Result<(), Error> {
        self.is_empty = false;
        writeln!(self.place, "{line}").map_err(|source| Error::Output { source })
    }

    /// Writes a piece of a line and shows it at once.
    ///
    /// # Errors
    /// [`Error::Output`] when it cannot be written.
    pub fn piece(&mut self, piece: impl fmt::Display) -> Result<(), Error> {
        self.is_empty = false;
        write!(self.place, "{piece}").map_err(|source| Error::Output { source })?;
        self.flush()
    }

    /// Makes sure that everything has been written.
    ///
    /// # Errors
    /// [`Error::Output`] when it has not.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.place.flush().map_err(|source| Error::Output { source })
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Output")
    }
}
