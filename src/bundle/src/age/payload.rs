//! The payload of an age file: chunks of 64 KiB, each with its own tag, so that any of them can be opened by itself.
//!
//! A chunk's nonce is its place, and whether it is the last: a chunk that was moved, doubled or left out, and a file that
//! was cut at a chunk's edge or went on after its end, do not open.

use std::fmt;

use ring::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce};
use zeroize::Zeroizing;

use super::derive::{self, TAG_BYTES};
use super::header::Header;
use super::{AgeError, SECRET_BYTES};

/// How much plaintext a chunk holds, if it is not the last.
pub(crate) const CHUNK_BYTES: u64 = 64 << 10;
/// A chunk with its tag.
pub(crate) const SEALED_CHUNK_BYTES: u64 = CHUNK_BYTES + TAG_BYTES as u64;
/// The nonce before the first chunk.
pub(super) const PAYLOAD_NONCE_BYTES: usize = 16;

/// Where the payload's chunks lie in a file, and how much they hold. Lengths alone tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Offset of the first chunk.
    pub(crate) start: u64,
    /// How many there are.
    pub(crate) chunks: u64,
    /// How much plaintext they hold.
    pub(crate) plaintext_bytes: u64,
}

impl Extent {
    /// Of a file of `file_bytes` whose header takes `header_bytes`.
    fn of(header_bytes: u64, file_bytes: u64) -> Result<Self, AgeError> {
        let refuse = |reason| AgeError::Payload { reason };
        let start = header_bytes + PAYLOAD_NONCE_BYTES as u64;
        let sealed = file_bytes.checked_sub(start).ok_or_else(|| refuse("its nonce is cut short"))?;
        let chunks = sealed.div_ceil(SEALED_CHUNK_BYTES);
        let last = sealed - chunks.saturating_sub(1) * SEALED_CHUNK_BYTES;
        if last < TAG_BYTES as u64 {
            return Err(refuse("its last chunk has no whole tag"));
        }
        if last == TAG_BYTES as u64 && chunks > 1 {
            return Err(refuse("its last chunk is empty although others come before it"));
        }
        Ok(Self { start, chunks, plaintext_bytes: sealed - chunks * TAG_BYTES as u64 })
    }

    /// The length of the file that holds `plaintext_bytes` behind a header of `header_bytes`.
    pub(super) fn file_bytes(header_bytes: u64, plaintext_bytes: u64) -> u64 {
        let chunks = plaintext_bytes.div_ceil(CHUNK_BYTES).max(1);
        header_bytes + PAYLOAD_NONCE_BYTES as u64 + plaintext_bytes + chunks * TAG_BYTES as u64
    }
}

/// What opens the chunks of one file. The key is wiped when this is dropped.
#[derive(Clone)]
pub(crate) struct Cipher {
    key: Zeroizing<[u8; 32]>,
    pub(crate) extent: Extent,
}

/// Shows no key.
impl fmt::Debug for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cipher").field("extent", &self.extent).finish_non_exhaustive()
    }
}

impl Cipher {
    /// Opens the file of `file_bytes` that begins with `start` (which holds its header and the nonce at least) with an
    /// identity's secret: parses the header, unwraps the file key, checks the MAC.
    pub(crate) fn open(start: &[u8], file_bytes: u64, secret: &[u8; SECRET_BYTES]) -> Result<Self, AgeError> {
        let header = Header::parse(start)?;
        let file_key = header.open(secret)?;
        let extent = Extent::of(header.length as u64, file_bytes)?;
        let nonce = start.get(header.length..header.length + PAYLOAD_NONCE_BYTES);
        let nonce = nonce.and_then(|nonce| nonce.try_into().ok());
        let nonce = nonce.ok_or(AgeError::Payload { reason: "its nonce is cut short" })?;
        Ok(Self { key: derive::payload_key(&file_key, nonce), extent })
    }

    /// What opens single chunks, for one thread.
    pub(crate) fn opener(&self) -> Opener {
        Opener { key: derive::chunk_key(&self.key), chunks: self.extent.chunks }
    }
}

/// Opens single chunks.
pub(crate) struct Opener {
    key: LessSafeKey,
    chunks: u64,
}

impl Opener {
    /// Opens the chunk `index` in place and returns its plaintext, which begins where the chunk does. Nothing of it can
    /// be seen if its tag is wrong.
    pub(crate) fn open<'a>(&self, index: u64, chunk: &'a mut [u8]) -> Result<&'a mut [u8], AgeError> {
        let nonce = nonce(index, index + 1 == self.chunks);
        self.key.open_in_place(nonce, Aad::empty(), chunk).map_err(|_| AgeError::Chunk { index })
    }
}

/// The nonce of the chunk `index`.
pub(super) fn nonce(index: u64, last: bool) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[3..11].copy_from_slice(&index.to_be_bytes());
    bytes[11] = u8::from(last);
    Nonce::assume_unique_for_key(bytes)
}

/// The plaintext of a whole file that is in memory already, in the same memory.
///
/// # Errors
/// [`AgeError`] at the first deviation; nothing of the plaintext is given out then.
pub fn decrypt(mut file: Vec<u8>, secret: &[u8; SECRET_BYTES]) -> Result<Vec<u8>, AgeError> {
    let cipher = Cipher::open(&file, file.len() as u64, secret)?;
    let opener = cipher.opener();
    let start = usize::try_from(cipher.extent.start).expect("it lies within the file");
    let sealed_chunk = usize::try_from(SEALED_CHUNK_BYTES).expect("64 KiB and a little");
    let mut filled = 0;
    for index in 0..cipher.extent.chunks {
        let from = start + usize::try_from(index).expect("it lies within the file") * sealed_chunk;
        let to = file.len().min(from + sealed_chunk);
        let opened = opener.open(index, &mut file[from..to])?.len();
        file.copy_within(from..from + opened, filled);
        filled += opened;
    }
    file.truncate(filled);
    Ok(file)
}
