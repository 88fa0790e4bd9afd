//! Trust roots that contradict themselves are refused.

use ampoule_bundle::trust::{RevocationDocument, RevocationPart, RootSummary};
use ampoule_bundle::{BundleError, Curve, Digest, Epoch, Role, RootDocument, TrustRoot};
use serde_json::{Value, json};

use crate::sample::{Signer, root_document, signed, time};

fn document() -> (Signer, Value) {
    let signer = Signer::new(Curve::P256);
    let roles = [(Role::Release, std::slice::from_ref(&signer.public), 1)];
    let bytes = RootDocument::new(3, time("2036-01-01T00:00:00Z"), &roles).to_bytes();
    let tree = serde_json::from_slice(&bytes).unwrap();
    (signer, tree)
}

fn refusal(change: impl FnOnce(&Signer, &mut Value)) -> BundleError {
    let (signer, mut tree) = document();
    change(&signer, &mut tree);
    TrustRoot::pin(tree.to_string().as_bytes()).expect_err("the root must be refused")
}

#[test]
fn a_root_is_read_as_written() {
    let (signer, tree) = document();
    let text = tree.to_string();
    let root = TrustRoot::pin(text.as_bytes()).unwrap();
    assert_eq!((root.version(), root.expires()), (3, time("2036-01-01T00:00:00Z")));
    assert_eq!(root.digest(), Digest::of(text.as_bytes()));
    assert_eq!(root.key(signer.id()), Some(&signer.public));
    assert_eq!(root.role(Role::Release).unwrap().threshold, 1);
    assert!(root.role(Role::Site).is_none());
}

#[test]
fn contradictions_are_refused() {
    let key = |signer: &Signer| signer.id().to_string();
    let contradictions: [fn(&Signer, &mut Value); 10] = [
        |_, tree| (tree["signed"]["minimum_epoch"], tree["signed"]["maximum_epoch"]) = (json!(3), json!(2)),
        |_, tree| tree["signed"]["version"] = json!(0),
        |_, tree| tree["signed"]["spec_version"] = json!("2.0.0"),
        |_, tree| tree["signed"]["roles"] = json!({}),
        |_, tree| tree["signed"]["roles"]["release"]["threshold"] = json!(0),
        |_, tree| tree["signed"]["roles"]["release"]["threshold"] = json!(2),
        |_, tree| tree["signed"]["roles"]["release"]["keyids"] = json!([]),
        |_, tree| tree["signed"]["roles"]["site"] = json!({"keyids": ["0".repeat(64)], "threshold": 1}),
        |signer, tree| tree["signed"]["keys"][signer.id().to_string()]["keytype"] = json!("rsa"),
        |signer, tree| tree["signed"]["keys"][signer.id().to_string()]["scheme"] = json!("ecdsa-sha2-nistp384"),
    ];
    for (index, change) in contradictions.into_iter().enumerate() {
        let error = refusal(change);
        assert!(matches!(error, BundleError::MalformedTrustRoot { .. }), "{index}: {error}");
    }
    let error = refusal(|_, tree| tree["signed"]["_type"] = json!("targets"));
    assert!(matches!(error, BundleError::WrongField { field: "_type", .. }), "{error}");
    let error = refusal(|signer, tree| {
        let moved = tree["signed"]["keys"].as_object_mut().unwrap().remove(&key(signer)).unwrap();
        tree["signed"]["keys"]["0".repeat(64)] = moved;
    });
    assert!(matches!(error, BundleError::MalformedTrustRoot { .. }), "a key under another id: {error}");
}

#[test]
fn c09_a_root_with_a_repeated_key_is_malformed() {
    let (signer, tree) = document();
    let text = tree.to_string();
    let id = signer.id().to_string();
    for (from, to) in [
        ("\"threshold\":1".to_owned(), "\"threshold\":1,\"threshold\":1".to_owned()),
        (format!("\"{id}\":{{"), format!("\"{id}\":null,\"{id}\":{{")),
        ("\"_type\"".to_owned(), "\"roles\":{},\"_type\"".to_owned()),
    ] {
        let changed = text.replacen(&from, &to, 1);
        assert_ne!(changed, text, "{from}");
        let error = TrustRoot::pin(changed.as_bytes()).unwrap_err();
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    }
}

#[test]
fn a_list_never_stands_for_an_object() {
    let error = refusal(|_, tree| {
        tree["signed"]["roles"]["release"] = json!([tree["signed"]["roles"]["release"]["keyids"], 1])
    });
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    let error = refusal(|_, tree| *tree = json!([tree["signatures"], tree["signed"]]));
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
}

#[test]
fn signatures_are_hex() {
    let signed = |sig: &str| {
        let (signer, mut tree) = document();
        tree["signatures"] = json!([{"keyid": signer.id(), "sig": sig}]);
        TrustRoot::pin(tree.to_string().as_bytes())
    };
    signed("3044").unwrap();
    for sig in ["", "3", "30 4", "304X", "AB", "ä"] {
        let error = signed(sig).unwrap_err();
        assert!(matches!(error, BundleError::MalformedSignature { .. }), "{sig}: {error}");
    }
}

#[test]
fn what_is_signed_has_one_value_for_one_meaning() {
    for absent in ["minimum_epoch", "maximum_epoch"] {
        let error = refusal(|_, tree| tree["signed"][absent] = Value::Null);
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    }
    let other = Signer::new(Curve::P384);
    let error = refusal(|signer, tree| {
        tree["signed"]["keys"][other.id().to_string()] = json!({
            "keytype": "ecdsa", "keyval": {"public": other.public.to_pem()}, "scheme": "ecdsa-sha2-nistp384"
        });
        let mut ids = [signer.id(), other.id()];
        ids.sort();
        ids.reverse();
        tree["signed"]["roles"]["release"]["keyids"] = json!(ids);
    });
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
}

#[test]
fn c15_one_key_has_one_id() {
    // The same key with other line ends would have another id and count twice.
    let error = refusal(|signer, tree| {
        let pem = signer.public.to_pem().replace('\n', "\r\n");
        tree["signed"]["keys"][signer.id().to_string()]["keyval"]["public"] = json!(pem);
    });
    assert!(matches!(error, BundleError::MalformedKey { .. }), "{error}");
    let (signer, mut tree) = document();
    tree["signed"]["roles"]["release"] = json!({"keyids": [signer.id(), signer.id()], "threshold": 2});
    assert!(TrustRoot::pin(tree.to_string().as_bytes()).is_err(), "one key named twice is one key");
}

#[test]
fn c09_roots_are_strict_json() {
    let (_, tree) = document();
    let text = tree.to_string();
    for other in [
        text.replacen(r#""version":3"#, r#""version":2,"version":3"#, 1),
        text.replacen(r#""version":3"#, r#""version":3.0"#, 1),
        text.replacen(r#""version":3"#, r#""version":3,"extra":1"#, 1),
        format!("{text}{text}"),
        format!("\u{feff}{text}"),
    ] {
        assert_ne!(other, text);
        assert!(matches!(TrustRoot::pin(other.as_bytes()), Err(BundleError::MalformedJson { .. })));
    }
    assert!(matches!(TrustRoot::pin(&vec![b' '; (1 << 20) + 1]), Err(BundleError::TooLarge { .. })));
}

#[test]
fn a_root_is_told_in_words() {
    let [root_key, other, revoked, revoker] = std::array::from_fn(|_| Signer::new(Curve::P256));
    let document = |minimum, maximum| {
        let release: &[&Signer] = &[&revoked, &root_key];
        let roles =
            [(Role::Root, &[&root_key, &other][..], 1), (Role::Release, release, 2), (Role::Revoke, &[&revoker], 1)];
        let mut document = root_document(4, &roles);
        (document.signed.minimum_epoch, document.signed.maximum_epoch) = (minimum, maximum);
        signed(&document, &[&root_key])
    };
    for (minimum, maximum, words) in
        [(None, None, "any"), (None, Some(3), "0 to 3"), (Some(2), Some(3), "2 to 3"), (Some(2), None, "2 and higher")]
    {
        let root = TrustRoot::pin(&document(minimum.map(Epoch), maximum.map(Epoch))).unwrap();
        let told = RootSummary::of(&root).to_string();
        assert!(told.contains(&format!("epochs      {words}\n")) && !told.contains("revoked "), "{words}: {told}");
    }
    let bytes = document(None, None);
    let mut list = RevocationPart::new(5, time("2026-02-01T00:00:00Z"));
    list.keys.insert(revoked.id());
    let list = signed(&RevocationDocument::unsigned(list), &[&revoker]);
    let summary = RootSummary::of(&TrustRoot::pin(&bytes).unwrap().with_revocations(&list).unwrap());
    let told = summary.to_string();
    // Who signed the root is told where root keys are listed, and nowhere else.
    let notes = |signer: &Signer| -> Vec<&str> {
        let id = signer.id().to_string();
        told.lines().filter_map(|line| line.trim_start().strip_prefix(id.as_str())).collect()
    };
    assert_eq!(notes(&root_key), [" (ecdsa-sha2-nistp256, signed this root)", " (ecdsa-sha2-nistp256)"]);
    assert_eq!(notes(&other), [" (ecdsa-sha2-nistp256)"]);
    assert_eq!(notes(&revoked), [" (ecdsa-sha2-nistp256, REVOKED)"]);
    for line in [
        "trust root  version 4, expires 2036-01-01T00:00:00Z",
        &format!("digest      {}", Digest::of(&bytes)),
        "root        1 of 2 must sign the next trust root",
        "release     2 of 2 must sign any bundle, and downgrade tokens",
        "revoke      1 of 1 must sign revocation lists",
        "revoked     list version 5 of 2026-02-01T00:00:00Z: 1 keys, 0 manifests, minimum counters of 0 names",
    ] {
        assert!(told.lines().any(|found| found == line), "{line}: {told}");
    }
    let tree = serde_json::to_value(&summary).unwrap();
    assert_eq!(tree["revocations"]["digest"], json!(Digest::of(&list)));
    assert_eq!(tree["signed_by"], json!([root_key.id()]));
}
