//! Standard output as a value that commands write to.  A full disk or a closed pipe is an error like any other, not a
//! panic of `println!`.

use std::fmt;
use std::io::{self, Write};

use crate::error::Error;

/// Where a command's answer goes.
pub struct Output(Box<dyn Write + Send>);

impl Output {
    /// The process's standard output.
    pub fn stdout() -> Output {
        Output(Box::new(io::stdout()))
    }

    /// Any other place, for tests.
    pub fn to(place: impl Write + Send + 'static) -> Output {
        Output(Box::new(place))
    }

    /// Writes one line.
    ///
    /// # Errors
    /// [`Error::Output`] when it cannot be written.
    pub fn line(&mut self, line: impl fmt::Display) -> Result<(), Error> {
        writeln!(self.0, "{line}").map_err(|source| Error::Output { source })
    }

    /// Writes a piece of a line and shows it at once.
    ///
    /// # Errors
    /// [`Error::Output`] when it cannot be written.
    pub fn piece(&mut self, piece: impl fmt::Display) -> Result<(), Error> {
        write!(self.0, "{piece}").map_err(|source| Error::Output { source })?;
        self.flush()
    }

    /// Makes sure that everything has been written.
    ///
    /// # Errors
    /// [`Error::Output`] when it has not.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.0.flush().map_err(|source| Error::Output { source })
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Output")
    }
}
