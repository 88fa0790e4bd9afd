//! Signatures, statements and what they bind: each test spoils one thing and expects its own refusal.

use ampoule_bundle::statement::{AdapterBinding, Predicate};
use ampoule_bundle::{
    Attestation, BundleError, CosignStatement, Curve, Digest, ErrorClass, LayerKind, PAYLOAD_TYPE, PublicKey, Role,
    Statement, WeightHeaderError, json,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::ecdsa::{P256_ORDER, der_integers, der_of, malleated};
use crate::sample::{Draft, Signer, check, draft, file, open_and_verify, refusal, root, root_with};

fn attestations(draft: &Draft, signer: &Signer) -> [Attestation; 3] {
    draft.attestations(&[signer]).try_into().unwrap()
}

/// The statement in `payload` after `change`, as canonical JSON.
fn edited(payload: &[u8], change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut tree: Value = serde_json::from_slice(payload).unwrap();
    change(&mut tree);
    json::canonical(&tree)
}

/// The refusal of the bundle whose release statement was changed and signed again.
fn release_refusal(change: impl FnOnce(&mut Value)) -> BundleError {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let [_, oms, _] = attestations(&draft, &signer);
    let release = signer.attest(&edited(&draft.release_payload(), change));
    refusal(draft.write(&[release, oms]), &root(&[&signer], 1))
}

#[test]
fn known_answers_take_a_bounded_part_of_each_start() {
    let answer = |tokens: usize| json!({ "embedding": { "input": vec![1; tokens], "componentsMillionths": [] } });
    let answers = |lengths: &[usize]| {
        let answers: Vec<Value> = lengths.iter().map(|length| answer(*length)).collect();
        json!({ "toleranceMillionths": {}, "answers": answers })
    };
    let error = release_refusal(|tree| tree["predicate"]["knownAnswers"] = answers(&[10_000, 6_385]));
    assert!(matches!(error, BundleError::TooLarge { found: 16_385, limit: 16_384, .. }), "{error}");
}

/// The refusal of the bundle whose model signing statement was changed and signed again.
fn oms_refusal(change: impl FnOnce(&mut Value)) -> BundleError {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let [release, _, _] = attestations(&draft, &signer);
    let oms = signer.attest(&edited(&draft.oms_payload(), change));
    refusal(draft.write(&[release, oms]), &root(&[&signer], 1))
}

#[test]
fn a_settings_schema_that_is_not_understood_is_refused_with_its_bundle() {
    let signer = Signer::new(Curve::P256);
    for (schema, is_understood) in [(r#"{"properties":{}}"#, true), (r#"{"allOf":[]}"#, false), ("{", false)] {
        let mut draft = draft();
        draft.files.insert(1, file("settings.json", LayerKind::Config, schema.as_bytes()));
        draft.release.settings_schema = Some("settings.json".parse().unwrap());
        match (check(draft.seal(&[&signer]), &root(&[&signer], 1)), is_understood) {
            (Ok(()), true) => {}
            (Err(error), false) => assert!(matches!(error, BundleError::MalformedJson { .. }), "{schema}: {error}"),
            (outcome, _) => panic!("{schema}: {outcome:?}"),
        }
    }
}

#[test]
fn c10_stripped_attestations_are_missed() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let draft = draft();
    let [release, oms, cosign] = attestations(&draft, &signer);
    let cases: [(&[Attestation], Predicate); 5] = [
        (&[], Predicate::Release),
        (std::slice::from_ref(&cosign), Predicate::Release),
        (std::slice::from_ref(&release), Predicate::ModelSigning),
        (&[oms.clone(), cosign.clone()], Predicate::Release),
        (&[release.clone(), cosign.clone()], Predicate::ModelSigning),
    ];
    for (attestations, missing) in cases {
        let error = refusal(draft.write(attestations), &root);
        assert_eq!(error.class(), ErrorClass::Signature);
        assert!(matches!(error, BundleError::MissingStatement { statement } if statement == missing.name()), "{error}");
    }
    check(draft.write(&[release, oms]), &root).expect("cosign's statement is not needed");
}

#[test]
fn c10_an_envelope_without_or_with_two_signatures_is_malformed() {
    let attestation = Signer::new(Curve::P256).attest(&draft().release_payload());
    for count in [0, 2] {
        let bytes = edited(attestation.bytes(), |tree| {
            let signature = tree["dsseEnvelope"]["signatures"][0].clone();
            tree["dsseEnvelope"]["signatures"] = Value::Array(vec![signature; count]);
        });
        let error = Attestation::parse("test", bytes).unwrap_err();
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    }
}

#[test]
fn c11_a_signature_under_a_key_of_another_curve_is_wrong() {
    let (small, large) = (Signer::new(Curve::P256), Signer::new(Curve::P384));
    let draft = draft();
    for (signing, named) in [(&small, &large), (&large, &small)] {
        let payload = draft.release_payload();
        let release = Attestation::new(&payload, &signing.signature(PAYLOAD_TYPE, &payload), named.id()).unwrap();
        let error = refusal(draft.write(&[release, named.attest(&draft.oms_payload())]), &root(&[named], 1));
        assert!(matches!(error, BundleError::BadSignature { key, .. } if key == named.id()), "{error}");
    }
}

#[test]
fn c11_keys_other_than_ecdsa_are_refused() {
    // An RSA key, and an Ed25519 key (RFC 8410).
    let rsa = "-----BEGIN PUBLIC KEY-----\n\
        MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf\n\
        9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==\n\
        -----END PUBLIC KEY-----\n";
    let ed25519 = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----\n";
    for pem in [rsa, ed25519] {
        assert!(matches!(PublicKey::from_pem(pem), Err(BundleError::MalformedKey { .. })));
    }
}

#[test]
fn c11_another_hash_in_the_model_signing_statement_is_malformed() {
    for hash in ["md5", "sha1", "blake3", "SHA256"] {
        let error = oms_refusal(|tree| tree["predicate"]["serialization"]["hash_type"] = json!(hash));
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
        let error = oms_refusal(|tree| tree["predicate"]["resources"][0]["algorithm"] = json!(hash));
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    }
}

#[test]
fn c12_a_signature_is_no_identity() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let draft = draft();
    let [release, oms, _] = attestations(&draft, &signer);
    let payload = draft.release_payload();
    let signature = signer.signature(PAYLOAD_TYPE, &payload);
    let twin = Attestation::new(&payload, &malleated(&signature), signer.id()).unwrap();
    assert!(twin.is_signed_by(&signer.public), "(r, n - s) is a right signature too");
    let first = open_and_verify(draft.write(&[release, oms.clone()]), &root).unwrap();
    let second = open_and_verify(draft.write(&[twin, oms]), &root).unwrap();
    assert_eq!(first.identity(), second.identity());
}

#[test]
fn c12_degenerate_signatures_are_wrong() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let draft = draft();
    let [_, oms, _] = attestations(&draft, &signer);
    let payload = draft.release_payload();
    let good = signer.signature(PAYLOAD_TYPE, &payload);
    let (r, s) = der_integers(&good);
    let order = hex::decode(P256_ORDER).unwrap();
    let mut padded = vec![0];
    padded.extend_from_slice(&r);
    let unsigned = |integer: &[u8]| -> Vec<u8> {
        let trimmed: &[u8] = if integer.len() > 32 { &integer[1..] } else { integer };
        [vec![0; 32 - trimmed.len()], trimmed.to_vec()].concat()
    };
    let raw = [unsigned(&r), unsigned(&s)].concat();
    for signature in [
        der_of(&[0], &s),
        der_of(&r, &[0]),
        der_of(&r, &order),
        der_of(&order, &s),
        der_of(&padded, &s),
        raw,
        Vec::new(),
        [good, vec![0]].concat(),
    ] {
        let release = Attestation::new(&payload, &signature, signer.id()).unwrap();
        let error = refusal(draft.write(&[release, oms.clone()]), &root);
        assert!(matches!(error, BundleError::BadSignature { .. }), "{}: {error}", hex::encode(signature));
    }
}

#[test]
fn c13_another_payload_type_is_refused_and_its_signature_is_wrong() {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let payload = draft.release_payload();
    let attestation = signer.attest(&payload);
    let bytes = edited(attestation.bytes(), |tree| tree["dsseEnvelope"]["payloadType"] = json!("application/json"));
    let error = Attestation::parse("test", bytes).unwrap_err();
    assert!(matches!(error, BundleError::WrongField { field: "payloadType", .. }), "{error}");

    // Signed as JSON and presented as a statement.
    let signature = signer.signature("application/json", &payload);
    let release = Attestation::new(&payload, &signature, signer.id()).unwrap();
    let error = refusal(draft.write(&[release, signer.attest(&draft.oms_payload())]), &root(&[&signer], 1));
    assert!(matches!(error, BundleError::BadSignature { .. }), "{error}");
}

#[test]
fn c13_one_statement_is_never_read_as_another() {
    let error = release_refusal(|tree| tree["_type"] = json!("https://in-toto.io/Statement/v0.1"));
    assert!(matches!(error, BundleError::WrongField { field: "_type", .. }), "{error}");

    // A release statement under the name of a model signing statement.
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let [release, _, _] = attestations(&draft, &signer);
    let disguised = edited(&draft.release_payload(), |tree| {
        tree["predicateType"] = json!(Predicate::ModelSigning.uri());
    });
    let error = refusal(draft.write(&[release, signer.attest(&disguised)]), &root(&[&signer], 1));
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");

    let unknown =
        edited(&draft.release_payload(), |tree| tree["predicateType"] = json!("https://slsa.dev/provenance/v1"));
    let error = Attestation::new(&unknown, b"", signer.id()).unwrap_err();
    assert!(matches!(error, BundleError::WrongField { field: "predicateType", .. }), "{error}");
}

#[test]
fn c14_only_pinned_keys_count() {
    let (pinned, stranger) = (Signer::new(Curve::P256), Signer::new(Curve::P256));
    let root = root(&[&pinned], 1);
    let draft = draft();
    let error = refusal(draft.seal(&[&stranger]), &root);
    assert!(
        matches!(&error, BundleError::TooFewSignatures { found: 0, named, .. } if *named == stranger.id().to_string()),
        "{error}"
    );
    // What is asked for is the role's threshold, also when nobody signed.
    let error =
        refusal(draft.seal(&[&stranger]), &root_with(&[(Role::Release, &[&pinned, &Signer::new(Curve::P256)], 2)]));
    assert!(matches!(error, BundleError::TooFewSignatures { found: 0, required: 2, .. }), "{error}");
    // The stranger signs and names the pinned key.
    let payload = draft.release_payload();
    let forged = Attestation::new(&payload, &stranger.signature(PAYLOAD_TYPE, &payload), pinned.id()).unwrap();
    let error = refusal(draft.write(&[forged, pinned.attest(&draft.oms_payload())]), &root);
    assert!(matches!(error, BundleError::BadSignature { .. }), "{error}");
    // A stranger's signature beside the right one neither helps nor harms.
    check(draft.seal(&[&pinned, &stranger]), &root).unwrap();
}

#[test]
fn the_model_signature_is_one_by_a_key_that_vouches_for_the_bundle() {
    let (vendor, site, stranger) = (Signer::new(Curve::P256), Signer::new(Curve::P256), Signer::new(Curve::P256));
    let root = root_with(&[(Role::Release, &[&vendor], 1), (Role::Site, &[&site], 1)]);
    let mut draft = draft();
    let signature = |draft: &Draft, signers: &[&Signer]| {
        open_and_verify(draft.seal(signers), &root).unwrap().model_signature().unwrap().clone()
    };
    // The order of attestations is that of their digests, so each of the others comes first now and then.
    for _ in 0..8 {
        let found = signature(&draft, &[&vendor, &site, &stranger]);
        assert_eq!((found.predicate(), found.key()), (Predicate::ModelSigning, vendor.id()));
    }
    let digest = Digest::of(b"base");
    draft.release.adapter = Some(AdapterBinding { base: digest, tokenizer: digest, chat_template: None });
    for _ in 0..8 {
        assert_eq!(signature(&draft, &[&site, &stranger]).key(), site.id());
    }
}

#[test]
fn c14_a_key_inside_the_bundle_is_malformed() {
    let attestation = Signer::new(Curve::P256).attest(&draft().release_payload());
    let bytes = edited(attestation.bytes(), |tree| {
        tree["verificationMaterial"]["publicKey"]["rawBytes"] = json!("AAAA");
    });
    let error = Attestation::parse("test", bytes).unwrap_err();
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
}

#[test]
fn a_wrong_signature_refuses_even_beside_enough_right_ones() {
    let (first, second) = (Signer::new(Curve::P256), Signer::new(Curve::P384));
    let draft = draft();
    let payload = draft.release_payload();
    let forged = Attestation::new(&payload, &first.signature(PAYLOAD_TYPE, &payload), second.id()).unwrap();
    let [release, oms, _] = attestations(&draft, &first);
    let error = refusal(draft.write(&[release, oms, forged]), &root(&[&first, &second], 1));
    assert!(matches!(error, BundleError::BadSignature { key, .. } if key == second.id()), "{error}");
}

#[test]
fn c15_a_threshold_counts_distinct_keys() {
    let (first, second) = (Signer::new(Curve::P256), Signer::new(Curve::P384));
    let root = root(&[&first, &second], 2);
    let draft = draft();
    let payload = draft.release_payload();
    let [release, oms, _] = attestations(&draft, &first);
    let twin = Attestation::new(&payload, &malleated(&first.signature(PAYLOAD_TYPE, &payload)), first.id()).unwrap();
    for signatures in
        [vec![release.clone()], vec![release.clone(), first.attest(&payload)], vec![release.clone(), twin]]
    {
        let error = refusal(draft.write(&[signatures, vec![oms.clone()]].concat()), &root);
        assert!(matches!(error, BundleError::TooFewSignatures { found: 1, required: 2, .. }), "{error}");
    }
    let both = open_and_verify(draft.write(&[release, second.attest(&payload), oms]), &root).unwrap();
    assert_eq!(both.identity().signers.len(), 2);
}

#[test]
fn signatures_over_different_payloads_do_not_add_up() {
    let (first, second) = (Signer::new(Curve::P256), Signer::new(Curve::P256));
    let draft = draft();
    let other = edited(&draft.release_payload(), |tree| tree["predicate"]["counter"] = json!(8));
    let [release, oms, _] = attestations(&draft, &first);
    let error = refusal(draft.write(&[release, oms, second.attest(&other)]), &root(&[&first, &second], 2));
    assert!(matches!(error, BundleError::DifferingStatements { statement: "release" }), "{error}");
}

#[test]
fn site_keys_sign_adapters_and_nothing_else() {
    let (vendor, site) = (Signer::new(Curve::P256), Signer::new(Curve::P256));
    let root = root_with(&[(Role::Release, &[&vendor], 1), (Role::Site, &[&site], 1)]);
    let base = draft();
    let error = refusal(base.seal(&[&site]), &root);
    assert!(matches!(error, BundleError::TooFewSignatures { role: "release", found: 0, .. }), "{error}");
    assert!(error.to_string().contains("a model is signed by `release` keys alone"), "{error}");
    let mut adapter = draft();
    let digest = Digest::of(b"base");
    adapter.release.adapter = Some(AdapterBinding { base: digest, tokenizer: digest, chat_template: None });
    check(adapter.seal(&[&site]), &root).unwrap();
    check(adapter.seal(&[&vendor]), &root).unwrap();
    // A key that may sign something else, and one that the root does not know.
    let revoker = Signer::new(Curve::P256);
    let other = root_with(&[(Role::Release, &[&vendor], 1), (Role::Revoke, &[&revoker], 1)]);
    for (signer, words) in
        [(&revoker, "an adapter may be signed by `release` or by `site` keys"), (&site, "`site` keys")]
    {
        let told = refusal(adapter.seal(&[signer]), &other).to_string();
        assert!(told.contains(words) && told.contains("trust init") && told.contains("--site-key"), "{told}");
    }
    // One from each role is not two of one.
    let root = root_with(&[
        (Role::Release, &[&vendor, &Signer::new(Curve::P256)], 2),
        (Role::Site, &[&site, &Signer::new(Curve::P256)], 2),
    ]);
    refusal(adapter.seal(&[&vendor, &site]), &root);
}

#[test]
fn c09_statements_with_repeated_keys_are_malformed_even_when_signed() {
    let signer = Signer::new(Curve::P256);
    let payload = String::from_utf8(draft().release_payload()).unwrap();
    for (from, to) in [
        (r#""counter":7"#, r#""counter":1,"counter":7"#),
        (r#""counter":7"#, r#""counter":7.0"#),
        (r#""counter":7"#, r#""counter":9007199254740993"#),
        (r#""counter":7"#, r#""counter":-0"#),
        (r#"{"_type""#, "\u{feff}{\"_type\""),
    ] {
        let changed = payload.replacen(from, to, 1);
        assert_ne!(changed, payload);
        let bytes = changed.as_bytes();
        let error = Attestation::new(bytes, &signer.signature(PAYLOAD_TYPE, bytes), signer.id()).unwrap_err();
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{to}: {error}");
    }
}

#[test]
fn statements_in_another_spelling_are_refused_even_when_signed() {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let [_, oms, _] = attestations(&draft, &signer);
    let payload = String::from_utf8(draft.release_payload()).unwrap();
    for changed in
        [format!("{payload}\n"), payload.replacen(':', ": ", 1), payload.replacen("sample", "\\u0073ample", 1)]
    {
        let error = refusal(draft.write(&[signer.attest(changed.as_bytes()), oms.clone()]), &root(&[&signer], 1));
        assert!(matches!(error, BundleError::NotCanonicalJson { .. }), "{error}");
    }
}

#[test]
fn an_attestation_in_another_spelling_is_refused() {
    let attestation = Signer::new(Curve::P256).attest(&draft().release_payload());
    let text = String::from_utf8(attestation.bytes().to_vec()).unwrap();
    assert!(Attestation::parse("test", text.replacen("==", "", 1).into_bytes()).is_err() || !text.contains("=="));
    for changed in
        [format!("{text} "), text.replacen(r#""keyid":"","#, "", 1), text.replacen(r#","tlogEntries":[]"#, "", 1)]
    {
        assert_ne!(changed, text);
        assert!(Attestation::parse("test", changed.into_bytes()).is_err());
    }
    // Base64 whose unused bits are not zero names the same bytes in another way.
    let payload = STANDARD.encode(b"{\"predicateType\":\"urn:ampoule:bundle-release:v1\"}");
    assert!(payload.ends_with("fQ=="));
    let original = STANDARD.encode(attestation.payload());
    let changed = text.replacen(&original, &payload.replace("fQ==", "fR=="), 1);
    let error = Attestation::parse("test", changed.into_bytes()).unwrap_err();
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
}

#[test]
fn unknown_members_and_values_of_a_statement_are_refused() {
    let error = release_refusal(|tree| tree["predicate"]["extra"] = json!(1));
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    let error = release_refusal(|tree| tree["predicate"]["requires"]["gpu"] = json!(1));
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    for field in ["min", "below"] {
        let version = format!("0.1.0-{}", "a".repeat(123));
        let error = release_refusal(|tree| tree["predicate"]["requires"]["runtime"][field] = json!(version));
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    }
    let error = release_refusal(|tree| tree["predicate"]["notBefore"] = Value::Null);
    assert!(matches!(error, BundleError::NotCanonicalJson { .. }), "{error}");
}

#[test]
fn the_release_statement_must_be_about_this_bundle() {
    let error = release_refusal(|tree| tree["subject"][0]["digest"]["sha256"] = json!("0".repeat(64)));
    assert!(matches!(error, BundleError::WrongSubject { statement: "release", .. }), "{error}");
    let error = release_refusal(|tree| tree["subject"][0]["name"] = json!("other"));
    assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
    let error = release_refusal(|tree| tree["predicate"]["formatVersion"] = json!(2));
    assert!(matches!(error, BundleError::UnsupportedFormat { .. }), "{error}");
    let error = release_refusal(|tree| tree["predicate"]["omsRoot"] = json!(Digest::of(b"x").to_string()));
    assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
    for (field, value) in [("name", "other"), ("version", "9.9.9")] {
        let error = release_refusal(|tree| {
            tree["predicate"][field] = json!(value);
            if field == "name" {
                tree["subject"][0]["name"] = json!(value);
            }
        });
        assert!(matches!(error, BundleError::Disagreement { .. }), "{field}: {error}");
    }
    let error = release_refusal(|tree| tree["predicate"]["settingsSchema"] = json!("absent.json"));
    assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
}

#[test]
fn weight_headers_must_be_the_signed_ones() {
    let header = |tree: &mut Value, field: &str, value: Value| tree["predicate"]["weights"][0][field] = value;
    let error = release_refusal(|tree| header(tree, "headerDigest", json!(Digest::of(b"x").to_string())));
    assert!(matches!(error, BundleError::DigestMismatch { .. }), "{error}");
    let error = release_refusal(|tree| header(tree, "headerLength", json!(9)));
    assert!(matches!(error, BundleError::DigestMismatch { .. }), "{error}");
    let error = release_refusal(|tree| header(tree, "headerLength", json!(1u64 << 50)));
    assert!(matches!(error, BundleError::TooLarge { .. }), "{error}");
    // The bytes are the signed ones, and there are more of them than the header has.
    let content = draft().files.remove(3).2;
    let more = &content[..content.len() - 8];
    let error = release_refusal(|tree| {
        header(tree, "headerLength", json!(more.len()));
        header(tree, "headerDigest", json!(Digest::of(more).to_string()));
    });
    let length = matches!(&error, BundleError::WeightHeader { defect: WeightHeaderError::Length { .. }, .. });
    assert!(length, "{error}");
    let error = release_refusal(|tree| header(tree, "path", json!("other.safetensors")));
    assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
    let error = release_refusal(|tree| tree["predicate"]["weights"] = json!([]));
    assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
}

#[test]
fn weight_headers_are_capped_together() {
    let signer = Signer::new(Curve::P256);
    let mut draft = draft();
    for name in ["x.gguf", "y.gguf"] {
        draft.files.push(file(name, LayerKind::Weight, &[name.as_bytes(), b"GGUF"].concat()));
    }
    let release = signer.attest(&edited(&draft.release_payload(), |tree| {
        for header in tree["predicate"]["weights"].as_array_mut().unwrap() {
            header["headerLength"] = json!(48u64 << 20);
        }
    }));
    let bytes = draft.write(&[release, signer.attest(&draft.oms_payload())]);
    let error = refusal(bytes, &root(&[&signer], 1));
    assert!(matches!(error, BundleError::TooLarge { found, .. } if found == 144 << 20), "{error}");
}

#[test]
fn the_model_signing_statement_must_list_exactly_the_files() {
    let resources = |tree: &mut Value| -> Vec<Value> { tree["predicate"]["resources"].as_array().unwrap().clone() };
    for change in [
        (|list| drop(list.pop())) as fn(&mut Vec<Value>),
        |list| list.push(list[0].clone()),
        |list| list.swap(0, 1),
        |list| list[0]["digest"] = json!("0".repeat(64)),
        |list| list[0]["name"] = json!("other"),
        |list| list.clear(),
    ] {
        let error = oms_refusal(|tree| {
            let mut list = resources(tree);
            change(&mut list);
            tree["predicate"]["resources"] = Value::Array(list);
        });
        assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
        assert_eq!(error.class(), ErrorClass::Signature);
    }
    let error = oms_refusal(|tree| tree["subject"][0]["digest"]["sha256"] = json!("0".repeat(64)));
    assert!(matches!(error, BundleError::WrongSubject { statement: "model signing", .. }), "{error}");
    let error = oms_refusal(|tree| tree["subject"][0]["name"] = json!("other"));
    assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
    let error = oms_refusal(|tree| tree["predicate"]["serialization"]["allow_symlinks"] = json!(true));
    assert!(matches!(error, BundleError::WrongField { field: "serialization", .. }), "{error}");
}

#[test]
fn a_cosign_statement_about_something_else_is_refused() {
    let signer = Signer::new(Curve::P256);
    let draft = draft();
    let [release, oms, _] = attestations(&draft, &signer);
    let subject = Digest::of(b"something else");
    let cosign = Statement { subject_name: String::new(), subject, predicate: CosignStatement {} }.to_payload();
    let attestations = [release.clone(), oms.clone(), signer.attest(&cosign)];
    let error = refusal(draft.write(&attestations), &root(&[&signer], 1));
    assert!(matches!(error, BundleError::WrongSubject { statement: "cosign", .. }), "{error}");
    let subject = draft.manifest().digest();
    let cosign = Statement { subject_name: "sample".to_owned(), subject, predicate: CosignStatement {} }.to_payload();
    let error = refusal(draft.write(&[release, oms, signer.attest(&cosign)]), &root(&[&signer], 1));
    assert!(matches!(error, BundleError::WrongField { field: "subject", .. }), "{error}");
}

#[test]
fn c20_layers_cannot_be_mixed_between_bundles_or_paths() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let ours = draft();
    // Attestations of one bundle in another whose tokenizer is different.
    let mut theirs = draft();
    theirs.files[1] = file("tokenizer.json", LayerKind::Config, br#"{"version":"2.0"}"#);
    let error = refusal(theirs.write(&ours.attestations(&[&signer])), &root);
    assert!(matches!(error, BundleError::WrongSubject { .. }), "{error}");
    // The same files under each other's paths.
    let mut renamed = draft();
    let first = renamed.files[0].2.clone();
    renamed.files[0].2 = std::mem::replace(&mut renamed.files[1].2, first);
    let error = refusal(renamed.write(&ours.attestations(&[&signer])), &root);
    assert!(matches!(error, BundleError::WrongSubject { .. }), "{error}");
    // Release of one bundle, model signing of the other.
    let [release, _, _] = attestations(&ours, &signer);
    let [_, oms, _] = attestations(&theirs, &signer);
    let error = refusal(ours.write(&[release, oms]), &root);
    assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
}

#[test]
fn c20_swapped_layers_of_one_size_are_refused() {
    let signer = Signer::new(Curve::P256);
    let root = root(&[&signer], 1);
    let mut draft = draft();
    draft.files[0].2 = b"AAAAAAAAAAAAAAAA".to_vec();
    draft.files[1].2 = b"BBBBBBBBBBBBBBBB".to_vec();
    let mut bytes = draft.seal(&[&signer]);
    let find = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).position(|window| window == text).unwrap();
    let (first, second) = (find(&bytes, &draft.files[0].2), find(&bytes, &draft.files[1].2));
    bytes[first..first + 16].copy_from_slice(b"BBBBBBBBBBBBBBBB");
    bytes[second..second + 16].copy_from_slice(b"AAAAAAAAAAAAAAAA");
    let error = refusal(bytes, &root);
    assert!(matches!(error, BundleError::DigestMismatch { .. }), "{error}");
}
