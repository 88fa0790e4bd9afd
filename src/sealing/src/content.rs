//! The bytes of one layer before they are in a bundle: a head that was made here, then ranges of files.
//!
//! Weights are read twice: once for the digest, which stands in the manifest at the front of the bundle, and once to be
//! copied behind it. The archive's writer hashes the second reading, so a file that changes in between stops the sealing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_bundle::{Digest, Hasher, Source};

use crate::error::SealingError;
use crate::progress::Progress;

/// How much is read at a time; large enough that the system call costs nothing beside the hashing.
const BLOCK_BYTES: usize = 1 << 20;

/// A file that is open for the whole sealing, with its name for messages.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    file: Arc<File>,
    pub(crate) path: Arc<PathBuf>,
    pub(crate) length: u64,
}

/// A range of an open file.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) file: OpenFile,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What a layer will hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pub(crate) head: Vec<u8>,
    pub(crate) pieces: Vec<Piece>,
}

impl OpenFile {
    /// Takes a regular file that was opened; `path` names it in messages.
    pub(crate) fn of(file: File, path: &Path) -> Result<OpenFile, SealingError> {
        let found = file.metadata().map_err(|source| SealingError::Read { path: path.to_owned(), source })?;
        Ok(OpenFile { file: Arc::new(file), path: Arc::new(path.to_owned()), length: found.len() })
    }

    /// Reads exactly `length` bytes from `offset`; the caller has capped `length`.
    pub(crate) fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, SealingError> {
        let mut bytes = vec![0; usize::try_from(length).expect("a header's cap fits")];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|source| SealingError::Read { path: self.path.to_path_buf(), source })?;
        Ok(bytes)
    }
}

impl Content {
    /// The SHA-256 of all bytes, in one pass over them; `look_at` sees the same bytes in the same order.
    pub(crate) fn digest(&self, progress: &Progress, mut look_at: impl FnMut(&[u8])) -> Result<Digest, SealingError> {
        let mut hasher = Hasher::new();
        hasher.update(&self.head);
        look_at(&self.head);
        progress.advance(self.head.len() as u64);
        let mut block = vec![0; BLOCK_BYTES];
        for piece in &self.pieces {
            let mut position = 0;
            while position < piece.length {
                let count = piece.read_at(&mut block, position);
                let count =
                    count.map_err(|source| SealingError::Read { path: piece.file.path.to_path_buf(), source })?;
                hasher.update(&block[..count]);
                look_at(&block[..count]);
                progress.advance(count as u64);
                position += count as u64;
            }
        }
        Ok(hasher.finish())
    }

    pub(crate) fn length(&self) -> u64 {
        self.pieces.iter().fold(self.head.len() as u64, |sum, piece| sum.saturating_add(piece.length))
    }
}

impl Content {
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let head_bytes = self.head.len() as u64;
        if offset < head_bytes {
            return self.head.as_slice().read_at(buffer, offset);
        }
        let mut position = offset - head_bytes;
        for piece in &self.pieces {
            if position < piece.length {
                return piece.read_at(buffer, position);
            }
            position -= piece.length;
        }
        Ok(0)
    }
}

impl Source for Content {
    fn length(&self) -> io::Result<u64> {
        Ok(Content::length(self))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Content::read_at(self, buffer, offset)
    }
}

impl Piece {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let rest = usize::try_from(self.length.saturating_sub(position)).unwrap_or(usize::MAX);
        let wanted = rest.min(buffer.len());
        match FileExt::read_at(&*self.file.file, &mut buffer[..wanted], self.offset.saturating_add(position))? {
            // The range was checked against the file's length, so its end comes early only when the file shrank.
            0 if wanted > 0 => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sealed"))
            }
            count => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_head_and_the_ranges_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = OpenFile::of(File::open(&path).unwrap(), &path).unwrap();
        let piece = |offset, length| Piece { file: file.clone(), offset, length };
        let content = Content { head: b"head:".to_vec(), pieces: vec![piece(7, 3), piece(0, 0), piece(0, 2)] };
        for offset in 0..=10 {
            let (mut read, mut block) = (Vec::new(), [0; 4]);
            while let count @ 1.. = content.read_at(&mut block, (offset + read.len()) as u64).unwrap() {
                read.extend_from_slice(&block[..count]);
            }
            assert_eq!(read, b"head:78901"[offset..]);
        }
        assert_eq!(content.length(), 10);
        assert_eq!(content.digest(&Progress::hidden(), |_| {}).unwrap(), Digest::of(b"head:78901"));
    }

    #[test]
    fn a_file_that_shrinks_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = OpenFile::of(File::open(&path).unwrap(), &path).unwrap();
        let content = Content { head: Vec::new(), pieces: vec![Piece { file, offset: 0, length: 10 }] };
        std::fs::write(&path, b"01234").unwrap();
        assert!(matches!(content.digest(&Progress::hidden(), |_| {}), Err(SealingError::Read { .. })));
    }
}
