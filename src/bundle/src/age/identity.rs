//! Who may open an age file: recipients, which are public, and the secrets of identities, which stay where the caller
//! keeps them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{bech32, derive};
use crate::digest::shorten;
use crate::error::BundleError;

const RECIPIENT_PREFIX: &str = "age";
const SECRET_PREFIX: &str = "age-secret-key-";

/// The length in bytes of an identity's secret.
pub const SECRET_BYTES: usize = 32;

/// Somebody to whom layers can be encrypted, written `age1…`. In order of the text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient(pub(super) [u8; 32]);

impl Recipient {
    /// The recipient that an identity with this secret is.
    #[must_use]
    pub fn of_secret(secret: &[u8; SECRET_BYTES]) -> Self {
        Self(derive::public_key(secret))
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&bech32::encode(RECIPIENT_PREFIX, &self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Recipient {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, BundleError> {
        let refuse = |reason| BundleError::InvalidText { kind: "age recipient", found: shorten(text), reason };
        // A secret that was named by mistake must not be repeated in a message.
        if text.get(..SECRET_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(SECRET_PREFIX)) {
            let (found, reason) = ("AGE-SECRET-KEY-1…".to_owned(), "it is a secret: name the age1… beside it");
            return Err(BundleError::InvalidText { kind: "age recipient", found, reason });
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse("it must be in lower case"));
        }
        let mut bytes = [0; 32];
        bech32::decode(RECIPIENT_PREFIX, text.as_bytes(), &mut bytes)
            .ok_or_else(|| refuse("it must be the `age1…` of an X25519 key, as `age-keygen` prints it"))?;
        Ok(Self(bytes))
    }
}

impl Serialize for Recipient {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Recipient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a file of identities cannot be used. No variant repeats any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It holds no identity.
    #[error("it holds no identity: a line AGE-SECRET-KEY-1…, as `age-keygen` writes it, must stand in it")]
    Empty,
    /// A line is neither empty, nor a comment, nor an identity.
    #[error("line {line} is no X25519 identity (AGE-SECRET-KEY-1…), no comment (#…), and not empty")]
    Line {
        /// The line, counted from 1.
        line: usize,
    },
    /// There are more identities than there is room for.
    #[error("it holds more than {limit} identities")]
    TooMany {
        /// How many there is room for.
        limit: usize,
    },
}

/// Reads the identities in `text`, a file as `age-keygen` writes it, into `secrets`, and says how many there are. Neither
/// is copied: the caller keeps both in memory of his choice.
///
/// # Errors
/// [`IdentityError`]; `secrets` may hold some of them then.
pub fn read_identities(text: &[u8], secrets: &mut [[u8; SECRET_BYTES]]) -> Result<usize, IdentityError> {
    let limit = secrets.len();
    let mut count = 0;
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line[0] == b'#' {
            continue;
        }
        let secret = secrets.get_mut(count).ok_or(IdentityError::TooMany { limit })?;
        let upper = line.iter().all(|byte| !byte.is_ascii_lowercase());
        let read = upper.then(|| bech32::decode(SECRET_PREFIX, line, secret)).flatten();
        read.ok_or(IdentityError::Line { line: index + 1 })?;
        count += 1;
    }
    if count == 0 { Err(IdentityError::Empty) } else { Ok(count) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `age-keygen -y` 1.1.1 prints this recipient for this identity.
    const SECRET: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

    #[test]
    fn an_identity_and_its_recipient_are_those_of_age_keygen() {
        let mut secrets = [[0; 32]; 2];
        let text = format!("# created: 2026-01-01\n# public key: {RECIPIENT}\r\n\n{SECRET}\r\n");
        assert_eq!(read_identities(text.as_bytes(), &mut secrets), Ok(1));
        assert_eq!(secrets[0], [0x42; 32]);
        let recipient = Recipient::of_secret(&secrets[0]);
        assert_eq!(recipient.to_string(), RECIPIENT);
        assert_eq!(RECIPIENT.parse::<Recipient>().ok(), Some(recipient));
    }

    #[test]
    fn what_is_no_identity_is_refused_by_its_line_and_never_repeated() {
        let mut secrets = [[0; 32]; 1];
        let mut refused = |text: &str| read_identities(text.as_bytes(), &mut secrets).err();
        assert_eq!(refused("# nothing\n"), Some(IdentityError::Empty));
        assert_eq!(refused(&format!("\n{}\n", SECRET.to_lowercase())), Some(IdentityError::Line { line: 2 }));
        assert_eq!(refused(&SECRET.replace("1GFP", "1GFQ")), Some(IdentityError::Line { line: 1 }));
        assert_eq!(refused(&SECRET[..SECRET.len() - 1]), Some(IdentityError::Line { line: 1 }));
        assert_eq!(refused("AGE-PLUGIN-X-1"), Some(IdentityError::Line { line: 1 }));
        assert_eq!(refused(&format!("{SECRET}\n{SECRET}")), Some(IdentityError::TooMany { limit: 1 }));
    }

    #[test]
    fn a_recipient_has_one_spelling_and_a_secret_is_not_repeated() {
        let upper = RECIPIENT.to_uppercase();
        let changed = RECIPIENT.replace("age1z", "age1q");
        for text in ["", "age1", upper.as_str(), changed.as_str(), &RECIPIENT[..RECIPIENT.len() - 1]] {
            assert!(text.parse::<Recipient>().is_err(), "{text}");
        }
        let message = SECRET.parse::<Recipient>().expect_err("a secret").to_string();
        assert!(message.contains("secret") && !message.contains("GFPYYS"), "{message}");
    }
}
