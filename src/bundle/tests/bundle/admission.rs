//! Whether a verified bundle may run here: one rule at a time.

use std::collections::{BTreeMap, BTreeSet};

use ampoule_bundle::statement::{Accelerator, Endpoint, ExpiryPolicy};
use ampoule_bundle::{
    AcceptedVersions, AdmissionNotice, AdmittedBundle, Counter, Curve, Epoch, HostFacts, PolicyViolation, Rule,
    RuntimePolicy, ViolationClass,
};

use crate::sample::{Draft, Signer, draft, open_and_verify, root, time};

/// A sample, a policy, a host and a history that fit each other.
struct Case {
    draft: Draft,
    policy: RuntimePolicy,
    host: HostFacts,
    accepted: AcceptedVersions,
}

impl Case {
    fn fitting() -> Self {
        Self {
            draft: draft(),
            policy: RuntimePolicy::new(
                semver::Version::new(0, 1, 0),
                [Endpoint::ChatCompletions, Endpoint::Completions],
            ),
            host: HostFacts {
                now: time("2026-06-01T00:00:00Z"),
                cpu_features: BTreeSet::from(["avx2".to_owned(), "fma".to_owned()]),
                memory_bytes: 1 << 20,
                accelerators: BTreeSet::new(),
            },
            accepted: AcceptedVersions::none(),
        }
    }

    fn admit(self) -> Result<AdmittedBundle, PolicyViolation> {
        let signer = Signer::new(Curve::P256);
        let verified = open_and_verify(self.draft.seal(&[&signer]), &root(&[&signer], 1)).unwrap();
        verified.admit(&self.policy, &self.host, &self.accepted)
    }
}

/// The case after `change` breaks `rule`.
fn breaks(rule: Rule, change: impl FnOnce(&mut Case)) {
    let mut case = Case::fitting();
    change(&mut case);
    let violation = case.admit().err().unwrap_or_else(|| panic!("{rule} is not broken"));
    assert_eq!(violation.rule, rule, "{violation}");
    let expected = if rule == Rule::Rollback { ViolationClass::State } else { ViolationClass::NotAdmitted };
    assert_eq!(violation.class(), expected);
    assert!(!violation.found.is_empty() && !violation.required.is_empty(), "{violation}");
}

/// The case after `change` is admitted.
fn fits(change: impl FnOnce(&mut Case)) -> AdmittedBundle {
    let mut case = Case::fitting();
    change(&mut case);
    case.admit().unwrap_or_else(|violation| panic!("{violation}"))
}

#[test]
fn a_fitting_bundle_is_admitted_and_carries_its_contract() {
    let admitted = fits(|_| ());
    assert!(admitted.notices().is_empty());
    assert_eq!(admitted.release().requires.endpoints, BTreeSet::from([Endpoint::ChatCompletions]));
    assert_eq!(admitted.file("config.json"), Some(&br#"{"model_type":"llama"}"#[..]));
    assert_eq!(admitted.file("absent"), None);
    assert_eq!(admitted.files().count(), 3);
}

#[test]
fn the_runtime_must_fit() {
    let version = |major, minor| semver::Version::new(major, minor, 0);
    breaks(Rule::RuntimeVersion, |case| case.policy.runtime_version = version(0, 0));
    breaks(Rule::RuntimeVersion, |case| case.policy.runtime_version = version(1, 0));
    fits(|case| case.policy.runtime_version = version(0, 99));
    // Build metadata is not part of a version's place in the order.
    fits(|case| case.draft.release.requires.runtime.min = "0.1.0+build.7".parse().unwrap());
    breaks(Rule::RuntimeVersion, |case| case.policy.runtime_version = "1.0.0+a".parse().unwrap());
    breaks(Rule::RuntimeVersion, |case| {
        case.policy.runtime_version = version(1, 0);
        case.draft.release.requires.runtime.below = Some("1.0.0+a".parse().unwrap());
    });
    let feature = |name: &str| BTreeSet::from([name.to_owned()]);
    breaks(Rule::RuntimeFeatures, |case| case.draft.release.requires.runtime.features = feature("adapters"));
    fits(|case| {
        case.draft.release.requires.runtime.features = feature("adapters");
        case.policy.features = feature("adapters");
    });
    breaks(Rule::Endpoints, |case| case.policy.endpoints = BTreeSet::from([Endpoint::Embeddings]));
}

#[test]
fn the_host_must_fit() {
    breaks(Rule::CpuFeatures, |case| case.host.cpu_features = BTreeSet::new());
    breaks(Rule::Memory, |case| case.host.memory_bytes -= 1);
    breaks(Rule::Accelerator, |case| case.draft.release.requires.accelerator = Some(Accelerator::Cuda));
    fits(|case| {
        case.draft.release.requires.accelerator = Some(Accelerator::Cuda);
        case.host.accelerators = BTreeSet::from([Accelerator::Cuda]);
    });
}

#[test]
fn the_site_must_agree() {
    let name = || "sample".parse().unwrap();
    breaks(Rule::Channel, |case| case.policy.channels = Some(BTreeSet::from(["beta".parse().unwrap()])));
    fits(|case| case.policy.channels = Some(BTreeSet::from(["stable".parse().unwrap()])));
    breaks(Rule::MinimumVersion, |case| {
        case.policy.minimum_versions = BTreeMap::from([(name(), "1.2.4".parse().unwrap())]);
    });
    fits(|case| case.policy.minimum_versions = BTreeMap::from([(name(), "1.2.3".parse().unwrap())]));
    fits(|case| case.policy.minimum_versions = BTreeMap::from([(name(), "1.2.3+rebuilt".parse().unwrap())]));
}

#[test]
fn the_trust_must_be_new_enough() {
    breaks(Rule::TrustRootVersion, |case| case.draft.release.trust_root_version = 2);
    breaks(Rule::RevocationVersion, |case| case.draft.release.revocation_min = 1);
    fits(|case| {
        case.draft.release.revocation_min = 1;
        case.policy.revocation_version = 1;
    });
    breaks(Rule::TrustRootExpiry, |case| {
        case.draft.release.expires = None;
        case.host.now = time("2036-01-01T00:00:00Z");
    });
}

#[test]
fn c16_expired_bundles_are_refused_as_their_policy_says() {
    breaks(Rule::Expiry, |case| case.host.now = time("2027-01-01T00:00:00Z"));
    fits(|case| case.host.now = time("2026-12-31T23:59:59Z"));
    breaks(Rule::Expiry, |case| {
        case.draft.release.expiry_policy = ExpiryPolicy::ServeUntilRestart;
        case.host.now = time("2027-01-01T00:00:00Z");
    });
    let admitted = fits(|case| {
        case.draft.release.expiry_policy = ExpiryPolicy::Warn;
        case.host.now = time("2027-01-01T00:00:00Z");
    });
    assert_eq!(admitted.notices(), [AdmissionNotice::Expired { expired: time("2027-01-01T00:00:00Z") }]);
    breaks(Rule::NotBefore, |case| case.draft.release.not_before = Some(time("2026-06-01T00:00:01Z")));
    fits(|case| case.draft.release.not_before = Some(time("2026-06-01T00:00:00Z")));
}

#[test]
fn c18_time_never_lies_before_the_statement() {
    // A clock of 1970 is raised to the statement's own time, so that an expiry before it counts.
    breaks(Rule::Expiry, |case| {
        case.host.now = time("1970-01-01T00:00:00Z");
        case.draft.release.expires = Some(time("2026-01-01T00:00:00Z"));
    });
    fits(|case| case.host.now = time("1970-01-01T00:00:00Z"));
}

#[test]
fn c16_counters_and_epochs_never_go_back() {
    let accepted = |case: &mut Case, epoch, counter| {
        case.accepted.accept(&"sample".parse().unwrap(), Epoch(epoch), Counter(counter));
    };
    breaks(Rule::Rollback, |case| accepted(case, 1, 8));
    breaks(Rule::Rollback, |case| accepted(case, 2, 0));
    breaks(Rule::Rollback, |case| {
        accepted(case, 1, 9);
        accepted(case, 1, 3);
    });
    fits(|case| accepted(case, 1, 7));
    fits(|case| accepted(case, 0, 1 << 50));
    fits(|case| case.accepted.accept(&"other".parse().unwrap(), Epoch(9), Counter(9)));
}

#[test]
fn c17_a_new_epoch_recovers_from_a_counter_at_its_end() {
    let accepted = |case: &mut Case| case.accepted.accept(&"sample".parse().unwrap(), Epoch(1), Counter((1 << 53) - 1));
    breaks(Rule::Rollback, accepted);
    fits(|case| {
        accepted(case);
        case.draft.release.epoch = Epoch(2);
        case.draft.release.counter = Counter(0);
    });
}
