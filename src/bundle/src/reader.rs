//! Reads one weight file from front to back, hashes what it reads, and decrypts it where it is encrypted.
//!
//! ```text
//! plain       source ─read─► the caller's memory ─hash
//! encrypted   source ─read─► four chunks ─hash─► decrypt in place ─hash─► the caller's memory
//! ```
//!
//! The first bytes of the file were verified with their own digest, and are taken from memory. All others are read once.

use std::ops::Range;

use crate::age::{AgeError, Opener, SEALED_CHUNK_BYTES};
use crate::digest::Hasher;
use crate::error::BundleError;
use crate::source::{Source, read_exact_at};
use crate::verify::check_digest;
use crate::weights::{SealedWeights, WeightFile};

/// How much is read and hashed at once; it stays in the cache between the two.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;

/// How many chunks of an age file are read and decrypted at once; about as much.
const SEALED_CHUNKS: u64 = 4;

/// One way through one weight file.
pub(crate) struct Reader<'a> {
    source: &'a dyn Source,
    file: &'a WeightFile,
    /// Of what the file holds, decrypted.
    hasher: Hasher,
    /// How far the file was read, as it lies in the bundle.
    position: u64,
    unsealing: Option<Unsealing<'a>>,
}

/// What it takes to read an encrypted file.
struct Unsealing<'a> {
    sealed: &'a SealedWeights,
    opener: Opener,
    /// Of the file as it lies in the bundle.
    hasher: Hasher,
    next_chunk: u64,
    buffer: Vec<u8>,
    /// Where in the buffer the plaintext lies that was not given out yet.
    ready: Range<usize>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(source: &'a dyn Source, file: &'a WeightFile) -> Self {
        let mut reader = Self { source, file, hasher: Hasher::new(), position: 0, unsealing: None };
        if let Some(sealed) = &file.sealed {
            // The age header and the nonce: the plaintext begins behind them.
            reader.position = sealed.cipher.extent.start;
            let mut hasher = Hasher::new();
            hasher.update(&file.start[..in_memory(reader.position)]);
            let buffer = vec![0; in_memory(SEALED_CHUNKS * SEALED_CHUNK_BYTES)];
            let opener = sealed.cipher.opener();
            reader.unsealing = Some(Unsealing { sealed, opener, hasher, next_chunk: 0, buffer, ready: 0..0 });
        }
        reader
    }

    /// Fills `memory` with what comes next.
    pub(crate) fn read(&mut self, mut memory: &mut [u8]) -> Result<(), BundleError> {
        let Some(mut unsealing) = self.unsealing.take() else {
            self.read_as_it_lies(memory)?;
            self.hasher.update(memory);
            return Ok(());
        };
        while !memory.is_empty() {
            if unsealing.ready.is_empty() {
                self.unseal(&mut unsealing)?;
            }
            let count = unsealing.ready.len().min(memory.len());
            let (now, later) = memory.split_at_mut(count);
            let from = unsealing.ready.start;
            now.copy_from_slice(&unsealing.buffer[from..from + count]);
            unsealing.ready.start += count;
            memory = later;
        }
        self.unsealing = Some(unsealing);
        Ok(())
    }

    /// Compares the digests; the whole file was read.
    pub(crate) fn finish(self) -> Result<(), BundleError> {
        let path = self.file.path.as_str();
        if let Some(unsealing) = self.unsealing {
            check_digest(path, unsealing.hasher.finish(), unsealing.sealed.digest)?;
            return check_digest(&format!("the plaintext of `{path}`"), self.hasher.finish(), self.file.digest);
        }
        check_digest(path, self.hasher.finish(), self.file.digest)
    }

    /// The next bytes as they lie in the bundle: from memory as far as they were verified, from the source behind it.
    fn read_as_it_lies(&mut self, memory: &mut [u8]) -> Result<(), BundleError> {
        let verified = self.file.start.get(in_memory(self.position)..).unwrap_or_default();
        let count = verified.len().min(memory.len());
        let (from_memory, from_source) = memory.split_at_mut(count);
        from_memory.copy_from_slice(&verified[..count]);
        let offset = self.file.offset + self.position + count as u64;
        read_exact_at(self.source, from_source, offset, self.file.path.as_str())?;
        self.position += memory.len() as u64;
        Ok(())
    }

    /// Reads the next chunks, hashes them, decrypts them, and hashes what came out.
    fn unseal(&mut self, unsealing: &mut Unsealing<'_>) -> Result<(), BundleError> {
        let in_file = |defect| BundleError::Encrypted { path: self.file.path.to_string(), defect };
        let rest = unsealing.sealed.length - self.position;
        if rest == 0 {
            return Err(in_file(AgeError::Payload { reason: "it ends early" }));
        }
        let mut buffer = std::mem::take(&mut unsealing.buffer);
        let count = in_memory(rest.min(SEALED_CHUNKS * SEALED_CHUNK_BYTES));
        self.read_as_it_lies(&mut buffer[..count])?;
        unsealing.hasher.update(&buffer[..count]);
        let mut filled = 0;
        for from in (0..count).step_by(in_memory(SEALED_CHUNK_BYTES)) {
            let to = count.min(from + in_memory(SEALED_CHUNK_BYTES));
            let opened = unsealing.opener.open(unsealing.next_chunk, &mut buffer[from..to]);
            let opened =
                opened.map_err(|defect| BundleError::Encrypted { path: self.file.path.to_string(), defect })?;
            let opened = opened.len();
            buffer.copy_within(from..from + opened, filled);
            filled += opened;
            unsealing.next_chunk += 1;
        }
        self.hasher.update(&buffer[..filled]);
        unsealing.buffer = buffer;
        unsealing.ready = 0..filled;
        Ok(())
    }
}

/// A length within one weight file, which is below 8 GiB.
fn in_memory(length: u64) -> usize {
    usize::try_from(length).expect("a weight file is below 8 GiB")
}
