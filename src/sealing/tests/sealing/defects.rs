//! Every way in which a bundle may be wrong, one at a time.
//!
//! `bundles/fixtures/<defect>/` holds a `.bundle` with exactly one thing wrong and `expected.json`, which says what must
//! come of it; other test suites (the runtime's, the conformance harness) read the same folders. The bundles are made by
//! the functions of `catalogue`, which this module also runs afresh. After a change to the format:
//! `AMPOULE_WRITE_FIXTURES=1 cargo test --release -p ampoule-sealing every_defect_made_afresh`.

mod catalogue;
mod encrypted;

use std::collections::BTreeSet;
use std::path::Path;

use ampoule_bundle::{
    BundleError, Counter, Epoch, ErrorClass, HighWaterMarks, PolicyViolation, SealedBundle, ViolationClass,
};
use serde::{Deserialize, Serialize};

use crate::support::{fixtures, host, policy, root};

/// The contents of an `expected.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expected {
    /// The step that refuses: `open`, `verify`, `admit`, or `weights` (hashing them, as `ampoule verify` does).
    pub(crate) stage: String,
    /// The id of the `BundleError`, or of the rule of a `PolicyViolation`: what `--json` calls `error_id`.
    pub(crate) error: String,
    /// A part of the message.
    pub(crate) message_contains: String,
    /// The exit code of a binary that is given this bundle and `keys/root.json`.
    pub(crate) exit: u8,
    /// A counter of the bundle's name and epoch 1 that was accepted before, where the refusal needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) accepted_counter: Option<u64>,
    /// The age identity that opens the bundle, where it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<String>,
}

/// What came of a bundle: the stage, the error's id, its message, its exit code.
type Outcome = Option<(&'static str, String, String, u8)>;

/// Takes a bundle as far as the runtime does before it loads, and says where that ended.
fn outcome(bytes: Vec<u8>, accepted_counter: Option<u64>) -> Outcome {
    let refused = |stage, error: BundleError| {
        let exit = match error.class() {
            ErrorClass::Unreadable => 10,
            ErrorClass::Signature => 11,
        };
        Some((stage, error.id().to_owned(), error.to_string(), exit))
    };
    let sealed = match SealedBundle::open(bytes) {
        Ok(sealed) => sealed,
        Err(error) => return refused("open", error),
    };
    let verified = match sealed.verify(&root()).and_then(|verified| verified.unlock(&[encrypted::SECRET])) {
        Ok(verified) => verified,
        Err(error) => return refused("verify", error),
    };
    if let Err(error) = verified.check_weights(&|_| ()) {
        return refused("weights", error);
    }
    let mut accepted = HighWaterMarks::none();
    if let Some(counter) = accepted_counter {
        accepted.accept(&"fixture".parse().unwrap(), Epoch(1), Counter(counter));
    }
    let violation: PolicyViolation = verified.admit(&policy(), &host(), &accepted).err()?;
    let exit = match violation.class() {
        ViolationClass::NotAdmitted => 12,
        ViolationClass::State => 13,
    };
    Some(("admit", violation.rule.id(), violation.to_string(), exit))
}

/// Compares what came of a bundle with what must, and says the difference.
fn difference(name: &str, bytes: Vec<u8>, expected: &Expected) -> Option<String> {
    let Some((stage, error, message, exit)) = outcome(bytes, expected.accepted_counter) else {
        return Some(format!("{name} was not refused"));
    };
    let as_expected =
        (stage, error.as_str(), exit) == (expected.stage.as_str(), expected.error.as_str(), expected.exit);
    if as_expected && message.contains(&expected.message_contains) {
        return None;
    }
    Some(format!("{name}: found {stage}, {error}, {exit}, `{message}`; expected {expected:?}"))
}

#[test]
fn every_fixture_is_refused_as_its_expectation_says() {
    let differences = folders().into_iter().filter_map(|name| {
        let folder = fixtures().join(&name);
        let expected = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        difference(&name, std::fs::read(folder.join("defect.bundle")).unwrap(), &expected)
    });
    assert_eq!(differences.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn every_defect_made_afresh_is_refused_the_same_way() {
    assert_eq!(outcome(catalogue::good(), None), None, "what the defects are made from is itself good");
    let mut names = BTreeSet::new();
    let mut differences = Vec::new();
    for (name, make, expected) in catalogue::all() {
        let bytes = make();
        match difference(name, bytes.clone(), &expected) {
            Some(difference) => differences.push(difference),
            None if std::env::var_os("AMPOULE_WRITE_FIXTURES").is_some() => {
                write(&fixtures().join(name), &bytes, &expected);
            }
            None => (),
        }
        assert!(names.insert(name.to_owned()), "{name} is listed twice");
    }
    assert_eq!(differences, Vec::<String>::new());
    assert_eq!(names, folders(), "the catalogue and the folders name the same defects");
}

fn write(folder: &Path, bytes: &[u8], expected: &Expected) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("defect.bundle"), bytes).unwrap();
    let text = serde_json::to_string_pretty(expected).unwrap() + "\n";
    std::fs::write(folder.join("expected.json"), text).unwrap();
}

/// The folders of `bundles/fixtures` that hold a defect.
fn folders() -> BTreeSet<String> {
    let entries = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap());
    let defects = entries.filter(|entry| entry.path().join("expected.json").is_file());
    defects.map(|entry| entry.file_name().into_string().unwrap()).collect()
}
