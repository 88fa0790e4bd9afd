//! The catalogue: which bundles a store holds, which one is active and which was active before.  Pure: it is parsed from
//! bytes and written to bytes; files are the business of `store::writer`.
//!
//! It is canonical JSON and read strictly, so that a file that was cut short or edited by hand is noticed as a whole
//! instead of meaning something by accident.

use std::fmt;
use std::str::FromStr;

use ampoule_bundle::{
    Attestation, BundleError, BundleIdentity, BundleName, BundleVersion, Channel, Counter, Digest, Epoch,
    HighWaterMarks, SealedBundle, Timestamp, json,
};
use serde::{Deserialize, Serialize};

/// The layout of a store that this code reads and writes.
const FORMAT: u32 = 1;

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    active: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trial: Option<TrialState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failed: Option<Digest>,
    bundles: Vec<Record>,
}

/// How far the first start of a bundle has come that took another one's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TrialState {
    /// No server has begun to load it.
    Pending,
    /// A server has begun to load it, and has not said yet that it became ready.
    Started,
}

/// One imported bundle, as it was verified then.  For finding and listing: whatever is served is verified anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The digest of its file's `index.json`, of which there is one for each set of statements about a manifest.
    pub content: Digest,
    /// Its name.
    pub name: BundleName,
    /// Its version.
    pub version: BundleVersion,
    /// Its monotonic number.
    pub counter: Counter,
    /// The key epoch of the counter.
    pub epoch: Epoch,
    /// Its release channel.
    pub channel: Channel,
    /// The digest of its manifest, which names config and layers.
    pub manifest: Digest,
    /// The digests of its attestations.
    pub attestations: Vec<Digest>,
    /// The trust root that it was verified against.
    pub trust_root: Digest,
    /// The length of its canonical file.
    pub bytes: u64,
    /// When it was imported.
    pub imported: Timestamp,
}

/// What a bundle is to its store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The one that is served.
    Active,
    /// The one that was served before, to which `rollback` returns.
    Previous,
    /// Imported and ready to be activated.
    Staged,
    /// Activated once, and given up for the bundle before it because it did not become ready.
    Failed,
}

impl fmt::Display for Standing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Standing::Active => "active",
            Standing::Previous => "previous",
            Standing::Staged => "staged",
            Standing::Failed => "failed",
        })
    }
}

/// A bundle by name, and by what else was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    name: BundleName,
    which: Which,
}

/// Which of the bundles of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    /// The one with the highest counter.
    Newest,
    /// The one with this version, of several the one that was imported last.
    Version(BundleVersion),
    /// The one with this manifest.
    Manifest(Digest),
}

impl fmt::Display for Which {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Newest => Ok(()),
            Which::Version(version) => write!(formatter, "@{version}"),
            Which::Manifest(digest) => write!(formatter, "@{digest}"),
        }
    }
}

impl FromStr for Wanted {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Wanted, BundleError> {
        match text.split_once('@') {
            None => Ok(Wanted { name: text.parse()?, which: Which::Newest }),
            Some((name, digest)) if digest.starts_with("sha256:") => {
                Ok(Wanted { name: name.parse()?, which: Which::Manifest(digest.parse()?) })
            }
            Some((name, version)) => Ok(Wanted { name: name.parse()?, which: Which::Version(version.parse()?) }),
        }
    }
}

impl Wanted {
    /// As it is typed.
    pub(super) fn argument(&self) -> String {
        format!("{}{}", self.name, self.which)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.argument())
    }
}

impl Record {
    /// The record of a bundle that was imported now.
    pub(super) fn of(identity: &BundleIdentity, sealed: &SealedBundle, imported: Timestamp) -> Record {
        let attestations = sealed.unverified_attestations().iter();
        Record {
            content: sealed.content_digest(),
            attestations: attestations.map(Attestation::digest).collect(),
            name: identity.name.clone(),
            version: identity.version.clone(),
            counter: identity.counter,
            epoch: identity.epoch,
            channel: identity.channel.clone(),
            manifest: identity.manifest,
            trust_root: identity.root_digest,
            bytes: sealed.file_bytes(),
            imported,
        }
    }

    /// Name and version, as messages call it.
    pub fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

impl Catalogue {
    /// The catalogue of a new store.
    pub(super) fn empty() -> Catalogue {
        Catalogue { format: FORMAT, active: None, previous: None, trial: None, failed: None, bundles: Vec::new() }
    }

    /// Reads a catalogue, or says in words why `document` is none.
    pub(super) fn parse(document: &str, bytes: &[u8]) -> Result<Catalogue, String> {
        let catalogue: Catalogue = json::parse_canonical(document, bytes).map_err(|error| error.to_string())?;
        if catalogue.format != FORMAT {
            return Err(format!("{document} has format {}, but this ampoule knows format {FORMAT}", catalogue.format));
        }
        let mut named = [catalogue.active, catalogue.previous, catalogue.failed].into_iter().flatten();
        if let Some(dangling) = named.find(|named| catalogue.get(*named).is_none()) {
            return Err(format!("{document} names the bundle {dangling}, which it does not list"));
        }
        if catalogue.trial.is_some() && catalogue.previous.is_none() {
            return Err(format!("{document} has a bundle on trial and none to go back to"));
        }
        Ok(catalogue)
    }

    /// The bytes of its file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        json::canonical(self)
    }

    /// All bundles, in the order of their import, each with its standing.
    pub fn iter(&self) -> impl Iterator<Item = (&Record, Standing)> {
        self.bundles.iter().map(|record| (record, self.standing(record)))
    }

    /// What a bundle is to the store.
    pub fn standing(&self, record: &Record) -> Standing {
        if self.active == Some(record.content) {
            Standing::Active
        } else if self.previous == Some(record.content) {
            Standing::Previous
        } else if self.failed == Some(record.content) {
            Standing::Failed
        } else {
            Standing::Staged
        }
    }

    /// How far the first start of the active bundle has come; `None` once it became ready.
    pub(super) fn trial(&self) -> Option<TrialState> {
        self.trial
    }

    /// The bundle that was given up because it did not become ready, as long as nothing else was activated.
    pub fn failed(&self) -> Option<&Record> {
        self.get(self.failed?)
    }

    /// The bundle that is served.
    pub fn active(&self) -> Option<&Record> {
        self.get(self.active?)
    }

    /// The bundle that was served before.
    pub fn previous(&self) -> Option<&Record> {
        self.get(self.previous?)
    }

    /// The counters below which nothing is accepted any more.  What is active was taken into use, and what was active
    /// before it may come back: so the lower of the two holds, and what is older than both is gone for good.
    pub(super) fn settled(&self) -> HighWaterMarks {
        let mut marks = HighWaterMarks::none();
        let order = |record: &&Record| (record.epoch, record.counter);
        for record in [self.active(), self.previous()].into_iter().flatten() {
            let of_name = [self.active(), self.previous()].into_iter().flatten().filter(|one| one.name == record.name);
            if let Some(lowest) = of_name.min_by_key(order) {
                marks.accept(&lowest.name, lowest.epoch, lowest.counter);
            }
        }
        marks
    }

    /// The bundle of this name (and version) with the highest epoch and counter; of equal ones the last imported.
    pub(super) fn find(&self, wanted: &Wanted) -> Option<&Record> {
        self.bundles
            .iter()
            .filter(|record| record.name == wanted.name)
            .filter(|record| match &wanted.which {
                Which::Newest => true,
                Which::Version(version) => record.version == *version,
                Which::Manifest(digest) => record.manifest == *digest,
            })
            .max_by_key(|record| (record.epoch, record.counter))
    }

    /// Another bundle with the name and the version of this one.
    pub fn twin(&self, record: &Record) -> Option<&Record> {
        let is_twin = |one: &&Record| {
            (&one.name, &one.version) == (&record.name, &record.version) && one.manifest != record.manifest
        };
        self.bundles.iter().find(is_twin)
    }

    /// Names and versions of all bundles.
    pub(super) fn titles(&self) -> Vec<String> {
        self.bundles.iter().map(Record::title).collect()
    }

    /// With one more bundle, or with the newer record of the same file.
    pub(super) fn with(&self, record: Record) -> Catalogue {
        let mut next = self.clone();
        next.bundles.retain(|other| other.content != record.content);
        next.bundles.push(record);
        next
    }

    /// With this bundle active, and the one that was active kept as the previous one, to which a server goes back if the
    /// new one does not become ready.
    pub(super) fn with_active(&self, record: &Record) -> Catalogue {
        if self.active == Some(record.content) {
            return self.clone();
        }
        let trial = self.active.map(|_| TrialState::Pending);
        Catalogue { active: Some(record.content), previous: self.active, trial, failed: None, ..self.clone() }
    }

    /// With the trial of the active bundle come so far; `None` ends it well.
    pub(super) fn with_trial(&self, trial: Option<TrialState>) -> Catalogue {
        Catalogue { trial, ..self.clone() }
    }

    /// With the previous bundle active again, because the active one did not become ready.
    pub(super) fn reverted(&self) -> Catalogue {
        Catalogue { failed: self.active, ..self.rolled_back() }
    }

    /// Without the bundles that are neither active nor previous, but for the `keep` of them that were imported last.
    pub(super) fn pruned(&self, keep: usize) -> Catalogue {
        let is_spare = |record: &&Record| !matches!(self.standing(record), Standing::Active | Standing::Previous);
        let spare: Vec<Digest> = self.bundles.iter().filter(is_spare).map(|record| record.content).collect();
        let gone = &spare[..spare.len().saturating_sub(keep)];
        let mut next = self.clone();
        next.bundles.retain(|record| !gone.contains(&record.content));
        next.failed = self.failed.filter(|failed| !gone.contains(failed));
        next
    }

    /// With the previous bundle active again.  The one that is left is only staged then: going back twice does not end
    /// where it began, and nothing but its name brings it back.
    pub(super) fn rolled_back(&self) -> Catalogue {
        Catalogue { active: self.previous, previous: None, trial: None, failed: None, ..self.clone() }
    }

    fn get(&self, content: Digest) -> Option<&Record> {
        self.bundles.iter().find(|record| record.content == content)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn record(name: &str, version: &str, counter: u64) -> Record {
        let digest = Digest::of(format!("{name} {version} {counter}").as_bytes());
        Record {
            content: digest,
            name: name.parse().unwrap(),
            version: version.parse().unwrap(),
            counter: Counter(counter),
            epoch: Epoch(1),
            channel: "stable".parse().unwrap(),
            manifest: digest,
            attestations: vec![digest],
            trust_root: digest,
            bytes: 1,
            imported: "2026-11-23T12:00:00Z".parse().unwrap(),
        }
    }

    fn standings(catalogue: &Catalogue) -> Vec<String> {
        catalogue.iter().map(|(record, standing)| format!("{} {standing}", record.version)).collect()
    }

    #[test]
    fn a_switch_keeps_the_previous_bundle_and_rollback_goes_back_once() {
        let (one, two, three) = (record("m", "1.0.0", 1), record("m", "2.0.0", 2), record("m", "3.0.0", 3));
        let staged = Catalogue::empty().with(one.clone()).with(two.clone()).with(three.clone());
        assert_eq!(standings(&staged), ["1.0.0 staged", "2.0.0 staged", "3.0.0 staged"]);
        let second = staged.with_active(&one).with_active(&two);
        assert_eq!(standings(&second), ["1.0.0 previous", "2.0.0 active", "3.0.0 staged"]);
        assert_eq!(second.with_active(&two), second, "it is active already, and its own predecessor never");
        let third = second.with_active(&three);
        assert_eq!(standings(&third), ["1.0.0 staged", "2.0.0 previous", "3.0.0 active"]);
        let back = third.rolled_back();
        assert_eq!(standings(&back), ["1.0.0 staged", "2.0.0 active", "3.0.0 staged"]);
        assert!(back.previous().is_none());
    }

    #[test]
    fn c16_what_is_older_than_the_active_and_the_previous_bundle_is_settled() {
        let (one, two, three) = (record("m", "1.0.0", 1), record("m", "2.0.0", 2), record("m", "3.0.0", 3));
        let other = record("n", "1.0.0", 9);
        let all = [&one, &two, &three, &other];
        let staged = all.into_iter().fold(Catalogue::empty(), |catalogue, record| catalogue.with(record.clone()));
        let check = |catalogue: &Catalogue, expected: &[(&str, u64)]| {
            let marks = catalogue.settled();
            let found: Vec<_> = marks.counters().map(|(name, _, counter)| (name.to_string(), counter.0)).collect();
            let expected: Vec<_> = expected.iter().map(|(name, counter)| ((*name).to_owned(), *counter)).collect();
            assert_eq!(found, expected, "{:?}", standings(catalogue));
        };
        check(&staged, &[]);
        let first = staged.with_active(&one);
        check(&first, &[("m", 1)]);
        check(&first.with_active(&two), &[("m", 1)]);
        let third = first.with_active(&two).with_active(&three);
        check(&third, &[("m", 2)]);
        check(&third.rolled_back(), &[("m", 2)]);
        check(&third.with_active(&other), &[("m", 3), ("n", 9)]);
    }

    #[test]
    fn only_a_bundle_that_took_the_place_of_another_is_on_trial() {
        let (one, two) = (record("m", "1.0.0", 1), record("m", "2.0.0", 2));
        let first = Catalogue::empty().with(one.clone()).with(two.clone()).with_active(&one);
        assert_eq!(first.trial(), None, "there is nothing to go back to");
        let second = first.with_active(&two);
        assert_eq!(second.trial(), Some(TrialState::Pending));
        let started = second.with_trial(Some(TrialState::Started));
        assert_eq!(started.with_active(&two), started, "activating it again forgets no start");
        let reverted = started.reverted();
        assert_eq!(
            (standings(&reverted), reverted.trial()),
            (vec!["1.0.0 active".into(), "2.0.0 failed".into()], None)
        );
        assert_eq!(standings(&reverted.with_active(&two)), ["1.0.0 previous", "2.0.0 active"]);
        assert_eq!(started.rolled_back().trial(), None);
    }

    #[test]
    fn pruning_keeps_what_is_served_what_was_and_the_newest_others() {
        let versions: Vec<Record> = (1..=5).map(|number| record("m", &format!("{number}.0.0"), number)).collect();
        let all = versions.iter().cloned().fold(Catalogue::empty(), |catalogue, record| catalogue.with(record));
        let served = all.with_active(&versions[0]).with_active(&versions[2]);
        assert_eq!(standings(&served.pruned(9)), standings(&served));
        assert_eq!(standings(&served.pruned(1)), ["1.0.0 previous", "3.0.0 active", "5.0.0 staged"]);
        assert_eq!(standings(&served.pruned(0)), ["1.0.0 previous", "3.0.0 active"]);
        let failed = served.with_trial(Some(TrialState::Started)).reverted().pruned(0);
        assert_eq!(standings(&failed), ["1.0.0 active"]);
        assert!(Catalogue::parse("catalogue.json", &failed.to_bytes()).is_ok(), "it names nothing that went");
    }

    #[test]
    fn a_name_means_its_highest_counter_and_a_version_only_itself() {
        let catalogue = Catalogue::empty()
            .with(record("m", "2.0.0", 2))
            .with(record("m", "1.0.0", 1))
            .with(record("n", "9.0.0", 9));
        let check = |wanted: &str, expected: Option<&str>| {
            let found = catalogue.find(&wanted.parse().unwrap()).map(|record| record.version.to_string());
            assert_eq!(found.as_deref(), expected, "{wanted}");
        };
        check("m", Some("2.0.0"));
        check("m@1.0.0", Some("1.0.0"));
        check("m@3.0.0", None);
        check("o", None);
        assert!("m@latest".parse::<Wanted>().is_err() && "M".parse::<Wanted>().is_err());
    }

    #[test]
    fn a_catalogue_is_read_whole_or_not_at_all() {
        let catalogue = Catalogue::empty().with(record("m", "1.0.0", 1)).with_active(&record("m", "1.0.0", 1));
        let bytes = catalogue.to_bytes();
        assert_eq!(Catalogue::parse("catalogue.json", &bytes).unwrap(), catalogue);
        for length in 0..bytes.len() {
            assert!(Catalogue::parse("catalogue.json", &bytes[..length]).is_err(), "cut after {length} bytes");
        }
        let text = String::from_utf8(bytes).unwrap();
        let check = |from: &str, to: &str, reason: &str| {
            let refusal = Catalogue::parse("catalogue.json", text.replace(from, to).as_bytes()).unwrap_err();
            assert!(refusal.contains(reason), "{refusal}");
        };
        check("\"format\":1", "\"format\":2", "this ampoule knows format 1");
        check("\"bytes\":1,", "\"bytes\":1, ", "canonical");
        check("\"format\":1", "\"format\":1,\"trial\":\"pending\"", "none to go back to");
        check("{\"active\":\"sha256:", "{\"active\":\"sha256:00", "");
        let other = Digest::of(b"other").to_string();
        check(
            &format!("\"active\":\"{}\"", record("m", "1.0.0", 1).content),
            &format!("\"active\":\"{other}\""),
            &other,
        );
    }
}
