//! `ampoule-seal trust`: a vendor's way from the first root to the third, and what he takes back.

use std::path::Path;
use std::process::{Command, Output};

use ampoule_bundle::{BundleError, Counter, Digest, Epoch, KeyId, Role, SealedBundle, TrustRoot};
use ampoule_sealing::seal::seal;
use serde_json::Value;

use crate::support::{fixtures, request, test_key, write_model};

/// A vendor's folder with the key pairs a, b, c and d.
struct Vendor(tempfile::TempDir);

impl Vendor {
    fn new() -> Vendor {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), "correct horse\n").unwrap();
        let vendor = Vendor(folder);
        for (name, curve) in [("a", "p256"), ("b", "p384"), ("c", "p256"), ("d", "p256")] {
            vendor.succeed(&["keygen", "--curve", curve, "--password-file", "password", name]);
        }
        vendor
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.0.path(), arguments)
    }

    fn succeed(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// With the password that all keys have.
    fn sign(&self, arguments: &[&str]) -> Value {
        self.succeed(&[&["trust"], arguments, &["--password-file", "password"]].concat())
    }

    fn refused(&self, arguments: &[&str], code: i32, words: &str) {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(words), "expected `{words}` in: {text}");
    }

    fn id(&self, name: &str) -> KeyId {
        KeyId::of_pem(&std::fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap())
    }
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ampoule-seal"))
        .current_dir(folder)
        .args(arguments)
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .unwrap()
}

const INIT: [&str; 12] = [
    "init",
    "--root-key",
    "a.pub",
    "--root-key",
    "b.pub",
    "--root-threshold",
    "2",
    "--release-key",
    "c.pub",
    "--revoke-key",
    "a.pub",
    "--out",
];

#[test]
fn roots_follow_one_another_by_keys_that_never_meet() {
    let vendor = Vendor::new();
    vendor.sign(&[&INIT[..], &["root.json", "--sign-with", "a.key"]].concat());
    let first = TrustRoot::pin(&vendor.read("root.json")).unwrap();
    assert_eq!((first.document().signatures.len(), first.document().signed.maximum_epoch), (1, Some(Epoch(1))));

    // The release key was stolen: another takes its place, and the next epoch begins.
    let rotate = ["rotate", "root.json", "--replace", "c.pub", "--by", "d.pub", "--sign-with", "a.key"];
    let written = vendor.sign(&[&rotate[..], &["--out", "2.root.json"]].concat());
    assert_eq!((&written["version"], &written["maximum_epoch"]), (&Value::from(2), &Value::from(2)));
    assert_eq!(written["complete"], false);
    let error = first.clone().succeed(&vendor.read("2.root.json")).unwrap_err();
    assert!(matches!(error, BundleError::TooFewDocumentSignatures { found: 1, required: 2, .. }), "{error}");
    vendor.refused(&["trust", "show", "2.root.json", "--against", "root.json"], 11, "signed by 1 of the `root` keys");
    let signed = vendor.sign(&["sign", "2.root.json", "--key", "b.key"]);
    assert_eq!(signed["signers"].as_array().unwrap().len(), 2);
    // The signatures are a part of the file, and so of what a customer is told.
    assert_ne!(signed["digest"], written["digest"]);
    assert_eq!(signed["digest"], Digest::of(&vendor.read("2.root.json")).to_string());
    let shown = vendor.succeed(&["trust", "show", "2.root.json", "--against", "root.json"]);
    assert_eq!((&shown["verified"], &shown["root"]["version"]), (&Value::Bool(true), &Value::from(2)));
    let second = first.succeed(&vendor.read("2.root.json")).unwrap();
    assert_eq!(second.role(Role::Release).unwrap().keyids, [vendor.id("d")].into());
    assert_eq!(second.key(vendor.id("c")), None);

    // One more key for a role, and its threshold.
    let add = ["add-key", "2.root.json", "--role", "release", "--key", "c.pub", "--threshold", "2"];
    vendor.sign(&[&add[..], &["--sign-with", "b.key", "--out", "3.root.json"]].concat());
    let signed = vendor.sign(&["sign", "3.root.json", "--key", "a.key", "--out", "3.signed.json"]);
    assert_eq!(signed["file"], "3.signed.json");
    let third = second.succeed(&vendor.read("3.signed.json")).unwrap();
    assert_eq!((third.version(), third.role(Role::Release).unwrap().threshold), (3, 2));
    vendor.refused(
        &["trust", "sign", "3.signed.json", "--key", "a.key", "--password-file", "password"],
        1,
        "has signed this trust root already",
    );
}

#[test]
fn what_no_root_may_say_is_refused_with_what_to_do() {
    let vendor = Vendor::new();
    vendor.succeed(&[&["trust"], &INIT[..], &["root.json"]].concat());
    let init = [&["trust"], &INIT[..], &["other.json"]].concat();
    vendor.refused(&[&init[..], &["--site-key", "c.pub"]].concat(), 2, "ampoule-seal keygen site");
    vendor.refused(&[&init[..], &["--expires", "2026-01-01T00:00:00Z"]].concat(), 2, "give a later --expires");
    vendor.refused(&[&init[..], &["--revoke-threshold", "2"]].concat(), 2, "role `revoke` is 2");
    let next = ["--out", "other.json"];
    for (arguments, code, words) in [
        (&["add-key", "root.json", "--role", "release", "--key", "c.pub"][..], 1, "is in the role `release` already"),
        (&["add-key", "root.json", "--role", "site", "--key", "c.pub"], 2, "a `release` and a `site` key"),
        (&["add-key", "root.json", "--role", "release", "--key", "d.pub", "--threshold", "3"], 2, "is 3"),
        (&["rotate", "root.json", "--replace", "d.pub", "--by", "c.pub"], 1, "the root has no key"),
        (&["rotate", "root.json", "--replace", "d.pub"], 2, "--by"),
        (&["rotate", "root.json", "--expires", "2026-01-01T00:00:00Z"], 2, "give a later --expires"),
        (&["rotate", "root.json"], 2, "differ in nothing but its version"),
        (&["rotate", "password", "--expires", "2036-01-01T00:00:00Z"], 10, "trust root"),
    ] {
        vendor.refused(&[&["trust"], arguments, &next].concat(), code, words);
        assert!(!vendor.path("other.json").exists(), "{arguments:?}");
    }
    vendor.refused(&[&["trust"], &INIT[..], &["root.json"]].concat(), 1, "exists already");
}

/// What a command notes on standard error while it succeeds.
fn noted(vendor: &Vendor, arguments: &[&str]) -> String {
    let output = vendor.run(&[&["trust"], arguments].concat());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

#[test]
fn what_a_root_takes_from_a_site_is_told_when_it_is_made() {
    let vendor = Vendor::new();
    assert_eq!(noted(&vendor, &[&INIT[..], &["root.json"]].concat()), "");
    let bare = ["init", "--root-key", "a.pub", "--release-key", "c.pub", "--version", "7", "--out", "bare.json"];
    let told = noted(&vendor, &bare);
    assert!(told.contains("no revocation list") && told.contains("add-key --role revoke"), "{told}");
    let bare = TrustRoot::pin(&vendor.read("bare.json")).unwrap();
    assert_eq!(bare.version(), 7);

    let rotate = ["rotate", "root.json", "--replace", "c.pub", "--by", "d.pub", "--out", "2.json"];
    let told = noted(&vendor, &rotate);
    assert!(told.contains(&vendor.id("c").to_string()) && told.contains("ampoule-seal sign"), "{told}");
    assert_eq!(noted(&vendor, &["rotate", "root.json", "--replace", "a.pub", "--by", "d.pub", "--out", "3.json"]), "");

    // The list that such a root cannot take says what is to be done.
    let id = vendor.id("c").to_string();
    vendor.sign(&["revoke", "--key-id", &id, "--sign-with", "a.key", "--out", "list.json"]);
    let shown = ["trust", "show", "list.json", "--against", "bare.json"];
    vendor.refused(&shown, 11, "the vendor adds it by `ampoule-seal trust add-key --role revoke`");
    let add = ["add-key", "bare.json", "--role", "revoke", "--key", "a.pub", "--sign-with", "a.key", "--out", "8.json"];
    vendor.sign(&add);
    let next = bare.succeed(&vendor.read("8.json")).unwrap();
    next.with_revocations(&vendor.read("list.json")).unwrap();
}

#[test]
fn each_file_is_signed_by_the_command_that_is_for_it() {
    let vendor = Vendor::new();
    vendor.succeed(&[&["trust"], &INIT[..], &["root.json"]].concat());
    let id = vendor.id("c").to_string();
    vendor.sign(&["revoke", "--key-id", &id, "--sign-with", "a.key", "--out", "list.json"]);
    write_model(&vendor.path("model"));
    seal(&request(&vendor.path("model")), test_key(), &vendor.path("m.bundle")).unwrap();
    let permit = ["downgrade", "m.bundle", "--sign-with", "c.key", "--expires", "2100-01-01T00:00:00Z"];
    vendor.sign(&[&permit[..], &["--out", "token.json"]].concat());
    let documents = [("root.json", "trust root"), ("list.json", "revocation list"), ("token.json", "downgrade token")];
    for (file, what) in documents {
        vendor.refused(&["sign", file, "--key", "a.key"], 2, &format!("{file} is a {what}: "));
        vendor.refused(&["sign", file, "--key", "a.key"], 2, "`ampoule-seal trust sign`");
        assert!(!vendor.path(&format!("{file}.sig")).exists());
    }
    for command in [&["trust", "sign", "m.bundle", "--key", "a.key"][..], &["trust", "show", "m.bundle"]] {
        vendor.refused(command, 2, "m.bundle is a bundle: `ampoule-seal sign` signs it");
    }
    let over_another = ["trust", "sign", "root.json", "--key", "b.key", "--out", "list.json"];
    vendor.refused(&over_another, 1, "list.json exists already");
}

#[test]
fn c17_what_was_signed_is_taken_back_by_a_list_that_only_grows() {
    let vendor = Vendor::new();
    vendor.succeed(&[&["trust"], &INIT[..], &["root.json"]].concat());
    write_model(&vendor.path("model"));
    seal(&request(&vendor.path("model")), test_key(), &vendor.path("bad.bundle")).unwrap();
    let id = vendor.id("c").to_string();
    fn revoke<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["revoke", "--sign-with", "a.key"], more].concat()
    }
    let list = vendor.sign(&revoke(&["--key-id", &id, "--out", "1.json"]))["revocations"].clone();
    assert_eq!((&list["version"], &list["keys"][0]), (&Value::from(1), &Value::from(id.as_str())));
    let more = ["--after", "1.json", "--bundle", "bad.bundle", "--minimum-counter", "fixture=1:8", "--out", "2.json"];
    vendor.sign(&revoke(&more));

    let root = TrustRoot::pin(&vendor.read("root.json")).unwrap().with_revocations(&vendor.read("2.json")).unwrap();
    let list = root.revocations().unwrap();
    let manifest = SealedBundle::open(vendor.read("bad.bundle")).unwrap().unverified_manifest().digest();
    assert!(list.version() == 2 && list.has_key(vendor.id("c")) && list.has_manifest(manifest));
    assert_eq!(list.minimum_counter(&"fixture".parse().unwrap()).unwrap().counter, Counter(8));
    let shown = vendor.succeed(&["trust", "show", "2.json", "--against", "root.json"]);
    assert_eq!(shown["revocations"]["minimum_counters"]["fixture"]["counter"], 8);

    let refused = |more: &[&str], code, words: &str| {
        let all = [&["trust"], &revoke(more)[..], &["--password-file", "password", "--out", "3.json"]].concat();
        vendor.refused(&all, code, words);
        assert!(!vendor.path("3.json").exists());
    };
    refused(&["--after", "2.json"], 2, "nothing to revoke");
    refused(&["--after", "2.json", "--key-id", &id], 2, "nothing to revoke");
    refused(&["--after", "2.json", "--minimum-counter", "fixture=1:7"], 2, "a list only ever takes away");
    refused(&["--minimum-counter", "fixture:7"], 2, "my-model=1:12");
    refused(&["--after", "root.json", "--key-id", &id], 10, "no trust root, revocation list or downgrade token");
    // A list by a key that may not revoke is made, and no root takes it.
    vendor.sign(&["revoke", "--key-id", &id, "--sign-with", "c.key", "--out", "3.json"]);
    vendor.refused(&["trust", "show", "3.json", "--against", "root.json"], 11, "`revoke` keys");
}

#[test]
fn c16_a_downgrade_is_permitted_for_one_bundle() {
    let vendor = Vendor::new();
    vendor.succeed(&[&["trust"], &INIT[..], &["root.json"]].concat());
    let root = TrustRoot::pin(&vendor.read("root.json")).unwrap();
    write_model(&vendor.path("model"));
    seal(&request(&vendor.path("model")), test_key(), &vendor.path("old.bundle")).unwrap();
    let permit = ["downgrade", "old.bundle", "--sign-with", "c.key", "--out", "token.json", "--expires"];
    let told = vendor.sign(&[&permit[..], &["2100-01-01T00:00:00Z"]].concat());
    assert_eq!((&told["name"], &told["counter"]), (&Value::from("fixture"), &Value::from(7)));
    let permitting = root.with_downgrade(&vendor.read("token.json")).unwrap();
    let pinned = TrustRoot::pin(&std::fs::read(fixtures().join("keys/root.json")).unwrap()).unwrap();
    let bundle = SealedBundle::open(vendor.read("old.bundle")).unwrap().verify(&pinned).unwrap();
    assert!(permitting.downgrade().unwrap().names(bundle.identity()));
    std::fs::remove_file(vendor.path("token.json")).unwrap();
    let late = [&["trust"], &permit[..], &["2026-01-01T00:00:00Z", "--password-file", "password"]].concat();
    vendor.refused(&late, 2, "the token would expire");
}
