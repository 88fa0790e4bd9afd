//! Encrypts to recipients: an age file that is made while it is read, so that no plaintext and no second copy of a large
//! layer lies anywhere.
//!
//! The file key, the shares and the nonce are drawn once; what is read twice is the same bytes twice.

use std::io;

use ring::aead::Aad;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::derive::{self, FileKey};
use super::header::{self, Header};
use super::identity::Recipient;
use super::payload::{CHUNK_BYTES, Extent, PAYLOAD_NONCE_BYTES, SEALED_CHUNK_BYTES, nonce};
use super::{AgeError, SECRET_BYTES};
use crate::limits::MAX_AGE_RECIPIENTS;
use crate::source::{Source, read_exact};

/// The header of one file and what its chunks are sealed with.
pub struct Envelope {
    /// The header and the nonce after it.
    start: Vec<u8>,
    key: Zeroizing<[u8; 32]>,
}

impl Envelope {
    /// Draws the keys of a file that these recipients can open.
    ///
    /// # Errors
    /// [`AgeError::NoRandomness`], and [`AgeError::Header`] without a recipient, with more than 64, or for one that is no usable
    /// key.
    pub fn new(recipients: &[Recipient]) -> Result<Self, AgeError> {
        let file_key = FileKey::new(draw()?);
        let nonce = draw::<PAYLOAD_NONCE_BYTES>()?;
        let mut start = header_for(recipients, &file_key)?;
        start.extend_from_slice(&nonce);
        Ok(Self { start, key: derive::payload_key(&file_key, &nonce) })
    }

    /// The header of the file that begins with `start`, which an identity with this secret can open, written anew for
    /// other recipients, and the length of the old one. The payload after it stays as it is.
    ///
    /// # Errors
    /// [`AgeError`] when the identity does not open it, and as [`Envelope::new`].
    pub fn rewrap(
        start: &[u8],
        secret: &[u8; SECRET_BYTES],
        recipients: &[Recipient],
    ) -> Result<(Vec<u8>, usize), AgeError> {
        let header = Header::parse(start)?;
        Ok((header_for(recipients, &header.open(secret)?)?, header.length))
    }

    /// The encrypted file of what `plaintext` holds.
    pub fn around<S: Source>(&self, plaintext: S) -> Encrypted<'_, S> {
        Encrypted { envelope: self, plaintext }
    }

    /// Encrypts all that `plaintext` holds, once and in order: `each` is handed the header, and then every chunk as it was
    /// and as it is in the file.
    ///
    /// # Errors
    /// What reading reports.
    pub fn each_chunk(&self, plaintext: &dyn Source, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        each(&[], &self.start);
        let all = plaintext.length()?;
        let chunks = all.div_ceil(CHUNK_BYTES).max(1);
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        for index in 0..chunks {
            self.read_chunk(plaintext, all, index, &mut plain)?;
            sealed.clone_from(&plain);
            self.seal_chunk(index, index + 1 == chunks, &mut sealed);
            each(&plain, &sealed);
        }
        Ok(())
    }

    fn read_chunk(&self, plaintext: &dyn Source, all: u64, index: u64, chunk: &mut Vec<u8>) -> io::Result<()> {
        let from = index * CHUNK_BYTES;
        chunk.resize(usize::try_from(CHUNK_BYTES.min(all - from)).expect("64 KiB at most"), 0);
        read_exact(plaintext, chunk, from)
    }

    fn seal_chunk(&self, index: u64, last: bool, chunk: &mut Vec<u8>) {
        let key = derive::chunk_key(&self.key);
        let sealed = key.seal_in_place_append_tag(nonce(index, last), Aad::empty(), chunk);
        sealed.expect("a chunk is far below the cipher's limit");
    }

    /// The length in bytes of the file that holds `plaintext_bytes`.
    #[must_use]
    pub fn file_bytes(&self, plaintext_bytes: u64) -> u64 {
        Extent::file_bytes((self.start.len() - PAYLOAD_NONCE_BYTES) as u64, plaintext_bytes)
    }

    /// How much of the file, from its start, it takes to open the first `plaintext_bytes` of the `all` that it holds.
    #[must_use]
    pub fn prefix_bytes(&self, plaintext_bytes: u64, all: u64) -> u64 {
        let chunks = plaintext_bytes.div_ceil(CHUNK_BYTES).max(1);
        (self.start.len() as u64 + chunks * SEALED_CHUNK_BYTES).min(self.file_bytes(all))
    }
}

fn header_for(recipients: &[Recipient], file_key: &FileKey) -> Result<Vec<u8>, AgeError> {
    if recipients.len() > MAX_AGE_RECIPIENTS {
        return Err(AgeError::Header { reason: "it has more than 64 recipients" });
    }
    if recipients.is_empty() {
        return Err(AgeError::Header { reason: "it has no recipient" });
    }
    let stanza = |recipient: &Recipient| {
        let secret = Zeroizing::new(draw::<SECRET_BYTES>()?);
        let share = derive::public_key(&secret);
        let key = derive::wrapping_key(&secret, &recipient.0, &share, &recipient.0)
            .ok_or(AgeError::Header { reason: "a recipient is a point of low order" })?;
        let mut body = file_key.to_vec();
        key.seal_in_place_append_tag(derive::wrapping_nonce(), Aad::empty(), &mut body)
            .expect("a key is far below the cipher's limit");
        Ok((share, body))
    };
    let stanzas = recipients.iter().map(stanza).collect::<Result<Vec<_>, AgeError>>()?;
    Ok(header::write(&stanzas, file_key))
}

fn draw<const N: usize>() -> Result<[u8; N], AgeError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| AgeError::NoRandomness)?;
    Ok(bytes)
}

/// An age file that is encrypted while it is read. Reading in long strides costs least: each chunk is sealed anew for
/// every read that touches it.
pub struct Encrypted<'a, S> {
    envelope: &'a Envelope,
    plaintext: S,
}

impl<S: Source> Source for Encrypted<'_, S> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.envelope.file_bytes(self.plaintext.length()?))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let start = &self.envelope.start;
        if offset < start.len() as u64 {
            return start.as_slice().read_at(buffer, offset);
        }
        let (all, payload) = (self.plaintext.length()?, offset - start.len() as u64);
        let last = all.div_ceil(CHUNK_BYTES).max(1) - 1;
        let (mut filled, mut position) = (0, payload);
        let mut chunk = Vec::new();
        while filled < buffer.len() && position / SEALED_CHUNK_BYTES <= last {
            let index = position / SEALED_CHUNK_BYTES;
            self.envelope.read_chunk(&self.plaintext, all, index, &mut chunk)?;
            self.envelope.seal_chunk(index, index == last, &mut chunk);
            let within = usize::try_from(position % SEALED_CHUNK_BYTES).expect("within a chunk");
            let Some(rest) = chunk.get(within..).filter(|rest| !rest.is_empty()) else { break };
            let count = rest.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            position += count as u64;
        }
        Ok(filled)
    }
}
