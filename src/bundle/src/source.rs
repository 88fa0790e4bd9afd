//! Where a bundle's bytes come from: something already opened that can be read at any offset.
//!
//! This crate never opens a path. Whoever opens the file decides how (`O_NOFOLLOW`, `openat2`, an embedded slice), and
//! the same open handle serves verification and loading, so that no name is resolved twice.

use std::io;
use std::os::unix::fs::FileExt;

use crate::error::BundleError;

/// Bytes of a fixed length that can be read at any offset, from several threads.
pub trait Source: Send + Sync {
    /// The length in bytes.
    ///
    /// # Errors
    /// Whatever the operating system reports.
    fn length(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes from `offset`; 0 means that the end is reached.
    ///
    /// # Errors
    /// Whatever the operating system reports.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Source for std::fs::File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }
}

impl Source for &[u8] {
    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(rest) = usize::try_from(offset).ok().and_then(|start| self.get(start..)) else { return Ok(0) };
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }
}

impl Source for Vec<u8> {
    fn length(&self) -> io::Result<u64> {
        self.as_slice().length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.as_slice().read_at(buffer, offset)
    }
}

impl<S: Source + ?Sized> Source for &S {
    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

impl<S: Source + ?Sized> Source for std::sync::Arc<S> {
    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

/// A stretch of another source, such as one layer of a bundle.
pub(crate) struct Excerpt {
    pub(crate) source: std::sync::Arc<dyn Source>,
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Source for Excerpt {
    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = rest.min(buffer.len());
        self.source.read_at(&mut buffer[..count], self.start.saturating_add(offset))
    }
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn length(&self) -> io::Result<u64> {
        (**self).length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

/// Fills `buffer` from `offset` as far as the source goes, and says how far that is.
fn fill(source: &dyn Source, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Fills `buffer` from `offset`.
///
/// # Errors
/// Whatever the operating system reports, and [`io::ErrorKind::UnexpectedEof`] when the source ends before.
pub fn read_exact(source: &dyn Source, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match fill(source, buffer, offset)? {
        filled if filled == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Fills `buffer` from `offset`, or says what was cut short.
pub(crate) fn read_exact_at(
    source: &dyn Source,
    buffer: &mut [u8],
    offset: u64,
    what: &str,
) -> Result<(), BundleError> {
    let filled = fill(source, buffer, offset).map_err(|source| BundleError::Io { what: what.to_owned(), source })?;
    if filled < buffer.len() {
        let (needed, length) = (offset.saturating_add(buffer.len() as u64), offset.saturating_add(filled as u64));
        return Err(BundleError::Truncated { what: what.to_owned(), needed, length });
    }
    Ok(())
}
