//! Whether a verified bundle may run here: one rule at a time.

use std::collections::{BTreeMap, BTreeSet};

use ampoule_bundle::statement::{Accelerator, AdapterBinding, Endpoint, ExpiryPolicy};
use ampoule_bundle::trust::{RevocationPart, TrustDocument};
use ampoule_bundle::{
    AdmissionNotice, AdmittedBundle, Counter, Curve, Digest, Epoch, Footprint, HighWaterMarks, HostFacts, MemoryPart,
    Origin, PolicyViolation, Role, Rule, RuntimePolicy, Verdict, ViolationClass,
};

use crate::sample::{Draft, Signer, draft, open_and_verify, root, root_with, signed, time};

/// A sample, a policy, a host and a history that fit each other.
struct Case {
    draft: Draft,
    policy: RuntimePolicy,
    host: HostFacts,
    marks: HighWaterMarks,
    /// The version of the revocation list that is there.
    revocations: Option<u64>,
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
            marks: HighWaterMarks::none(),
            revocations: None,
        }
    }

    fn admit(self) -> Result<AdmittedBundle, PolicyViolation> {
        let signer = Signer::new(Curve::P256);
        let mut root = root_with(&[(Role::Release, &[&signer], 1), (Role::Revoke, &[&signer], 1)]);
        if let Some(version) = self.revocations {
            let list = RevocationPart::new(version, time("2026-02-01T00:00:00Z"));
            root = root.with_revocations(&signed(&TrustDocument::unsigned(list), &[&signer])).unwrap();
        }
        let verified = open_and_verify(self.draft.seal(&[&signer]), &root).unwrap();
        verified.admit(&self.policy, &self.host, &self.marks)
    }
}

/// The case after `change` breaks `rule`.
fn breaks(rule: Rule, change: impl FnOnce(&mut Case)) {
    let mut case = Case::fitting();
    change(&mut case);
    let violation = case.admit().err().unwrap_or_else(|| panic!("{rule} is not broken"));
    assert_eq!(violation.rule, rule, "{violation}");
    let older = [Rule::Rollback, Rule::TrustRootRollback, Rule::RevocationRollback].contains(&rule);
    assert_eq!(violation.class(), if older { ViolationClass::State } else { ViolationClass::NotAdmitted });
    // A refusal is of use when it says what, against what, where from, and what to do.
    let told = violation.to_string();
    for part in [rule.name(), &violation.found.to_string(), &violation.required.to_string(), rule.remedy()] {
        assert!(!part.is_empty() && told.contains(part), "{part} is not in {told}");
    }
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
    assert_eq!((admitted.identity().name.as_str(), admitted.identity().counter), ("sample", Counter(7)));
    assert_eq!(admitted.adapter_binding().unwrap().base, admitted.identity().manifest);
    assert_eq!(admitted.weights()[0].path.as_str(), "model.safetensors");
    assert!(!admitted.is_locked());
}

#[test]
fn every_rule_has_a_name_of_its_own_and_a_remedy() {
    let rules = [
        Rule::Encryption,
        Rule::RuntimeVersion,
        Rule::RuntimeFeatures,
        Rule::Endpoints,
        Rule::CpuFeatures,
        Rule::Memory,
        Rule::MemoryFit,
        Rule::Accelerator,
        Rule::Base,
        Rule::Tokenizer,
        Rule::ChatTemplate,
        Rule::Channel,
        Rule::MinimumVersion,
        Rule::TrustRootVersion,
        Rule::TrustRootRollback,
        Rule::TrustRootExpiry,
        Rule::Certificates,
        Rule::Epoch,
        Rule::RevocationVersion,
        Rule::RevocationRollback,
        Rule::MinimumCounter,
        Rule::MinimumRuntime,
        Rule::NotBefore,
        Rule::Clock,
        Rule::Expiry,
        Rule::Rollback,
    ];
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), rules.len());
    for rule in rules {
        assert_eq!(rule.to_string(), rule.name());
        assert!(rule.remedy().contains(' '), "{rule}: what is to be done takes a sentence");
    }
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
    let footprint = |bytes: u64| {
        let part = |what, bytes, lowered_by| MemoryPart { what, bytes, lowered_by };
        Some(Footprint(vec![part("weights", bytes - 5, None), part("cache", 5, Some("limits.token_budget"))]))
    };
    breaks(Rule::MemoryFit, |case| case.policy.footprint = footprint((1 << 20) + 1));
    fits(|case| case.policy.footprint = footprint(1 << 20));
    breaks(Rule::Accelerator, |case| case.draft.release.requires.accelerator = Some(Accelerator::Cuda));
    fits(|case| {
        case.draft.release.requires.accelerator = Some(Accelerator::Cuda);
        case.host.accelerators = BTreeSet::from([Accelerator::Cuda]);
    });
}

#[test]
fn an_adapter_must_have_been_made_for_what_it_is_served_beside() {
    let binding = |base: &str, tokenizer: &str, template: Option<&str>| AdapterBinding {
        base: Digest::of(base.as_bytes()),
        tokenizer: Digest::of(tokenizer.as_bytes()),
        chat_template: template.map(|template| Digest::of(template.as_bytes())),
    };
    let beside = |base: AdapterBinding| {
        move |case: &mut Case| {
            case.draft.release.adapter = Some(binding("base", "tokenizer", Some("template")));
            case.policy.base = Some(base);
        }
    };
    breaks(Rule::Base, beside(binding("other", "tokenizer", Some("template"))));
    breaks(Rule::Tokenizer, beside(binding("base", "other", Some("template"))));
    breaks(Rule::ChatTemplate, beside(binding("base", "tokenizer", Some("other"))));
    breaks(Rule::ChatTemplate, beside(binding("base", "tokenizer", None)));
    fits(beside(binding("base", "tokenizer", Some("template"))));
    // A model of its own is bound to nothing.
    fits(|case| case.policy.base = Some(binding("other", "other", None)));
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
        case.revocations = Some(1);
    });
    breaks(Rule::TrustRootExpiry, |case| {
        case.draft.release.expires = None;
        case.host.now = time("2036-01-01T00:00:00Z");
    });
}

#[test]
fn c16_neither_the_root_nor_the_revocation_list_goes_back() {
    breaks(Rule::TrustRootRollback, |case| case.marks.see_trust_root(2));
    fits(|case| case.marks.see_trust_root(1));
    let lists = |case: &mut Case, seen, present| {
        case.marks.see_revocation_list(seen);
        case.revocations = present;
    };
    breaks(Rule::RevocationRollback, |case| lists(case, 3, Some(2)));
    breaks(Rule::RevocationRollback, |case| lists(case, 1, None));
    fits(|case| lists(case, 3, Some(3)));
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
fn c18_an_expired_bundle_stays_expired_whatever_the_clock_says_later() {
    let seen = |case: &mut Case, clock: &str| {
        case.draft.release.issued_at = time("2020-01-01T00:00:00Z");
        case.marks.see_time(time("2027-01-01T00:00:00Z"));
        case.host.now = time(clock);
    };
    // 1970 and then 2020, after 2027 was seen: the bundle expired with 2026.
    for clock in ["1970-01-01T00:00:00Z", "2020-06-01T00:00:00Z", "2026-12-31T23:59:59Z"] {
        breaks(Rule::Expiry, |case| seen(case, clock));
    }
    let admitted = fits(|case| {
        seen(case, "2020-06-01T00:00:00Z");
        case.draft.release.expires = Some(time("2028-01-01T00:00:00Z"));
    });
    assert_eq!(admitted.marks().time(), Some(time("2027-01-01T00:00:00Z")), "the mark is not lowered to the clock");
}

#[test]
fn c17_who_dates_ahead_does_not_make_the_time_run_ahead() {
    let dated = |case: &mut Case, issued: &str| {
        case.policy.made = Some(time("2026-05-01T00:00:00Z"));
        case.host.now = time("2026-06-01T00:00:00Z");
        case.draft.release.issued_at = time(issued);
    };
    fits(|case| dated(case, "2026-06-02T00:00:00Z"));
    breaks(Rule::DatedAhead, |case| dated(case, "2026-06-02T00:00:01Z"));
    breaks(Rule::DatedAhead, |case| dated(case, "9000-12-31T00:00:00Z"));
    // A clock that cannot be right is no reason to doubt what is signed.
    fits(|case| {
        dated(case, "2026-06-02T00:00:01Z");
        case.host.now = time("1970-01-01T00:00:00Z");
        case.draft.release.expires = None;
    });
}

#[test]
fn c18_a_clock_before_the_runtime_was_made_is_wrong_and_matters_to_what_expires() {
    let made = |case: &mut Case, clock: &str| {
        case.policy.made = Some(time("2026-05-01T00:00:00Z"));
        case.host.now = time(clock);
    };
    breaks(Rule::Clock, |case| made(case, "1970-01-01T00:00:00Z"));
    breaks(Rule::Clock, |case| {
        made(case, "2026-04-30T23:59:59Z");
        case.marks.see_time(time("2026-06-01T00:00:00Z"));
    });
    fits(|case| made(case, "2026-05-01T00:00:00Z"));
    fits(|case| {
        made(case, "1970-01-01T00:00:00Z");
        case.draft.release.expires = None;
    });
}

#[test]
fn c16_counters_and_epochs_never_go_back() {
    let accepted = |case: &mut Case, epoch, counter| {
        case.marks.accept(&"sample".parse().unwrap(), Epoch(epoch), Counter(counter));
    };
    breaks(Rule::Rollback, |case| accepted(case, 1, 8));
    breaks(Rule::Rollback, |case| accepted(case, 2, 0));
    breaks(Rule::Rollback, |case| {
        accepted(case, 1, 9);
        accepted(case, 1, 3);
    });
    fits(|case| accepted(case, 1, 7));
    fits(|case| accepted(case, 0, 1 << 50));
    fits(|case| case.marks.accept(&"other".parse().unwrap(), Epoch(9), Counter(9)));
}

#[test]
fn c17_a_new_epoch_recovers_from_a_counter_at_its_end() {
    let accepted = |case: &mut Case| case.marks.accept(&"sample".parse().unwrap(), Epoch(1), Counter((1 << 53) - 1));
    breaks(Rule::Rollback, accepted);
    fits(|case| {
        accepted(case);
        case.draft.release.epoch = Epoch(2);
        case.draft.release.counter = Counter(0);
    });
}

#[test]
fn what_was_admitted_says_what_the_marks_become() {
    let admitted = fits(|case| {
        case.revocations = Some(4);
        case.marks.accept(&"other".parse().unwrap(), Epoch(3), Counter(9));
    });
    let marks = admitted.marks();
    let accepted: Vec<_> = marks.counters().map(|(name, epoch, counter)| (name.to_string(), epoch, counter)).collect();
    assert_eq!(accepted, [("sample".to_owned(), Epoch(1), Counter(7))], "its own alone");
    assert_eq!((marks.trust_root(), marks.revocation()), (1, 4));
    assert_eq!(marks.time(), Some(time("2026-06-01T00:00:00Z")));
    assert_eq!(marks.without_counters().counters().count(), 0);
    assert_eq!(marks.without_counters().time(), marks.time());
}

#[test]
fn a_report_tells_every_rule_and_not_only_the_first_that_is_broken() {
    let mut case = Case::fitting();
    case.policy.channels = Some(BTreeSet::from(["beta".parse().unwrap()]));
    case.policy.settings = BTreeMap::from([("channels", "file /etc/ampoule.toml".to_owned())]);
    case.host.now = time("2027-01-01T00:00:00Z");
    case.marks.accept(&"sample".parse().unwrap(), Epoch(1), Counter(8));
    let signer = Signer::new(Curve::P256);
    let verified = open_and_verify(case.draft.seal(&[&signer]), &root(&[&signer], 1)).unwrap();
    let examination = verified.examine(&case.policy, &case.host, &case.marks);
    let broken: Vec<Rule> = examination
        .findings()
        .iter()
        .filter(|finding| finding.verdict == Verdict::Broken)
        .map(|finding| finding.rule)
        .collect();
    assert_eq!(broken, [Rule::Channel, Rule::Expiry, Rule::Rollback]);
    let violation = examination.violation().unwrap();
    assert_eq!(violation.rule, Rule::Channel, "the first one refuses");
    assert!(matches!(violation.found.origin, Origin::Release { .. }));
    let key = &signer.id().to_string()[..8];
    assert_eq!(
        violation.to_string(),
        format!(
            "not admitted by the rule on channel: found stable (the release statement of sample 1.2.3, key {key}…), \
             required beta (`channels`, file /etc/ampoule.toml); use a bundle of an accepted channel, or accept this \
             one in the configuration"
        )
    );
    assert!(examination.notices().is_empty(), "what has expired is refused, not warned of");
    case.draft.release.expiry_policy = ExpiryPolicy::Warn;
    let verified = open_and_verify(case.draft.seal(&[&signer]), &root(&[&signer], 1)).unwrap();
    let notices = verified.examine(&case.policy, &case.host, &case.marks).notices().to_vec();
    assert_eq!(notices, [AdmissionNotice::Expired { expired: case.host.now }]);
    let words = [Verdict::Holds, Verdict::Notice, Verdict::Broken].map(|verdict| format!("{verdict:8}|"));
    assert_eq!(words, ["ok      |", "notice  |", "refused |"]);
    let rules: BTreeSet<Rule> = examination.findings().iter().map(|finding| finding.rule).collect();
    assert_eq!(rules.len(), examination.findings().len(), "no rule is told twice");
    assert!(rules.len() >= 14, "{rules:?}");
}
