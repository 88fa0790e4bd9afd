//! Revocation lists and downgrade tokens: what they refuse, what they permit, and who may say so.

use std::collections::{BTreeMap, BTreeSet};

use ampoule_bundle::statement::Endpoint;
use ampoule_bundle::trust::{
    DowngradeDocument, DowngradePart, MinimumCounter, RevocationDocument, RevocationPart, TrustDocument,
};
use ampoule_bundle::{
    AdmissionNotice, AdmittedBundle, BundleError, Counter, Curve, Digest, Epoch, HighWaterMarks, HostFacts,
    PolicyViolation, Role, Rule, RuntimePolicy, TrustRoot,
};

use crate::sample::{Draft, Signer, draft, open_and_verify, root_document, root_with, signed, time};

/// A vendor with two keys, one of which must sign releases, a key that revokes, and a site.
struct Trust {
    vendor: Signer,
    second: Signer,
    revoker: Signer,
    root: TrustRoot,
}

impl Trust {
    fn new() -> Self {
        let [vendor, second, revoker] = std::array::from_fn(|_| Signer::new(Curve::P256));
        let root = root_with(&[(Role::Release, &[&vendor, &second], 1), (Role::Revoke, &[&revoker], 1)]);
        Self { vendor, second, revoker, root }
    }

    /// The root with a list of version 1 that `fill` has filled.
    fn revoking(&self, fill: impl FnOnce(&mut RevocationPart)) -> TrustRoot {
        self.root.clone().with_revocations(&signed(&list(fill), &[&self.revoker])).unwrap()
    }

    /// `root` with the token that `part` says.
    fn permitting(&self, root: &TrustRoot, part: DowngradePart) -> TrustRoot {
        root.clone().with_downgrade(&signed(&DowngradeDocument::unsigned(part), &[&self.vendor])).unwrap()
    }
}

fn list(fill: impl FnOnce(&mut RevocationPart)) -> RevocationDocument {
    let mut part = RevocationPart::new(1, time("2026-02-01T00:00:00Z"));
    fill(&mut part);
    TrustDocument::unsigned(part)
}

fn admit(
    draft: &Draft,
    signer: &Signer,
    root: &TrustRoot,
    accepted: &HighWaterMarks,
) -> Result<AdmittedBundle, PolicyViolation> {
    let policy = RuntimePolicy::new(semver::Version::new(0, 1, 0), [Endpoint::ChatCompletions]);
    let host = HostFacts {
        now: time("2026-06-01T00:00:00Z"),
        cpu_features: BTreeSet::from(["avx2".to_owned()]),
        memory_bytes: 1 << 20,
        accelerators: BTreeSet::new(),
    };
    open_and_verify(draft.seal(&[signer]), root).unwrap().admit(&policy, &host, accepted)
}

/// What is admitted or refused under a root, for a site that has accepted nothing yet.
fn verdict(draft: &Draft, signer: &Signer, root: &TrustRoot) -> Option<Rule> {
    admit(draft, signer, root, &HighWaterMarks::none()).err().map(|violation| violation.rule)
}

#[test]
fn c17_a_revoked_key_counts_for_nothing() {
    let trust = Trust::new();
    let root = trust.revoking(|part| {
        part.keys.insert(trust.vendor.id());
    });
    assert_eq!((root.revocations().unwrap().version(), root.has_revoked(trust.vendor.id())), (1, true));
    let mut poisoned = draft();
    poisoned.release.counter = Counter((1 << 53) - 1);
    let error = open_and_verify(poisoned.seal(&[&trust.vendor]), &root).err().expect("its key is revoked");
    let expected = format!("{} (revoked)", trust.vendor.id());
    assert!(matches!(&error, BundleError::TooFewSignatures { found: 0, named, .. } if *named == expected), "{error}");
    // Its signature neither helps nor harms beside that of a key that still counts, be it right or wrong.
    let both = open_and_verify(draft().seal(&[&trust.vendor, &trust.second]), &root).unwrap();
    assert_eq!((both.identity().signers.as_slice(), both.identity().revocation_version), (&[trust.second.id()][..], 1));
}

#[test]
fn a_revoked_manifest_is_refused_whoever_signed_it() {
    let trust = Trust::new();
    let manifest = draft().manifest().digest();
    let root = trust.revoking(|part| {
        part.manifests.insert(manifest);
    });
    let error = open_and_verify(draft().seal(&[&trust.vendor, &trust.second]), &root).err().expect("it is revoked");
    assert!(matches!(error, BundleError::RevokedManifest { version: 1, .. }), "{error}");
    let mut other = draft();
    other.files[2].2 = b"# Another model\n".to_vec();
    open_and_verify(other.seal(&[&trust.vendor]), &root).unwrap();
}

#[test]
fn a_counter_below_the_list_s_minimum_is_refused() {
    let trust = Trust::new();
    let minimum = |name: &str, epoch, counter| {
        trust.revoking(|part| {
            let minimum = MinimumCounter { epoch: Epoch(epoch), counter: Counter(counter) };
            part.minimum_counters = BTreeMap::from([(name.parse().unwrap(), minimum)]);
        })
    };
    // The sample has counter 7 in epoch 1.
    for (root, expected) in [
        (minimum("sample", 1, 7), None),
        (minimum("sample", 1, 8), Some(Rule::MinimumCounter)),
        (minimum("sample", 2, 1), Some(Rule::MinimumCounter)),
        (minimum("sample", 0, 99), None),
        (minimum("other", 9, 9), None),
    ] {
        assert_eq!(verdict(&draft(), &trust.vendor, &root), expected);
    }
}

#[test]
fn a_runtime_below_the_list_s_minimum_runs_nothing() {
    let trust = Trust::new();
    for (minimum, expected) in [
        ("0.1.0", None),
        ("0.1.0+build.9", None),
        ("0.1.1", Some(Rule::MinimumRuntime)),
        ("1.0.0-rc.1", Some(Rule::MinimumRuntime)),
    ] {
        let root = trust.revoking(|part| part.minimum_runtime = Some(minimum.parse().unwrap()));
        assert_eq!(verdict(&draft(), &trust.vendor, &root), expected, "{minimum}");
    }
}

#[test]
fn a_bundle_can_ask_for_a_list_and_time_never_lies_before_it() {
    let trust = Trust::new();
    let mut asking = draft();
    asking.release.revocation_min = 1;
    assert_eq!(verdict(&asking, &trust.vendor, &trust.root), Some(Rule::RevocationVersion));
    assert_eq!(verdict(&asking, &trust.vendor, &trust.revoking(|_| ())), None);
    asking.release.revocation_min = 2;
    assert_eq!(verdict(&asking, &trust.vendor, &trust.revoking(|_| ())), Some(Rule::RevocationVersion));
    // The sample expires in 2027, and somebody made a list after that.
    let later = trust.revoking(|part| part.issued = time("2027-01-01T00:00:00Z"));
    assert_eq!(verdict(&draft(), &trust.vendor, &later), Some(Rule::Expiry));
}

#[test]
fn only_the_revoke_keys_of_the_root_revoke() {
    let trust = Trust::new();
    let refusal = |root: &TrustRoot, bytes: &[u8]| root.clone().with_revocations(bytes).expect_err("it is refused");
    for signers in [&[][..], &[&trust.vendor], &[&Signer::new(Curve::P256)]] {
        let error = refusal(&trust.root, &signed(&list(|_| ()), signers));
        assert!(matches!(error, BundleError::TooFewDocumentSignatures { role: "revoke", found: 0, .. }), "{error}");
    }
    let without = root_with(&[(Role::Release, &[&trust.vendor], 1)]);
    let error = refusal(&without, &signed(&list(|_| ()), &[&trust.vendor]));
    assert!(matches!(error, BundleError::MissingRole { role: "revoke", .. }), "{error}");
    let mut damaged = list(|_| ());
    damaged.add_signature(trust.revoker.id(), &trust.revoker.sign(b"another list"));
    let error = refusal(&trust.root, &damaged.to_bytes());
    assert!(matches!(error, BundleError::BadDocumentSignature { .. }), "{error}");
    let error = refusal(&trust.root, &signed(&list(|part| part.version = 0), &[&trust.revoker]));
    assert!(matches!(error, BundleError::WrongField { field: "version", .. }), "{error}");
}

#[test]
fn c13_no_document_is_read_as_another() {
    let trust = Trust::new();
    let root = signed(&root_document(2, &[(Role::Release, &[&trust.vendor], 1)]), &[&trust.revoker]);
    let revocations = signed(&list(|_| ()), &[&trust.vendor]);
    let part = DowngradePart::new(
        "sample".parse().unwrap(),
        Epoch(1),
        Counter(7),
        Digest::of(b""),
        time("2027-01-01T00:00:00Z"),
    );
    let token = signed(&DowngradeDocument::unsigned(part), &[&trust.revoker]);
    for error in [
        trust.root.clone().with_revocations(&root).expect_err("a root"),
        trust.root.clone().with_revocations(&token).expect_err("a token"),
        trust.root.clone().with_downgrade(&root).expect_err("a root"),
        trust.root.clone().with_downgrade(&revocations).expect_err("a list"),
        TrustRoot::pin(&revocations).expect_err("a list"),
        TrustRoot::pin(&token).expect_err("a token"),
    ] {
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    }
    let error =
        trust.root.clone().with_revocations(&signed(&list(|part| part.kind = "root".to_owned()), &[&trust.revoker]));
    assert!(matches!(error, Err(BundleError::WrongField { field: "_type", .. })));
}

#[test]
fn c09_lists_are_strict_json_of_bounded_length() {
    let trust = Trust::new();
    let text = String::from_utf8(signed(&list(|_| ()), &[&trust.revoker])).unwrap();
    for (from, to) in
        [("\"version\": 1", "\"version\": 2, \"version\": 1"), ("\"keys\": []", "\"keys\": [], \"more\": 1")]
    {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text, "{from}");
        let error = trust.root.clone().with_revocations(other.as_bytes()).expect_err("it is refused");
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    }
    let error = trust.root.clone().with_revocations(&vec![b' '; (1 << 20) + 1]).expect_err("it is too long");
    assert!(matches!(error, BundleError::TooLarge { .. }), "{error}");
    let mut many = list(|_| ());
    for _ in 0..65 {
        many.add_signature(trust.revoker.id(), b"signature");
    }
    let error = trust.root.clone().with_revocations(&many.to_bytes()).expect_err("it has too many signatures");
    assert!(matches!(error, BundleError::TooLarge { found: 65, limit: 64, .. }), "{error}");
}

#[test]
fn c16_a_downgrade_token_lifts_the_rule_on_rollback_for_one_bundle_until_its_end() {
    let trust = Trust::new();
    let mut accepted = HighWaterMarks::none();
    accepted.accept(&"sample".parse().unwrap(), Epoch(1), Counter(9));
    let manifest = draft().manifest().digest();
    let part = |name: &str, epoch, counter, manifest, expires: &str| {
        DowngradePart::new(name.parse().unwrap(), Epoch(epoch), Counter(counter), manifest, time(expires))
    };
    let verdict = |part: Option<DowngradePart>, root: &TrustRoot| {
        let root = part.map_or_else(|| root.clone(), |part| trust.permitting(root, part));
        admit(&draft(), &trust.vendor, &root, &accepted).map(|admitted| admitted.notices().to_vec())
    };
    let end = "2026-07-01T00:00:00Z";
    let good = part("sample", 1, 7, manifest, end);
    assert_eq!(verdict(Some(good.clone()), &trust.root).unwrap(), [AdmissionNotice::Downgrade { expires: time(end) }]);
    for (token, found) in [
        (None, "counter 7 in epoch 1"),
        (Some(part("other", 1, 7, manifest, end)), "for another bundle"),
        (Some(part("sample", 2, 7, manifest, end)), "for another bundle"),
        (Some(part("sample", 1, 8, manifest, end)), "for another bundle"),
        (Some(part("sample", 1, 7, Digest::of(b"other"), end)), "for another bundle"),
        (Some(part("sample", 1, 7, manifest, "2026-06-01T00:00:00Z")), "has expired"),
    ] {
        let violation = verdict(token, &trust.root).unwrap_err();
        assert_eq!(violation.rule, Rule::Rollback);
        assert!(violation.found.text.contains(found), "{violation}");
    }
    // It lifts no other rule.
    let minimum = MinimumCounter { epoch: Epoch(1), counter: Counter(8) };
    let root = trust.revoking(|part| {
        part.minimum_counters.insert("sample".parse().unwrap(), minimum);
    });
    assert_eq!(verdict(Some(good), &root).unwrap_err().rule, Rule::MinimumCounter);
}

#[test]
fn c16_a_downgrade_token_is_signed_by_release_keys_that_still_count() {
    let trust = Trust::new();
    let part = DowngradePart::new(
        "sample".parse().unwrap(),
        Epoch(1),
        Counter(7),
        Digest::of(b""),
        time("2027-01-01T00:00:00Z"),
    );
    let document = DowngradeDocument::unsigned(part);
    for signers in [&[][..], &[&trust.revoker]] {
        let error = trust.root.clone().with_downgrade(&signed(&document, signers)).unwrap_err();
        assert!(matches!(error, BundleError::TooFewDocumentSignatures { role: "release", .. }), "{error}");
    }
    let root = trust.revoking(|part| {
        part.keys.insert(trust.vendor.id());
    });
    let error = root.clone().with_downgrade(&signed(&document, &[&trust.vendor])).unwrap_err();
    assert!(matches!(error, BundleError::TooFewDocumentSignatures { found: 0, .. }), "{error}");
    let permitting = root.with_downgrade(&signed(&document, &[&trust.second])).unwrap();
    assert!(permitting.downgrade().is_some());
    // A list that comes later takes a token away: a key that signed it may be on the list.
    let later = permitting.with_revocations(&signed(&list(|part| part.version = 2), &[&trust.revoker])).unwrap();
    assert_eq!((later.downgrade().is_some(), later.revocations().unwrap().version()), (false, 2));
}

#[test]
fn c17_a_stolen_key_cannot_use_up_the_epochs_to_come() {
    let trust = Trust::new();
    let bounded = |minimum, maximum| {
        let mut document = root_document(1, &[(Role::Release, &[&trust.vendor], 1)]);
        (document.signed.minimum_epoch, document.signed.maximum_epoch) = (minimum, maximum);
        TrustRoot::pin(&document.to_bytes()).unwrap()
    };
    let in_epoch = |epoch| {
        let mut draft = draft();
        draft.release.epoch = Epoch(epoch);
        draft
    };
    for (epoch, minimum, maximum, expected) in [
        (1, None, Some(1), None),
        (2, None, Some(1), Some(Rule::Epoch)),
        (u32::MAX, None, Some(1), Some(Rule::Epoch)),
        (1, Some(2), Some(2), Some(Rule::Epoch)),
        (2, Some(2), Some(2), None),
        (u32::MAX, Some(2), None, None),
    ] {
        let root = bounded(minimum.map(Epoch), maximum.map(Epoch));
        assert_eq!(verdict(&in_epoch(epoch), &trust.vendor, &root), expected, "{epoch} in {minimum:?} to {maximum:?}");
    }
}
