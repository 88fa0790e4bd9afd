//! SHA-256 digests, the names of everything in a bundle.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::BundleError;

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 32 raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lower-case hex digits, without the `sha256:` prefix.
    #[must_use]
    pub fn to_hex(&self) -> String {
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).expect("64 digits hold 32 bytes");
        String::from_utf8_lossy(&digits).into_owned()
    }

    /// Parses 64 lower-case hex digits without a prefix.
    ///
    /// # Errors
    /// [`BundleError::InvalidText`] for any other text.
    pub fn from_hex(text: &str) -> Result<Self, BundleError> {
        parse_hex(text).map(Self).ok_or_else(|| BundleError::InvalidText {
            kind: "SHA-256 in hex",
            found: shorten(text),
            reason: "it must be 64 lower-case hex digits",
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, BundleError> {
        text.strip_prefix("sha256:").and_then(parse_hex).map(Self).ok_or_else(|| BundleError::InvalidText {
            kind: "digest",
            found: shorten(text),
            reason: "it must be `sha256:` and 64 lower-case hex digits",
        })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Serialises a [`Digest`] as bare hex, as in-toto statements write it.
pub(crate) mod bare_hex {
    use super::Digest;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&digest.to_hex())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        Digest::from_hex(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// SHA-256 over bytes that arrive in pieces.
#[derive(Clone)]
pub struct Hasher(ring::digest::Context);

impl Hasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes added.
    #[must_use]
    pub fn finish(self) -> Digest {
        let output = self.0.finish();
        Digest(output.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Exactly 64 lower-case hex digits; upper case is refused so that one digest has one spelling.
pub(crate) fn parse_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// At most 80 characters of an untrusted text, for messages.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        None => printable(text),
        Some((end, _)) => printable(&text[..end]) + "…",
    }
}

/// The text with its unprintable characters escaped. Messages end on a terminal, which would obey some of them.
pub(crate) fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => printable.push(character),
            _ => printable.extend(character.escape_debug()),
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_value_agree() {
        let digest = Digest::of(b"{}");
        assert_eq!(digest.to_string(), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(digest.to_string().parse::<Digest>().expect("own text"), digest);
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped_in_messages() {
        assert_eq!(shorten("\u{1b}[2J\u{7}a\nb\u{9b}\u{202e}c"), r"\u{1b}[2J\u{7}a\nb\u{9b}\u{202e}c");
        assert_eq!(shorten(r#"ä 'é' "\" 漢"#), r#"ä 'é' "\" 漢"#);
        assert_eq!(shorten(&"é".repeat(80)), "é".repeat(80));
        assert_eq!(shorten(&"é".repeat(81)), "é".repeat(80) + "…");
    }

    #[test]
    fn c01_a_digest_has_one_spelling() {
        let upper = Digest::of(b"{}").to_string().to_uppercase();
        for text in ["", "sha256:", "sha256:../x", "sha256:../../etc/passwd", "sha512:00", upper.as_str()] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        assert!("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a".parse::<Digest>().is_err());
    }
}
