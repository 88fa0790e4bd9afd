//! Sealing by the word of a private authority: the chain is shown with the signatures, and other people's tools take it.

use std::path::Path;
use std::process::Command;

use ampoule_bundle::{BundleError, PublicKey, SealedBundle, TrustRoot};
use ampoule_sealing::SealingError;
use ampoule_sealing::countersign::countersign;
use ampoule_sealing::export::export;
use ampoule_sealing::keys::SigningKey;
use ampoule_sealing::password::Password;
use ampoule_sealing::seal::seal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SignatureAlgorithm, date_time_ymd,
};

use crate::support::{fixtures, in_client_venv, other_key, request, tool, write_model};

/// The name that the leaf has.
const ALICE: &str = "alice@vendor.example";

/// A key as an authority sees it: the point alone.
struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

fn point_of(key: &SigningKey) -> Point {
    let body: String = key.public_pem().lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).unwrap();
    Point(der[der.len() - 65..].to_vec())
}

fn test_key() -> SigningKey {
    let keys = fixtures().join("keys");
    SigningKey::open(&keys.join("test.key"), &Password::from_file(&keys.join("test.password")).unwrap()).unwrap()
}

/// Writes `ca.pem`, and for the test key `chain.pem` with an issuer between them and `tls.pem`, which is for servers.
fn write_chains(folder: &Path) {
    let of_authority = |name: &str| {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2100, 1, 1));
        parameters
    };
    let ca = CertifiedIssuer::self_signed(of_authority("ca"), KeyPair::generate().unwrap()).unwrap();
    let middle = CertifiedIssuer::signed_by(of_authority("middle"), KeyPair::generate().unwrap(), &ca).unwrap();
    let leaf = |purpose| {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.extended_key_usages = vec![purpose];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.subject_alt_names = vec![SanType::Rfc822Name(ALICE.try_into().unwrap())];
        (parameters.not_before, parameters.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2099, 1, 1));
        parameters.signed_by(&point_of(&test_key()), &middle).unwrap().pem()
    };
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    write("ca.pem", ca.pem());
    write("chain.pem", leaf(ExtendedKeyUsagePurpose::CodeSigning) + &middle.pem());
    write("tls.pem", leaf(ExtendedKeyUsagePurpose::ServerAuth) + &middle.pem());
}

/// A root made by the command line, whose only release entry is the authority.
fn root(folder: &Path, authority: &str) -> TrustRoot {
    let spare = fixtures().join("keys/other.pub").display().to_string();
    let out = folder.join("root.json");
    let output = Command::new(env!("CARGO_BIN_EXE_ampoule-seal"))
        .current_dir(folder)
        .args(["trust", "init", "--root-key", &spare, "--release-authority", authority, "--out", "root.json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = std::fs::read(&out).unwrap();
    std::fs::remove_file(&out).unwrap();
    TrustRoot::pin(&bytes).unwrap()
}

fn open(path: &Path) -> SealedBundle {
    SealedBundle::open(std::fs::File::open(path).unwrap()).unwrap()
}

#[test]
fn a_certified_key_seals_for_whoever_pins_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_chains(folder.path());
    write_model(&path("model"));
    let key = test_key().with_chain(&path("chain.pem")).unwrap();
    seal(&request(&path("model")), &key, &path("certified.bundle")).unwrap();
    let verified = |authority: &str| open(&path("certified.bundle")).verify(&root(folder.path(), authority));
    verified("ca.pem").unwrap().check_weights(&|_| ()).unwrap();
    verified(&format!("ca.pem={ALICE}")).unwrap();
    let error = verified("ca.pem=bob@vendor.example").err().expect("somebody else");
    assert!(matches!(error, BundleError::TooFewSignatures { found: 0, .. }), "{error}");

    // A certified key beside a bare one.
    countersign(&path("certified.bundle"), other_key(), &path("both.bundle")).unwrap();
    open(&path("both.bundle")).verify(&root(folder.path(), "ca.pem")).unwrap();
}

#[test]
fn a_chain_that_cannot_sign_is_refused_before_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_chains(folder.path());
    let refused = test_key().with_chain(&path("tls.pem")).err().expect("it is for servers");
    assert!(matches!(refused, SealingError::UnfitLeaf { .. }), "{refused}");
    let refused = test_key().with_chain(&path("ca.pem")).err().expect("it is another key's");
    let expected = PublicKey::from_pem(test_key().public_pem()).unwrap().id();
    let names = matches!(refused, SealingError::ChainOfAnotherKey { expected: found, .. } if found == expected);
    assert!(names, "{refused}");
    std::fs::write(path("none.pem"), "-----BEGIN PUBLIC KEY-----\n").unwrap();
    let refused = test_key().with_chain(&path("none.pem")).err().expect("it is no chain");
    assert!(matches!(refused, SealingError::UnusableChain { .. }), "{refused}");
}

#[test]
fn openssf_s_client_verifies_the_certified_signature() {
    let test = "openssf_s_client_verifies_the_certified_signature";
    let Some(client) = tool(test, in_client_venv("model_signing"), "model_signing") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_chains(folder.path());
    write_model(&path("model"));
    let key = test_key().with_chain(&path("chain.pem")).unwrap();
    seal(&request(&path("model")), &key, &path("certified.bundle")).unwrap();
    export(&path("certified.bundle"), None, &path("plain")).unwrap();
    let verify = || {
        let mut command = Command::new(&client);
        command.current_dir(folder.path()).args(["verify", "certificate", "plain", "--signature", "plain/model.sig"]);
        command.args(["--certificate_chain", "ca.pem"]).output().unwrap()
    };
    let output = verify();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(path("plain/config.json"), "{}").unwrap();
    assert!(!verify().status.success(), "a changed file is refused");
}
