//! Points in time, as signed documents write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::shorten;
use crate::error::BundleError;

/// A point in time in whole seconds, written `2026-11-23T18:00:00Z` (RFC 3339, UTC) and in no other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The second that `time` lies in.
    #[must_use]
    pub fn new(time: jiff::Timestamp) -> Self {
        let seconds = time.as_second();
        Self(jiff::Timestamp::from_second(seconds).expect("a second of a valid time is a valid time"))
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn as_second(&self) -> i64 {
        self.0.as_second()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl FromStr for Timestamp {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, BundleError> {
        let refuse = || BundleError::InvalidText {
            kind: "timestamp",
            found: shorten(text),
            reason: "it must have the form 2026-11-23T18:00:00Z",
        };
        let time: jiff::Timestamp = text.parse().map_err(|_| refuse())?;
        // One spelling for each time: offsets, fractions and lower-case letters would give several.
        if text.len() != "2026-11-23T18:00:00Z".len() || time.to_string() != text {
            return Err(refuse());
        }
        Ok(Self(time))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_one_spelling() {
        let text = "2026-11-23T18:00:00Z";
        assert_eq!(text.parse::<Timestamp>().expect("canonical").to_string(), text);
        for other in ["2026-11-23T18:00:00+00:00", "2026-11-23T18:00:00.0Z", "2026-11-23t18:00:00z", "2026-11-23", ""] {
            assert!(other.parse::<Timestamp>().is_err(), "{other}");
        }
    }
}
