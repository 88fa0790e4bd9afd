//! Names and numbers that identify a bundle, each a type of its own so that none can stand in for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::shorten;
use crate::error::BundleError;
use crate::limits;

/// A bundle's name: `[a-z0-9]` and then `[a-z0-9._-]`, at most 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleName(String);

/// A release channel, for example `stable`: spelled like a [`BundleName`], at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Channel(String);

/// A bundle's version, semantic versioning 2.0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundleVersion(pub semver::Version);

/// The monotonic number that stops rollback within one epoch; at most 2^53 − 1, so that every JSON reader keeps it exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counter(pub u64);

/// The key epoch that a counter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

/// The path of a file inside a bundle: relative, safe on every file system, at most 1024 bytes.
///
/// Components are `[A-Za-z0-9._-]+`, none is `.` or `..`, and they are joined by `/`. At the top level the names that
/// OpenSSF's client leaves out of a signature (`.git`, `.gitignore`, `.gitattributes`, `.github`, `model.sig`) are
/// refused: a file there would be in the bundle and not in the signed scope.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BundlePath(String);

impl TryFrom<&str> for BundleName {
    type Error = BundleError;

    fn try_from(text: &str) -> Result<Self, BundleError> {
        check_label(text, "bundle name", 128)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<&str> for Channel {
    type Error = BundleError;

    fn try_from(text: &str) -> Result<Self, BundleError> {
        check_label(text, "channel", 64)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<&str> for BundleVersion {
    type Error = BundleError;

    fn try_from(text: &str) -> Result<Self, BundleError> {
        let refuse = |reason| BundleError::InvalidText { kind: "version", found: shorten(text), reason };
        if text.len() > 128 {
            return Err(refuse("it is longer than 128 bytes"));
        }
        let version = semver::Version::parse(text).map_err(|_| refuse("it must be MAJOR.MINOR.PATCH (semver 2.0)"))?;
        Ok(Self(version))
    }
}

impl TryFrom<&str> for BundlePath {
    type Error = BundleError;

    fn try_from(text: &str) -> Result<Self, BundleError> {
        let refuse = |reason| Err(BundleError::InvalidText { kind: "bundle path", found: shorten(text), reason });
        if text.is_empty() || text.len() > limits::MAX_PATH_BYTES {
            return refuse("it must have 1 to 1024 bytes");
        }
        for component in text.split('/') {
            if component.is_empty() {
                return refuse("it must be relative, without empty components");
            }
            if component == "." || component == ".." {
                return refuse("it must not contain `.` or `..`");
            }
            if !component.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
                return refuse("it must consist of A-Z a-z 0-9 . _ - and /");
            }
        }
        let top = text.split('/').next().unwrap_or(text);
        if UNSIGNED_TOP_LEVEL_NAMES.iter().any(|name| name.eq_ignore_ascii_case(top)) {
            return refuse("OpenSSF model signing leaves this name out of the signature");
        }
        Ok(Self(text.to_owned()))
    }
}

impl BundlePath {
    /// The path of the model signing attestation in an encrypted bundle: the one file that is not in its own scope.
    #[must_use]
    pub fn model_signature() -> Self {
        Self(MODEL_SIGNATURE.to_owned())
    }
}

/// Where OpenSSF's client expects the signature of a model's folder.
const MODEL_SIGNATURE: &str = "model.sig";

/// What `model_signing` does not sign at the top level of a model's folder.
const UNSIGNED_TOP_LEVEL_NAMES: [&str; 5] = [".git", ".gitignore", ".gitattributes", ".github", MODEL_SIGNATURE];

fn check_label(text: &str, kind: &'static str, longest: usize) -> Result<(), BundleError> {
    let refuse = |reason| Err(BundleError::InvalidText { kind, found: shorten(text), reason });
    if text.is_empty() || text.len() > longest {
        return refuse("it is empty or too long");
    }
    if !text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
        return refuse("it must consist of a-z 0-9 . _ -");
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return refuse("it must begin with a letter or a digit");
    }
    Ok(())
}

/// Gives a checked text type its reading and writing forms.
macro_rules! text_type {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, formatter)
            }
        }

        impl FromStr for $name {
            type Err = BundleError;

            fn from_str(text: &str) -> Result<Self, BundleError> {
                Self::try_from(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::try_from(String::deserialize(deserializer)?.as_str()).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

text_type!(BundleName, Channel, BundleVersion, BundlePath);

macro_rules! as_str {
    ($($name:ident),*) => {$(
        impl $name {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    )*};
}

as_str!(BundleName, Channel, BundlePath);

impl fmt::Display for Counter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::borrow::Borrow<str> for BundlePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c01_unsafe_paths_are_refused() {
        for path in [
            "",
            "/",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a/.",
            "a\\..\\b",
            "a\0b",
            "a b",
            "ä",
            "C:x",
            ".git",
            ".git/config",
            ".GitHub/x",
            "model.sig",
            ".gitattributes",
        ] {
            assert!(BundlePath::try_from(path).is_err(), "{path:?}");
        }
        assert!(BundlePath::try_from("a".repeat(1025).as_str()).is_err());
    }

    #[test]
    fn ordinary_paths_are_accepted() {
        for path in
            ["config.json", "1_Pooling/config.json", "model-00001-of-00002.safetensors", "..a", "x/.git", "a..b"]
        {
            assert_eq!(BundlePath::try_from(path).expect("ordinary").as_str(), path);
        }
    }

    #[test]
    fn names_and_versions_have_one_spelling() {
        for name in ["", "A", "-a", ".a", "a b", "a/b", "ä"] {
            assert!(BundleName::try_from(name).is_err(), "{name:?}");
        }
        for version in ["", "1", "1.0", "01.0.0", "1.0.0 ", "v1.0.0"] {
            assert!(BundleVersion::try_from(version).is_err(), "{version:?}");
        }
        assert_eq!(BundleVersion::try_from("1.2.3-rc.1+b5").expect("semver").to_string(), "1.2.3-rc.1+b5");
    }
}
