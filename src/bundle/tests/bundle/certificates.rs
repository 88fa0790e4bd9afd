//! Signatures by whoever a pinned authority certifies: which chains count, for whom, and how long.

use std::collections::BTreeSet;

use ampoule_bundle::certificate::chain_from_pem;
use ampoule_bundle::statement::Endpoint;
use ampoule_bundle::trust::{RevocationDocument, RevocationPart, RoleKeys, RootKey};
use ampoule_bundle::{
    Attestation, Authority, BundleError, Certificate, Curve, ErrorClass, HighWaterMarks, HostFacts, KeyId,
    PAYLOAD_TYPE, Role, Rule, RuntimePolicy, TrustRoot, json,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SanType, date_time_ymd,
};
use serde_json::json;

use crate::sample::{Draft, Signer, draft, open_and_verify, root_document, signed, time};

const JUNE: &str = "2026-06-01T00:00:00Z";

type Issuer = CertifiedIssuer<'static, KeyPair>;
type Change = fn(&mut CertificateParams);

fn key_pair(curve: Curve) -> KeyPair {
    let algorithm = match curve {
        Curve::P256 => &PKCS_ECDSA_P256_SHA256,
        Curve::P384 => &PKCS_ECDSA_P384_SHA384,
    };
    KeyPair::generate_for(algorithm).unwrap()
}

/// Of an authority named so, valid from 2020 to 2040.
fn of_authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (parameters.not_before, parameters.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    change(&mut parameters);
    parameters
}

fn authority(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(of_authority(name, |_| ()), key_pair(Curve::P256)).unwrap()
}

fn intermediate(of: &Issuer, change: impl FnOnce(&mut CertificateParams)) -> Issuer {
    CertifiedIssuer::signed_by(of_authority("intermediate", change), key_pair(Curve::P256), of).unwrap()
}

/// A leaf for code signing, valid in 2026, with these mail addresses.
struct Leaf {
    signer: Signer,
    certificate: Certificate,
}

impl Leaf {
    fn new(of: &Issuer, curve: Curve, mails: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        Leaf::of_key(&key_pair(curve), of, curve, mails, change)
    }

    fn of_key(
        pair: &KeyPair,
        of: &Issuer,
        curve: Curve,
        mails: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(DnType::CommonName, "leaf");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        parameters.subject_alt_names =
            mails.iter().map(|mail| SanType::Rfc822Name((*mail).try_into().unwrap())).collect();
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
        change(&mut parameters);
        let certificate = Certificate::from_der(parameters.signed_by(pair, of).unwrap().der()).unwrap();
        Leaf { signer: Signer::of_pkcs8(curve, &pair.serialize_der()), certificate }
    }

    /// Attests by a chain of this leaf and these issuers.
    fn attest(&self, payload: &[u8], issuers: &[&Issuer]) -> Attestation {
        let issuers = issuers.iter().map(|issuer| Certificate::from_der(issuer.der()).unwrap());
        let chain: Vec<Certificate> = [self.certificate.clone()].into_iter().chain(issuers).collect();
        Attestation::certified(payload, &self.signer.signature(PAYLOAD_TYPE, payload), &chain).unwrap()
    }

    fn seal(&self, draft: &Draft, issuers: &[&Issuer]) -> Vec<u8> {
        let payloads = [draft.release_payload(), draft.oms_payload()];
        draft.write(&payloads.map(|payload| self.attest(&payload, issuers)))
    }
}

/// One entry of a root: an authority, and for whom it may speak.
fn entry(issuer: &Issuer, identity: Option<&str>) -> (KeyId, RootKey) {
    let pem = issuer.pem().replace("\r\n", "\n");
    (Authority::new(&pem, identity).unwrap().id(), RootKey::of_authority(&pem, identity))
}

/// A root with these entries and keys in role `release`.
fn root_of(entries: &[(KeyId, RootKey)], keys: &[&Signer], threshold: usize) -> TrustRoot {
    let spare = Signer::new(Curve::P256);
    let mut document = root_document(1, &[(Role::Root, &[&spare], 1), (Role::Revoke, &[&spare], 1)]);
    for key in keys {
        document.signed.keys.insert(key.id(), RootKey::of(&key.public));
    }
    document.signed.keys.extend(entries.iter().cloned());
    let keyids = entries.iter().map(|(id, _)| *id).chain(keys.iter().map(|key| key.id())).collect();
    document.signed.roles.insert(Role::Release, RoleKeys { keyids, threshold });
    TrustRoot::pin(&document.to_bytes()).unwrap()
}

fn pinning(issuer: &Issuer) -> TrustRoot {
    root_of(&[entry(issuer, None)], &[], 1)
}

fn admitted_at(bytes: Vec<u8>, root: &TrustRoot, now: &str) -> Option<Rule> {
    let policy = RuntimePolicy::new(semver::Version::new(0, 1, 0), [Endpoint::ChatCompletions]);
    let host = HostFacts {
        now: time(now),
        cpu_features: BTreeSet::from(["avx2".to_owned()]),
        memory_bytes: 1 << 20,
        accelerators: BTreeSet::new(),
    };
    let verified = open_and_verify(bytes, root).unwrap();
    verified.admit(&policy, &host, &HighWaterMarks::none()).err().map(|violation| violation.rule)
}

fn refusal(bytes: Vec<u8>, root: &TrustRoot) -> BundleError {
    open_and_verify(bytes, root).err().expect("the bundle must be refused")
}

#[test]
fn a_leaf_of_a_pinned_authority_signs() {
    let root_authority = authority("ca");
    let middle = intermediate(&root_authority, |_| ());
    let root = pinning(&root_authority);
    for curve in [Curve::P256, Curve::P384] {
        for (issuer, chain) in [(&root_authority, &[][..]), (&middle, &[&middle])] {
            let bytes = Leaf::new(issuer, curve, &[], |_| ()).seal(&draft(), chain);
            let verified = open_and_verify(bytes.clone(), &root).unwrap();
            assert!(verified.model_signature().unwrap().certificates()[0].validity().contains(time(JUNE)));
            assert_eq!(verified.identity().signers, [entry(&root_authority, None).0]);
            assert_eq!(admitted_at(bytes, &root, JUNE), None);
        }
    }
    // The authority's own certificate at the chain's end is superfluous and does no harm.
    let leaf = Leaf::new(&middle, Curve::P256, &[], |_| ());
    open_and_verify(leaf.seal(&draft(), &[&middle, &root_authority]), &root).unwrap();
    // Without the certificate between them there is no path.
    let error = refusal(leaf.seal(&draft(), &[]), &root);
    assert!(matches!(error, BundleError::TooFewSignatures { found: 0, .. }), "{error}");
}

#[test]
fn a_chain_that_breaks_a_rule_refuses_the_bundle() {
    let ca = authority("ca");
    let refused = |bytes: Vec<u8>, words: &str| {
        let error = refusal(bytes, &pinning(&ca));
        assert_eq!(error.class(), ErrorClass::Signature);
        let told = error.to_string();
        assert!(matches!(error, BundleError::BadCertificateChain { .. }) && told.contains(words), "{words}: {told}");
    };
    let leaves: [(Change, &str); 5] = [
        (|leaf| leaf.extended_key_usages.clear(), "lacks the extended key usage codeSigning"),
        (|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any], "for another purpose"),
        (|leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "for another purpose"),
        (|leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement], "lacks digitalSignature"),
        (|leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained), "its leaf is the certificate of an authority"),
    ];
    for (change, words) in leaves {
        let leaf = Leaf::new(&ca, Curve::P256, &[], change);
        refused(leaf.seal(&draft(), &[]), words);
        // A key that is pinned itself needs no authority's word.
        open_and_verify(leaf.seal(&draft(), &[]), &root_of(&[entry(&ca, None)], &[&leaf.signer], 1)).unwrap();
    }
    let narrow = Leaf::new(&ca, Curve::P256, &[], |leaf| leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    open_and_verify(narrow.seal(&draft(), &[]), &pinning(&ca)).unwrap();
    let issuers: [(Change, &str); 5] = [
        (|issuer| issuer.is_ca = IsCa::ExplicitNoCa, "an issuer in it is no authority"),
        (|issuer| issuer.key_usages = vec![KeyUsagePurpose::CrlSign], "lacks keyCertSign"),
        (|issuer| issuer.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth], "for another purpose"),
        (|issuer| issuer.not_after = date_time_ymd(2025, 1, 1), "not valid at the same time"),
        (
            |issuer| {
                let permitted_subtrees = vec![GeneralSubtree::DnsName("example.org".to_owned())];
                issuer.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
            },
            "a name that an issuer may not certify",
        ),
    ];
    for (change, words) in issuers {
        let middle = intermediate(&ca, change);
        let leaf = Leaf::new(&middle, Curve::P256, &[], |leaf| {
            leaf.subject_alt_names = vec![SanType::DnsName("elsewhere.example".try_into().unwrap())];
        });
        refused(leaf.seal(&draft(), &[&middle]), words);
    }
    let outer = intermediate(&ca, |issuer| issuer.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let inner = CertifiedIssuer::signed_by(of_authority("inner", |_| ()), key_pair(Curve::P256), &outer).unwrap();
    refused(Leaf::new(&inner, Curve::P256, &[], |_| ()).seal(&draft(), &[&inner, &outer]), "path length");
}

#[test]
fn the_authority_s_own_certificate_sets_limits_too() {
    let limited: [(Change, &str); 3] = [
        (|ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)), "path length"),
        (|ca| ca.key_usages = vec![KeyUsagePurpose::CrlSign], "lacks keyCertSign"),
        (|ca| ca.not_after = date_time_ymd(2025, 1, 1), "no moment at which all"),
    ];
    for (change, words) in limited {
        let ca = CertifiedIssuer::self_signed(of_authority("ca", change), key_pair(Curve::P256)).unwrap();
        let middle = intermediate(&ca, |_| ());
        let error = refusal(Leaf::new(&middle, Curve::P256, &[], |_| ()).seal(&draft(), &[&middle]), &pinning(&ca));
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    // A path length of 0 leaves room for a leaf.
    let ca = of_authority("ca", |ca| ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let ca = CertifiedIssuer::self_signed(ca, key_pair(Curve::P256)).unwrap();
    open_and_verify(Leaf::new(&ca, Curve::P256, &[], |_| ()).seal(&draft(), &[]), &pinning(&ca)).unwrap();
}

#[test]
fn c14_an_authority_that_is_not_pinned_counts_for_nothing() {
    let (pinned, stranger, namesake) = (authority("ca"), authority("stranger"), authority("ca"));
    let root = pinning(&pinned);
    for other in [&stranger, &namesake] {
        let leaf = Leaf::new(other, Curve::P256, &[], |_| ());
        // The stranger's own certificate in the chain makes it no authority.
        for chain in [&[][..], &[other]] {
            let error = refusal(leaf.seal(&draft(), chain), &root);
            assert!(matches!(error, BundleError::TooFewSignatures { found: 0, .. }), "{error}");
        }
    }
    // Mallory signs and shows a chain that is not hers.
    let (alice, mallory) = (Leaf::new(&pinned, Curve::P256, &[], |_| ()), Signer::new(Curve::P256));
    let payloads = [draft().release_payload(), draft().oms_payload()];
    let forged = payloads.map(|payload| {
        let signature = mallory.signature(PAYLOAD_TYPE, &payload);
        Attestation::certified(&payload, &signature, std::slice::from_ref(&alice.certificate)).unwrap()
    });
    let error = refusal(draft().write(&forged), &root);
    assert!(matches!(error, BundleError::BadSignature { key, .. } if key == alice.signer.id()), "{error}");
}

#[test]
fn an_authority_speaks_for_one_identity_where_the_root_says_so() {
    let ca = authority("ca");
    let root = root_of(&[entry(&ca, Some("alice@vendor.example"))], &[], 1);
    let verdict = |mails: &[&str]| {
        let leaf = Leaf::new(&ca, Curve::P256, mails, |_| ());
        open_and_verify(leaf.seal(&draft(), &[]), &root).err()
    };
    assert!(verdict(&["alice@vendor.example"]).is_none());
    for other in
        [&[][..], &["bob@vendor.example"], &["ALICE@vendor.example"], &["alice@vendor.example", "bob@vendor.example"]]
    {
        let error = verdict(other).expect("somebody else");
        assert!(matches!(error, BundleError::TooFewSignatures { found: 0, .. }), "{other:?}: {error}");
    }
}

#[test]
fn certificates_count_while_all_of_them_are_valid() {
    let ca = authority("ca");
    let middle = intermediate(&ca, |issuer| issuer.not_after = date_time_ymd(2026, 10, 1));
    let mut draft = draft();
    draft.release.issued_at = time("2025-01-01T00:00:00Z");
    let leaf = Leaf::new(&middle, Curve::P256, &[], |_| ());
    for (now, expected) in [
        ("2025-12-31T23:59:59Z", Some(Rule::Certificates)),
        ("2026-01-01T00:00:00Z", None),
        ("2026-10-01T00:00:00Z", None),
        ("2026-10-01T00:00:01Z", Some(Rule::Certificates)),
    ] {
        assert_eq!(admitted_at(leaf.seal(&draft, &[&middle]), &pinning(&ca), now), expected, "{now}");
    }
    // One second is a time.
    let brief = intermediate(&ca, |issuer| issuer.not_after = date_time_ymd(2026, 1, 1));
    let bytes = Leaf::new(&brief, Curve::P256, &[], |_| ()).seal(&draft, &[&brief]);
    assert_eq!(admitted_at(bytes.clone(), &pinning(&ca), "2026-01-01T00:00:00Z"), None);
    assert_eq!(admitted_at(bytes, &pinning(&ca), "2026-01-01T00:00:01Z"), Some(Rule::Certificates));
    // A second signer who still counts suffices, unless both must.
    let key = Signer::new(Curve::P256);
    for (threshold, expected) in [(1, None), (2, Some(Rule::Certificates))] {
        let root = root_of(&[entry(&ca, None)], &[&key], threshold);
        let payloads = [draft.release_payload(), draft.oms_payload()];
        let both = payloads.iter().flat_map(|payload| [leaf.attest(payload, &[&middle]), key.attest(payload)]);
        let bytes = draft.write(&both.collect::<Vec<_>>());
        assert_eq!(admitted_at(bytes, &root, "2026-12-01T00:00:00Z"), expected);
    }
}

#[test]
fn of_several_certificates_for_one_key_the_one_that_lasts_counts() {
    let ca = authority("ca");
    let root = pinning(&ca);
    let pair = key_pair(Curve::P256);
    let certified =
        |from, to| Leaf::of_key(&pair, &ca, Curve::P256, &[], |leaf| (leaf.not_before, leaf.not_after) = (from, to));
    let mut draft = draft();
    draft.release.issued_at = time("2025-01-01T00:00:00Z");
    let long = certified(date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1));
    for (short, now) in [
        (certified(date_time_ymd(2026, 1, 1), date_time_ymd(2026, 7, 1)), "2026-12-01T00:00:00Z"),
        (certified(date_time_ymd(2026, 7, 1), date_time_ymd(2027, 1, 1)), "2026-03-01T00:00:00Z"),
    ] {
        // Attestations lie in the order of their digests; it must not matter which comes first.
        let mut orders = BTreeSet::new();
        while orders.len() < 2 {
            let releases = [&short, &long].map(|leaf| leaf.attest(&draft.release_payload(), &[]));
            orders.insert(releases[0].digest() < releases[1].digest());
            let bytes = draft.write(&[&releases[..], &[long.attest(&draft.oms_payload(), &[])]].concat());
            assert_eq!(admitted_at(bytes, &root, now), None);
        }
    }
}

#[test]
fn c15_one_entry_and_one_key_count_once() {
    let ca = authority("ca");
    let (alice, bob) = ("alice@vendor.example", "bob@vendor.example");
    let leaves = [Leaf::new(&ca, Curve::P256, &[alice], |_| ()), Leaf::new(&ca, Curve::P384, &[bob], |_| ())];
    let payloads = [draft().release_payload(), draft().oms_payload()];
    let by = |leaves: &[&Leaf], keys: &[&Signer]| {
        let attest = |payload: &Vec<u8>| {
            let certified = leaves.iter().map(|leaf| leaf.attest(payload, &[]));
            certified.chain(keys.iter().map(|key| key.attest(payload))).collect::<Vec<_>>()
        };
        draft().write(&payloads.iter().flat_map(attest).collect::<Vec<_>>())
    };
    let found = |bytes, root: &TrustRoot| match open_and_verify(bytes, root) {
        Ok(verified) => verified.identity().signers.len(),
        Err(BundleError::TooFewSignatures { found, required: 2, .. }) => found,
        Err(error) => panic!("{error}"),
    };
    let (any, of_alice, of_bob) = (entry(&ca, None), entry(&ca, Some(alice)), entry(&ca, Some(bob)));
    let spare = Signer::new(Curve::P256);
    let both = [&leaves[0], &leaves[1]];
    // Two people whom one entry stands for are one signer; two entries are two.
    assert_eq!(found(by(&both, &[]), &root_of(std::slice::from_ref(&any), &[&spare], 2)), 1);
    assert_eq!(found(by(&both, &[]), &root_of(&[of_alice.clone(), of_bob], &[], 2)), 2);
    // One person whom two entries stand for is one signer, and so is a key that is pinned and certified.
    assert_eq!(found(by(&[&leaves[0]], &[]), &root_of(&[any.clone(), of_alice], &[], 2)), 1);
    assert_eq!(found(by(&[&leaves[0]], &[&leaves[0].signer]), &root_of(&[any], &[&leaves[0].signer], 2)), 1);
}

#[test]
fn c17_a_certified_key_and_an_authority_can_be_revoked() {
    let (ca, revoker) = (authority("ca"), Signer::new(Curve::P256));
    let leaf = Leaf::new(&ca, Curve::P256, &[], |_| ());
    let (id, key) = entry(&ca, None);
    let mut document = root_document(1, &[(Role::Revoke, &[&revoker], 1)]);
    document.signed.keys.insert(id, key);
    document.signed.roles.insert(Role::Release, RoleKeys { keyids: [id].into(), threshold: 1 });
    let root = TrustRoot::pin(&document.to_bytes()).unwrap();
    open_and_verify(leaf.seal(&draft(), &[]), &root).unwrap();
    for revoked in [leaf.signer.id(), id] {
        let mut part = RevocationPart::new(1, time("2026-02-01T00:00:00Z"));
        part.keys.insert(revoked);
        let list = signed(&RevocationDocument::unsigned(part), &[&revoker]);
        let error = refusal(leaf.seal(&draft(), &[]), &root.clone().with_revocations(&list).unwrap());
        assert!(matches!(error, BundleError::TooFewSignatures { found: 0, .. }), "{error}");
    }
}

#[test]
fn an_attestation_has_one_material_and_a_chain_of_at_most_five() {
    let ca = authority("ca");
    let leaf = Leaf::new(&ca, Curve::P256, &[], |_| ());
    let payload = draft().release_payload();
    let good = leaf.attest(&payload, &[&ca]);
    assert_eq!((good.certificates().len(), good.key()), (2, leaf.signer.id()));
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut tree: serde_json::Value = serde_json::from_slice(good.bytes()).unwrap();
        change(&mut tree["verificationMaterial"]);
        Attestation::parse("test", json::canonical(&tree)).unwrap_err()
    };
    let both = changed(&|material| material["publicKey"] = json!({ "hint": leaf.signer.id() }));
    assert!(matches!(both, BundleError::WrongField { field: "verificationMaterial", .. }), "{both}");
    let neither = changed(&|material| drop(material.as_object_mut().unwrap().remove("x509CertificateChain")));
    assert!(matches!(neither, BundleError::WrongField { field: "verificationMaterial", .. }), "{neither}");
    let none = changed(&|material| material["x509CertificateChain"]["certificates"] = json!([]));
    assert!(matches!(none, BundleError::WrongField { field: "certificates", .. }), "{none}");
    let six = changed(&|material| {
        let one = material["x509CertificateChain"]["certificates"][0].clone();
        material["x509CertificateChain"]["certificates"] = json!(vec![one; 6]);
    });
    assert!(matches!(six, BundleError::TooLarge { found: 6, limit: 5, .. }), "{six}");
    let junk = changed(&|material| material["x509CertificateChain"]["certificates"][0]["rawBytes"] = json!("MAAA"));
    assert!(matches!(junk, BundleError::MalformedCertificate { .. }), "{junk}");
}

#[test]
fn c11_a_certificate_for_another_kind_of_key_is_refused() {
    let ca = authority("ca");
    let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = CertificateParams::new(Vec::new()).unwrap().signed_by(&pair, &ca).unwrap();
    let error = Certificate::from_der(certificate.der()).unwrap_err();
    assert!(matches!(error, BundleError::MalformedKey { .. }), "{error}");
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_certificate_is_an_error_or_another_certificate() {
    let ca = authority("ca");
    let der = ca.der().to_vec();
    let good = Certificate::from_der(&der).unwrap();
    for length in 0..der.len() {
        assert!(Certificate::from_der(&der[..length]).is_err(), "{length}");
    }
    for position in 0..der.len() {
        let mut other = der.clone();
        other[position] ^= 0x10;
        match Certificate::from_der(&other) {
            Ok(other) => assert_ne!(other, good, "{position}"),
            Err(error) => assert_eq!(error.class(), ErrorClass::Unreadable, "{position}: {error}"),
        }
    }
}

#[test]
fn an_authority_has_one_spelling_and_no_say_in_roots() {
    let ca = authority("ca");
    let pem = ca.pem().replace("\r\n", "\n");
    assert_eq!(chain_from_pem(&ca.pem()).unwrap().len(), 1);
    for other in [pem.replace('\n', "\r\n"), pem.trim_end().to_owned(), format!("\n{pem}"), pem.repeat(2)] {
        assert!(matches!(Authority::new(&other, None), Err(BundleError::MalformedCertificate { .. })));
    }
    for identity in ["", "two words", "ä"] {
        assert!(Authority::new(&pem, Some(identity)).is_err(), "{identity}");
    }
    let (id, key) = entry(&ca, None);
    let signer = Signer::new(Curve::P256);
    for role in [Role::Root, Role::Revoke] {
        let mut document = root_document(1, &[(Role::Release, &[&signer], 1)]);
        document.signed.keys.insert(id, key.clone());
        document.signed.roles.insert(role, RoleKeys { keyids: [id].into(), threshold: 1 });
        let error = TrustRoot::pin(&document.to_bytes()).unwrap_err();
        assert!(matches!(error, BundleError::MalformedTrustRoot { .. }), "{error}");
    }
    let mut document = root_document(1, &[(Role::Release, &[&signer], 1)]);
    document.signed.keys.insert(id, RootKey { scheme: "ecdsa-sha2-nistp256".to_owned(), ..key });
    let error = TrustRoot::pin(&document.to_bytes()).unwrap_err();
    assert!(matches!(error, BundleError::MalformedTrustRoot { .. }), "{error}");
}
