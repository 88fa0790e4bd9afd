//! `ampoule-seal sign` on a bundle: one key more, and the same bundle.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use ampoule_bundle::{
    Attestation, BundleError, PAYLOAD_TYPE, PublicKey, Role, RootDocument, SealedBundle, Source, TrustRoot, archive,
    pre_authentication_encoding,
};
use ampoule_sealing::SealingError;
use ampoule_sealing::countersign::{BundleForm, countersign};
use ampoule_sealing::diff::diff;
use ampoule_sealing::keys::SigningKey;
use ampoule_sealing::seal::seal;

use crate::support::{fixtures, other_key, request, root, test_key, time, write_model};

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_pem(key.public_pem()).unwrap()
}

/// A root in which both keys must sign.
fn root_of_both() -> TrustRoot {
    let keys = [public(test_key()), public(other_key())];
    TrustRoot::pin(&RootDocument::new(1, time("2100-01-01T00:00:00Z"), &[(Role::Release, &keys, 2)]).to_bytes())
        .unwrap()
}

fn open(path: &Path) -> SealedBundle {
    SealedBundle::open(File::open(path).unwrap()).unwrap()
}

/// A folder with `one.bundle`, sealed by the test key.
fn sealed() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_model(&folder.path().join("model"));
    seal(&request(&folder.path().join("model")), test_key(), &folder.path().join("one.bundle")).unwrap();
    folder
}

#[test]
fn c15_a_second_key_completes_a_threshold_and_changes_nothing_else() {
    let folder = sealed();
    let (one, two) = (folder.path().join("one.bundle"), folder.path().join("two.bundle"));
    let refused = open(&one).verify(&root_of_both()).err().expect("one of two has signed");
    assert!(matches!(refused, BundleError::TooFewSignatures { found: 1, required: 2, .. }), "{refused}");
    countersign(&one, other_key(), &two).unwrap();

    let both = open(&two).verify(&root_of_both()).unwrap();
    both.check_weights(&|_| ()).unwrap();
    let before = open(&one).verify(&root()).unwrap();
    assert_eq!(both.identity().manifest, before.identity().manifest);
    assert_eq!(both.release(), before.release());
    assert_eq!(both.identity().signers.len(), 2);
    // All that was there is there still, beside as many attestations by the other key.
    let digests = |path: &Path| -> Vec<_> {
        open(path)
            .unverified_attestations()
            .iter()
            .map(|attestation| (attestation.digest(), attestation.key()))
            .collect()
    };
    let (old, new) = (digests(&one), digests(&two));
    let added = new.iter().filter(|entry| !old.contains(entry));
    assert!(old.iter().all(|entry| new.contains(entry)));
    assert_eq!(added.map(|(_, key)| *key).collect::<Vec<_>>(), [public(other_key()).id(); 3]);
}

#[test]
fn a_key_that_has_signed_signs_no_second_time() {
    let folder = sealed();
    let one = folder.path().join("one.bundle");
    let before = std::fs::read(&one).unwrap();
    let refused = countersign(&one, test_key(), &one).err().expect("it has signed already");
    assert!(matches!(refused, SealingError::AlreadySigned { what: "bundle", .. }), "{refused}");
    assert_eq!(std::fs::read(&one).unwrap(), before);
}

/// The bundle at `path` with these attestations in the place of its own.
fn with_attestations(path: &Path, attestations: &[Attestation]) {
    let sealed = open(path);
    let manifest = sealed.unverified_manifest();
    let layers: Vec<_> = (0..manifest.layers().len()).map(|index| sealed.layer(index)).collect();
    let layers: Vec<&dyn Source> = layers.iter().map(|layer| layer as &dyn Source).collect();
    let config = sealed.unverified_config().to_bytes();
    let contents = archive::Contents { manifest, config: &config, attestations, layers: &layers };
    let mut bytes = Vec::new();
    archive::write(&contents, &mut bytes).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn statements_that_differ_and_a_signature_that_is_forged_are_not_signed_beside() {
    let folder = sealed();
    let one = folder.path().join("one.bundle");
    let of = |payload: &[u8], signing: &SigningKey, named: &SigningKey| {
        let signature = signing.sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload)).unwrap();
        Attestation::new(payload, &signature, public(named).id()).unwrap()
    };
    let own = open(&one).unverified_attestations().to_vec();
    let payload = own[0].payload();
    let other = String::from_utf8(payload.to_vec()).unwrap().replace("\"counter\":7", "\"counter\":8").into_bytes();
    assert_ne!(other, payload);

    with_attestations(&one, &[&own[..], &[of(payload, test_key(), other_key())]].concat());
    let refused = countersign(&one, other_key(), &one).err().expect("it is forged");
    assert!(matches!(refused, SealingError::Bundle(BundleError::BadSignature { .. })), "{refused}");
    assert_eq!(refused.exit_code(), 11);

    with_attestations(&one, &[&own[..], &[of(&other, test_key(), test_key())]].concat());
    let refused = countersign(&one, other_key(), &one).err().expect("they differ");
    assert!(matches!(refused, SealingError::Bundle(BundleError::DifferingStatements { .. })), "{refused}");

    // A statement about another manifest is noticed when the result is read back.
    let manifest = open(&one).unverified_manifest().digest().to_hex();
    let moved = String::from_utf8(payload.to_vec()).unwrap().replace(&manifest, &"0".repeat(64)).into_bytes();
    with_attestations(&one, &[vec![of(&moved, test_key(), test_key())], own[1..].to_vec()].concat());
    let before = std::fs::read(&one).unwrap();
    let refused = countersign(&one, other_key(), &one).err().expect("it is about another bundle");
    let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(matches!(refused, SealingError::UnusableBundle(_)) && cause.contains("is about"), "{refused}: {cause}");
    assert_eq!(std::fs::read(&one).unwrap(), before);
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let key = fixtures().join("keys/other.key").display().to_string();
    let password = fixtures().join("keys/test.password").display().to_string();
    let key = ["--key", &key, "--password-file", &password];
    Command::new(env!("CARGO_BIN_EXE_ampoule-seal"))
        .current_dir(folder)
        .args([arguments, &key].concat())
        .output()
        .unwrap()
}

#[test]
fn a_bundle_is_told_by_its_first_bytes() {
    let folder = sealed();
    let path = |name: &str| folder.path().join(name);
    assert_eq!(BundleForm::of(&path("one.bundle")).unwrap(), Some(BundleForm::Whole));
    std::fs::write(path("archive.bundle"), "oci-layout").unwrap();
    assert_eq!(BundleForm::of(&path("archive.bundle")).unwrap(), None);
    let code = |arguments: &[&str]| {
        let output = run(folder.path(), arguments);
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    assert_eq!(code(&["sign", "archive.bundle"]).0, 0);
    assert!(path("archive.bundle.sig").is_file());
    assert_eq!(code(&["sign", "archive.bundle", "--out", "two.bundle"]).0, 2);

    assert_eq!(code(&["sign", "one.bundle", "--out", "two.bundle"]).0, 0);
    diff(&path("one.bundle"), &path("two.bundle"), &path("thin.bundle")).unwrap();
    let (exit, text) = code(&["sign", "thin.bundle"]);
    assert!(exit == 2 && text.contains("thin.bundle is a thin bundle: "), "{text}");
    assert!(!path("thin.bundle.sig").exists());
    let (exit, text) = code(&["sign", "one.bundle", "--out", "two.bundle"]);
    assert!(exit == 1 && text.contains("two.bundle exists already"), "{text}");
    assert_eq!(code(&["sign", "one.bundle"]).0, 0, "in place");
    open(&path("one.bundle")).verify(&root_of_both()).unwrap();
    assert!(!path("one.bundle.sig").exists());
    let (exit, text) = code(&["sign", "one.bundle"]);
    assert!(exit == 1 && text.contains("has signed this bundle already"), "{text}");
}
