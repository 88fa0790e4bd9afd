//! The chain of records that the state is: each holds the marks as they were from then on, why they changed, and the
//! SHA-256 of the record before it.  Pure: it is parsed from bytes and written to bytes.
//!
//! ```text
//! {"format":1, "head": <digest of the last record>, "records": [
//!    {"sequence":6, "previous": <digest of record 5>, "time":…, "cause":…, "marks":…},
//!    {"sequence":7, "previous": <digest of record 6>, … }]}
//! ```
//!
//! It is canonical JSON and read strictly; every byte of it is under a digest, so that a file that was cut short, edited
//! by hand or hit by a bad sector is noticed as a whole instead of meaning something by accident.

use std::fmt;

use ampoule_bundle::{BundleName, Counter, Digest, Epoch, HighWaterMarks, Timestamp, json};
use serde::{Deserialize, Serialize};

/// The layout that this code reads and writes.
const FORMAT: u32 = 1;
/// How many records are kept: the last weeks of a service, for whoever asks what happened. What is older is in the log.
const KEPT_RECORDS: usize = 64;

/// Some records, the last of which holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    records: Vec<Record>,
}

/// The marks from one moment on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Counted from 0, when the state was made.
    pub sequence: u64,
    /// The digest of the record before; absent in the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// The host's clock when it was written.
    pub time: Timestamp,
    /// What changed the marks.
    pub cause: Cause,
    marks: WrittenMarks,
}

/// What changed the marks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub enum Cause {
    /// The state was made.
    Created {
        /// The user who made it.
        uid: u32,
    },
    /// Something was taken into use, or time went on.
    Raised {
        /// What, for a person.
        by: String,
    },
    /// An operator began anew.
    Reset {
        /// Why, in the operator's words.
        reason: String,
        /// The user who did it.
        uid: u32,
        /// The digest of the file that was there, if one was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lost: Option<Digest>,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created { uid } => write!(formatter, "made by user {uid}"),
            Self::Raised { by } => write!(formatter, "raised by {by}"),
            Self::Reset { reason, uid, lost } => {
                write!(formatter, "reset by user {uid}: {reason}")?;
                match lost {
                    Some(lost) => write!(formatter, " (the file before was {lost})"),
                    None => write!(formatter, " (there was no file before)"),
                }
            }
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    head: Digest,
    records: Vec<Record>,
}

/// The marks as they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct WrittenMarks {
    counters: Vec<WrittenCounter>,
    revocation_list: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<Timestamp>,
    trust_root: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenCounter {
    name: BundleName,
    epoch: Epoch,
    counter: Counter,
}

impl WrittenMarks {
    fn of(marks: &HighWaterMarks) -> Self {
        let counters = marks.counters();
        Self {
            counters: counters
                .map(|(name, epoch, counter)| WrittenCounter { name: name.clone(), epoch, counter })
                .collect(),
            revocation_list: marks.revocation(),
            time: marks.time(),
            trust_root: marks.trust_root(),
        }
    }

    fn read(&self) -> HighWaterMarks {
        let mut marks = HighWaterMarks::none();
        for WrittenCounter { name, epoch, counter } in &self.counters {
            marks.accept(name, *epoch, *counter);
        }
        marks.see_revocation_list(self.revocation_list);
        marks.see_trust_root(self.trust_root);
        if let Some(time) = self.time {
            marks.see_time(time);
        }
        marks
    }
}

impl Record {
    /// The marks that hold from this record on.
    pub fn marks(&self) -> HighWaterMarks {
        self.marks.read()
    }

    fn digest(&self) -> Digest {
        Digest::of(&json::canonical(self))
    }

    /// Why this record cannot follow on `before`.
    fn defect_after(&self, before: &Record) -> Option<&'static str> {
        if before.sequence.checked_add(1) != Some(self.sequence) {
            return Some("does not follow on the one before it");
        }
        if self.previous != Some(before.digest()) {
            return Some("does not name the digest of the one before it");
        }
        let (old, new) = (before.marks(), self.marks());
        let mut raised = old;
        raised.raise(&new);
        let lowers = raised != new && !matches!(self.cause, Cause::Reset { .. });
        lowers.then_some("lowers a mark and is no reset")
    }
}

impl Chain {
    /// A chain that begins with these marks.
    pub fn begin(cause: Cause, time: Timestamp, marks: &HighWaterMarks) -> Chain {
        let marks = WrittenMarks::of(marks);
        Chain { records: vec![Record { sequence: 0, previous: None, time, cause, marks }] }
    }

    /// Reads a chain, or says in words why `document` is none.
    pub fn parse(document: &str, bytes: &[u8]) -> Result<Chain, String> {
        let Document { format, head, records } =
            json::parse_canonical(document, bytes).map_err(|error| error.to_string())?;
        if format != FORMAT {
            return Err(format!("{document} has format {format}, but this ampoule knows format {FORMAT}"));
        }
        let at = |record: &Record, defect: &str| format!("record {} of {document} {defect}", record.sequence);
        let Some(last) = records.last() else { return Err(format!("{document} has no record")) };
        if last.digest() != head {
            return Err(at(last, "does not have the digest that the file names"));
        }
        if let Some(first) = records.first().filter(|first| (first.sequence == 0) != first.previous.is_none()) {
            return Err(at(first, "begins the chain in its middle"));
        }
        if let Some(record) = records.iter().find(|record| WrittenMarks::of(&record.marks()) != record.marks) {
            return Err(at(record, "has marks that are not sorted or not distinct"));
        }
        let pairs = records.iter().zip(records.iter().skip(1));
        match pairs.into_iter().find_map(|(before, after)| Some(at(after, after.defect_after(before)?))) {
            Some(defect) => Err(defect),
            None => Ok(Chain { records }),
        }
    }

    /// The bytes of its file.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::canonical(&Document { format: FORMAT, head: self.last().digest(), records: self.records.clone() })
    }

    /// The records that are kept, oldest first.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The record that holds.
    pub fn last(&self) -> &Record {
        self.records.last().expect("a chain has a record from its beginning on")
    }

    /// With one more record, which follows on the last.
    pub fn with(&self, cause: Cause, time: Timestamp, marks: &HighWaterMarks) -> Chain {
        let last = self.last();
        let record = Record {
            sequence: last.sequence + 1,
            previous: Some(last.digest()),
            time,
            cause,
            marks: WrittenMarks::of(marks),
        };
        let first_kept = (self.records.len() + 1).saturating_sub(KEPT_RECORDS);
        let records = self.records.iter().skip(first_kept).cloned().chain([record]).collect();
        Chain { records }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn marks(counter: u64) -> HighWaterMarks {
        let mut marks = HighWaterMarks::none();
        marks.accept(&"model".parse().unwrap(), Epoch(1), Counter(counter));
        marks.see_time(time("2026-11-26T00:00:00Z"));
        marks
    }

    fn raised(by: &str) -> Cause {
        Cause::Raised { by: by.to_owned() }
    }

    fn chain(raises: u64) -> Chain {
        let now = time("2026-11-26T00:00:00Z");
        let begun = Chain::begin(Cause::Created { uid: 0 }, now, &HighWaterMarks::none());
        (1..=raises).fold(begun, |chain, counter| chain.with(raised("model 1.0.0"), now, &marks(counter)))
    }

    fn refused(bytes: &[u8]) -> String {
        Chain::parse("high-water.json", bytes).unwrap_err()
    }

    #[test]
    fn a_chain_is_read_as_it_was_written_and_keeps_its_last_records() {
        for raises in [0, 1, 63, 64, 200] {
            let chain = chain(raises);
            assert_eq!(Chain::parse("high-water.json", &chain.to_bytes()).unwrap(), chain);
            assert_eq!(chain.records().len() as u64, (raises + 1).min(64));
            assert_eq!(chain.last().sequence, raises);
        }
    }

    #[test]
    fn c09_every_byte_of_a_chain_counts() {
        let bytes = chain(2).to_bytes();
        for length in 0..bytes.len() {
            assert!(!refused(&bytes[..length]).is_empty(), "cut after {length} bytes");
        }
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(!refused(&changed).is_empty(), "changed at {place}");
        }
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [
            ("{\"format\":1", "{\"format\":1,\"format\":1"),
            ("{\"format\":1", "{ \"format\":1"),
            ("{\"format\":1", "\u{feff}{\"format\":1"),
            ("\"sequence\":0", "\"sequence\":-0"),
            ("\"sequence\":0", "\"sequence\":0e0"),
            ("\"sequence\":0", "\"sequence\":0,\"more\":0"),
            ("model", "mo\\u0000del"),
        ] {
            assert!(text.contains(from));
            assert!(!refused(text.replacen(from, to, 1).as_bytes()).is_empty(), "{to}");
        }
        assert!(!refused(format!("{text}\n").as_bytes()).is_empty());
    }

    #[test]
    fn a_record_that_does_not_follow_on_the_one_before_it_is_refused() {
        let check = |change: fn(&mut Chain), words: &str| {
            let mut chain = chain(2);
            change(&mut chain);
            let refusal = refused(&chain.to_bytes());
            assert!(refusal.contains(words), "{refusal}");
        };
        check(|chain| chain.records[2].sequence = 7, "record 7 of high-water.json does not follow on");
        check(|chain| chain.records[1].time = time("2020-01-01T00:00:00Z"), "does not name the digest");
        check(|chain| drop(chain.records.remove(1)), "record 2 of high-water.json does not follow on");
        check(|chain| chain.records[0].previous = Some(Digest::of(b"")), "begins the chain in its middle");
    }

    #[test]
    fn c16_no_record_lowers_a_mark_unless_it_is_a_reset() {
        let now = time("2026-11-26T00:00:00Z");
        let lowered = chain(3).with(raised("nobody"), now, &marks(1));
        assert!(refused(&lowered.to_bytes()).contains("lowers a mark and is no reset"));
        let reset = Cause::Reset { reason: "a test".to_owned(), uid: 0, lost: None };
        let begun_anew = chain(3).with(reset, now, &HighWaterMarks::none());
        Chain::parse("high-water.json", &begun_anew.to_bytes()).unwrap();
    }
}
