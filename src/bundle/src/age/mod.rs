//! Reads and writes age v1 files (C2SP `age.md`), the form of an encrypted layer: X25519 recipients, and a payload of
//! chunks that are sealed one by one.
//!
//! ```text
//! age-encryption.org/v1                     header: one stanza for each recipient, and a MAC over all of them
//! -> X25519 <share>
//! <the file key, wrapped>
//! --- <MAC>
//! nonce (16 bytes)                          payload
//! chunk 0 … chunk n                         65536 bytes and a tag of 16 each; the last is shorter and marked as last
//! ```
//!
//! Only the binary form is read, and only with X25519 identities: a file that opens with a passphrase is refused. The
//! header's MAC is checked before the payload is touched, and no byte of a chunk is given out before its tag was right.
//! The caller has held the file against a signed digest before any of this begins.

mod bech32;
mod derive;
mod envelope;
mod header;
mod identity;
mod payload;

pub use envelope::{Encrypted, Envelope};
pub use identity::{IdentityError, Recipient, SECRET_BYTES, read_identities};
pub use payload::decrypt;

pub(crate) use payload::{CHUNK_BYTES, Cipher, Opener, SEALED_CHUNK_BYTES};

/// Why an age file cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgeError {
    /// A chunk of the payload is not what was sealed, or not in its place, or not the last although it is the end.
    #[error("chunk {index} of the payload was not sealed in this place: it was changed, moved, doubled or cut off")]
    Chunk {
        /// The chunk, counted from 0.
        index: u64,
    },
    /// The header is no age v1 header.
    #[error("the age header cannot be read: {reason}")]
    Header {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The header is not the one that was written when the file was sealed.
    #[error("the MAC of the age header is wrong: it was changed after the file was sealed")]
    HeaderMac,
    /// No stanza opens with the identity.
    #[error("the age file is not encrypted to this identity")]
    NoMatch,
    /// The system gave no random bytes to encrypt with.
    #[error("the system gave no random bytes")]
    NoRandomness,
    /// The file is sealed with a passphrase.
    #[error("the age file opens with a passphrase; a layer is encrypted to X25519 recipients (age1…) alone")]
    Passphrase,
    /// The payload has a length that no payload has.
    #[error("the payload of the age file has a length that no payload has: {reason}")]
    Payload {
        /// What is wrong with it.
        reason: &'static str,
    },
}
