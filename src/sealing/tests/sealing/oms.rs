//! `ampoule-seal oms`: what a signature of OpenSSF's format must not be able to do, by exit code, and whose certificates
//! hold.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use ampoule_bundle::{BUNDLE_MEDIA_TYPE, Digest, KeyId, PAYLOAD_TYPE, pre_authentication_encoding};
use ampoule_sealing::SealingError;
use ampoule_sealing::keys::SigningKey;
use ampoule_sealing::oms::{self, OmsError, OmsKey, Selection, Signer, Trust};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{fixtures, on_path, other_key, test_key, time, tool};

mod certificates;

/// A folder `model` of two files, with room for a signature beside it.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("model/deep")).unwrap();
    fs::write(place.path().join("model/deep/é"), "content").unwrap();
    fs::write(place.path().join("model/-rf"), "").unwrap();
    place
}

fn run(place: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ampoule-seal")).current_dir(place).arg("oms").args(arguments).output().unwrap()
}

fn sign(place: &Path, more: &[&str]) -> Output {
    let keys = fixtures().join("keys");
    let (key, password) = (keys.join("test.key"), keys.join("test.password"));
    let mut arguments = vec!["sign", "model", "--signature", "sig", "--key", key.to_str().unwrap()];
    arguments.extend(["--password-file", password.to_str().unwrap()]);
    arguments.extend(more);
    run(place, &arguments)
}

fn verify(place: &Path, more: &[&str]) -> Output {
    let key = fixtures().join("keys/test.pub");
    let mut arguments = vec!["verify", "model", "--signature", "sig", "--public-key", key.to_str().unwrap()];
    arguments.extend(more);
    run(place, &arguments)
}

#[track_caller]
fn expect(output: &Output, code: i32, message: &str) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(message), "expected `{message}` in: {told}");
}

/// A statement about `resources`, whose root fits.
fn statement(resources: &Value) -> Value {
    let digests: Vec<u8> =
        resources.as_array().unwrap().iter().flat_map(|one| hex(one["digest"].as_str().unwrap())).collect();
    let root = Digest::of(&digests).to_string();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": root.trim_start_matches("sha256:")}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": false},
            "resources": resources,
        },
    })
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn resource(name: &str, content: &[u8]) -> Value {
    let digest = Digest::of(content).to_string();
    json!({"name": name, "algorithm": "sha256", "digest": digest.trim_start_matches("sha256:")})
}

/// Puts a signature of `payload` by the key that the verifier trusts, or by another, beside the model.
fn forge(place: &Path, payload: &str, key: &SigningKey) {
    let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload.as_bytes())).unwrap();
    let file = json!({
        "mediaType": BUNDLE_MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": KeyId::of_pem(key.public_pem()).to_string()}},
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": STANDARD.encode(signature)}],
        },
    });
    fs::write(place.join("sig"), file.to_string()).unwrap();
}

#[test]
fn a_folder_is_signed_and_verified_and_every_change_is_told_by_name() {
    let place = place();
    let place = place.path();
    expect(&sign(place, &["--json"]), 0, "");
    let verified = verify(place, &["--json"]);
    expect(&verified, 0, "");
    let verified: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&verified["resources"], &verified["bytes"]), (&json!(2), &json!(7)));

    fs::write(place.join("model/deep/é"), "Content").unwrap();
    expect(&verify(place, &[]), 11, "changed: deep/é");
    fs::remove_file(place.join("model/deep/é")).unwrap();
    expect(&verify(place, &[]), 11, "missing: deep/é");
    symlink("../../outside", place.join("model/deep/é")).unwrap();
    fs::write(place.join("outside"), "content").unwrap();
    expect(&verify(place, &[]), 10, "deep/é is a symbolic link");
    expect(&verify(place, &["--ignore-unsigned-files"]), 10, "deep/é is a symbolic link");
    expect(&verify(place, &["--allow-symlinks"]), 0, "");
    fs::remove_file(place.join("model/deep/é")).unwrap();
    fs::write(place.join("model/deep/é"), "content").unwrap();
    fs::write(place.join("model/new\u{1b}[31m"), "").unwrap();
    expect(&verify(place, &[]), 11, r"not signed: new\u{1b}[31m");
    expect(&verify(place, &["--ignore-unsigned-files"]), 0, "");
    expect(&verify(place, &["--ignore-paths", "model/new\u{1b}[31m"]), 0, "");
    fs::remove_file(place.join("model/new\u{1b}[31m")).unwrap();
    fs::rename(place.join("model"), place.join("moved")).unwrap();
    symlink("moved", place.join("model")).unwrap();
    expect(&verify(place, &[]), 10, "model is a symbolic link");
    expect(&verify(place, &["--allow-symlinks"]), 0, "");
    assert!(Command::new("mkfifo").arg(place.join("moved/pipe")).status().unwrap().success());
    expect(&verify(place, &["--allow-symlinks"]), 10, "pipe is neither a file nor a folder");
}

#[test]
fn what_belongs_to_git_is_left_out_unless_it_is_asked_for() {
    let place = place();
    let place = place.path();
    fs::create_dir(place.join("model/.git")).unwrap();
    fs::write(place.join("model/.git/HEAD"), "old").unwrap();
    expect(&sign(place, &[]), 0, "");
    fs::write(place.join("model/.git/HEAD"), "new").unwrap();
    expect(&verify(place, &[]), 0, "");
    expect(&sign(place, &["--no-ignore-git-paths"]), 1, "sig exists already: choose another name");
    expect(&verify(place, &[]), 0, "");
    expect(&sign(place, &["--no-ignore-git-paths", "--force"]), 0, "");
    expect(&verify(place, &["--no-ignore-git-paths"]), 0, "");
    expect(&verify(place, &[]), 11, "missing: .git/HEAD");
    fs::write(place.join("model/.git/HEAD"), "newer").unwrap();
    expect(&verify(place, &["--no-ignore-git-paths"]), 11, "changed: .git/HEAD");
}

#[test]
fn c10_c14_nobody_else_has_signed() {
    let place = place();
    let place = place.path();
    let good = statement(&json!([resource("-rf", b""), resource("deep/é", b"content")])).to_string();
    forge(place, &good, test_key());
    expect(&verify(place, &[]), 0, "");
    let sound: Value = serde_json::from_slice(&fs::read(place.join("sig")).unwrap()).unwrap();
    forge(place, &good, other_key());
    expect(&verify(place, &[]), 11, "the signature says that the key");

    // The hint of the trusted key on the signature of another, and a key that the signature brings along.
    let mut lying: Value = serde_json::from_slice(&fs::read(place.join("sig")).unwrap()).unwrap();
    lying["verificationMaterial"] = sound["verificationMaterial"].clone();
    fs::write(place.join("sig"), lying.to_string()).unwrap();
    expect(&verify(place, &[]), 11, "the signature is not one of the key");
    lying["verificationMaterial"]["publicKey"] = json!({"rawBytes": "AA==", "keyDetails": "PKIX_ECDSA_P256_SHA_256"});
    fs::write(place.join("sig"), lying.to_string()).unwrap();
    expect(&verify(place, &[]), 11, "the signature is not one of the key");

    for (pointer, value, code) in [
        ("/dsseEnvelope/signatures", json!([]), 10),
        ("/dsseEnvelope/signatures/0/sig", json!(""), 11),
        ("/dsseEnvelope", json!({}), 10),
        ("/verificationMaterial", json!({"tlogEntries": []}), 10),
        ("/verificationMaterial", json!({"certificate": {"rawBytes": "AA=="}}), 11),
        ("/verificationMaterial", json!({"x509CertificateChain": {"certificates": []}}), 11),
        ("/dsseEnvelope/payloadType", json!("application/json"), 11),
    ] {
        let mut stripped = sound.clone();
        *stripped.pointer_mut(pointer).unwrap() = value;
        fs::write(place.join("sig"), stripped.to_string()).unwrap();
        expect(&verify(place, &[]), code, "ampoule-seal: ");
    }
    expect(&sign(place, &["--method", "sigstore"]), 11, "needs a transparency log");
    expect(&sign(place, &["--method", "certificate"]), 2, "--certificate-chain");
    expect(&sign(place, &["--certificate-chain", "sig"]), 2, "--method certificate");
    expect(&verify(place, &["--certificate-chain", "sig"]), 2, "cannot be used with");
    fs::remove_file(place.join("sig")).unwrap();
    expect(&verify(place, &[]), 10, "cannot read sig");
}

#[test]
fn c01_c09_c11_c13_a_signed_statement_that_lies_is_refused_before_any_file_is_opened() {
    let test = "c01_c09_c11_c13_a_signed_statement_that_lies_is_refused_before_any_file_is_opened";
    let place = place();
    let place = place.path();
    fs::write(place.join("secret"), "secret").unwrap();
    let about = |name: &str| statement(&json!([resource(name, b"secret")]));
    let changed = |pointer: &str, value: Value| {
        let mut changed = about("deep/é");
        *changed.pointer_mut(pointer).unwrap() = value;
        changed.to_string()
    };
    let absolute = place.join("secret").display().to_string();
    let resources = "/predicate/resources/0";
    let twice = about("x").to_string().replacen(r#""hash_type":"#, r#""hash_type":"sha256","hash_type":"#, 1);
    for (payload, code, message) in [
        (about("../secret").to_string(), 10, "the name"),
        (about(&absolute).to_string(), 10, "the name"),
        (about(r"..\secret").to_string(), 10, "the name"),
        (about("deep/../../secret").to_string(), 10, "the name"),
        (about("secret\0").to_string(), 10, "U+0000"),
        (twice, 10, "occurs twice"),
        (changed(resources, json!([])), 10, "statement"),
        (changed("/predicate/serialization/hash_type", json!("md5")), 10, "hash_type"),
        (changed("/predicate/resources/0/algorithm", json!("sha1")), 10, "algorithm"),
        (changed("/predicate/serialization/method", json!("tar")), 10, "method"),
        (changed("/_type", json!("https://in-toto.io/Statement/v0.1")), 11, "_type"),
        (changed("/predicateType", json!("urn:ampoule:bundle-release:v1")), 11, "predicateType"),
        (changed("/subject/0/digest/sha256", json!("00")), 11, "the statement is about"),
    ] {
        for more in [&[][..], &["--ignore-unsigned-files"], &["--ignore-unsigned-files", "--allow-symlinks"]] {
            forge(place, &payload, test_key());
            expect(&verify(place, more), code, message);
        }
    }
    let Some(strace) = tool(test, on_path("strace"), "strace") else { return };
    forge(place, &about("../secret").to_string(), test_key());
    let key = fixtures().join("keys/test.pub");
    let traced = Command::new(strace)
        .args(["-f", "-e", "trace=open,openat,openat2", env!("CARGO_BIN_EXE_ampoule-seal"), "oms", "verify"])
        .args(["model", "--signature", "sig", "--ignore-unsigned-files", "--public-key"])
        .arg(key)
        .current_dir(place)
        .output()
        .unwrap();
    let opened = String::from_utf8_lossy(&traced.stderr);
    assert_eq!(traced.status.code(), Some(10), "{opened}");
    assert!(
        opened.contains("\"sig\"") && !opened.lines().any(|line| line.contains("open") && line.contains("secret\""))
    );
}

#[test]
fn memory_and_descriptors_stay_bounded_whatever_is_signed() {
    let place = place();
    let place = place.path();
    let limited = |limits: &str, arguments: &str| {
        let keys = fixtures().join("keys");
        let script = format!("{limits}; exec \"$0\" oms {arguments}");
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_ampoule-seal"));
        shell.env("KEYS", keys).current_dir(place).output().unwrap()
    };
    let sign = "sign model --signature sig --key $KEYS/test.key --password-file $KEYS/test.password";
    let verify = "verify model --signature sig --public-key $KEYS/test.pub";
    let mut deep = place.join("model");
    for number in 0..200 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        fs::write(place.join(format!("model/{number}")), "x").unwrap();
    }
    // A file with a hole: half a gigabyte to hash, and none of it on the disk.
    fs::File::create(place.join("model/large")).unwrap().set_len(512 << 20).unwrap();
    expect(&limited("ulimit -n 40", sign), 0, "");
    expect(&limited("ulimit -n 40 -v 262144", verify), 0, "");

    // C09: what is too large or too deep is refused before it is held.
    fs::File::create(place.join("sig")).unwrap().set_len(1 << 30).unwrap();
    expect(&limited("ulimit -v 262144", verify), 10, "at most");
    fs::write(place.join("sig"), "[".repeat(1 << 20)).unwrap();
    expect(&limited("ulimit -v 262144", verify), 10, "32 levels");
}
