//! `ampoule verify-self` as a customer runs it: a signed folder is verified, every way in which it can differ is named,
//! and each refusal has its exit code.  The release is made by hand here; that the real one is accepted is for the
//! packaging tool to show.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use ampoule_bundle::release::ReleaseFile;
use ampoule_bundle::{BundlePath, Digest, PublicKey, ReleaseManifest};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use support::{code, run, text};

/// What stands before the point of a P-256 key in DER.
const SPKI_PREFIX: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

struct Release {
    folder: tempfile::TempDir,
    fingerprint: String,
}

impl Release {
    fn new() -> Release {
        let folder = tempfile::tempdir().unwrap();
        let random = ring::rand::SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
        let mut der = hex::decode(SPKI_PREFIX).unwrap();
        der.extend_from_slice(pair.public_key().as_ref());
        let key = PublicKey::from_spki_der(&der).unwrap();
        let pem = key.to_pem();
        let files = [("bin/ampoule", "a binary"), ("docs/a/README.md", "read me"), ("trust/vendor.pub", &pem)];
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let files = files.map(|(name, text)| {
            let file = ReleaseFile { length: text.len() as u64, digest: Digest::of(text.as_bytes()) };
            (BundlePath::try_from(name).unwrap(), file)
        });
        let manifest = ReleaseManifest::new("1.2.3".parse().unwrap(), "x86_64-linux", files.into()).unwrap();
        let signature = pair.sign(&random, manifest.to_text().as_bytes()).unwrap();
        fs::write(folder.path().join("RELEASE"), manifest.to_text()).unwrap();
        fs::write(folder.path().join("RELEASE.sig"), signature.as_ref()).unwrap();
        Release { folder, fingerprint: key.id().to_string() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn verify(&self, more: &[&str]) -> Output {
        let root = self.folder.path().display().to_string();
        run(&[&["verify-self", "--root", &root], more].concat())
    }
}

#[test]
fn a_whole_release_is_verified_and_its_key_is_told() {
    let release = Release::new();
    let output = release.verify(&[]);
    let told = text(&output.stdout);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert!(
        told.contains(&release.fingerprint) && told.contains("1.2.3") && told.contains("Compare this key"),
        "{told}"
    );
    // However it was written down.
    let capitals = format!(" {}\r", release.fingerprint.to_uppercase());
    assert_eq!(code(&release.verify(&["--fingerprint", &capitals])), 0);
    let output = release.verify(&["--fingerprint", &release.fingerprint, "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((code(&output), &told["verified"], &told["fingerprint_compared"]), (0, &true.into(), &true.into()));
    assert_eq!((&told["files"], told["signer"].as_str().unwrap()), (&3.into(), release.fingerprint.as_str()));
}

#[test]
fn every_difference_is_named_and_ends_with_11() {
    let check = |damage: &dyn Fn(&Release), lines: &[&str]| {
        let release = Release::new();
        damage(&release);
        let output = release.verify(&[]);
        let told = text(&output.stderr);
        assert_eq!(code(&output), 11, "{told}");
        let found: Vec<&str> = told.lines().skip(1).map(str::trim).collect();
        assert_eq!(found, lines, "{told}");
        assert_eq!(text(&output.stdout), "");
    };
    let write = |name: &'static str| move |release: &Release| fs::write(release.path(name), "other").unwrap();
    let link = |target: &str, path: &Path| {
        let aside = path.with_extension("aside");
        fs::rename(path, &aside).unwrap();
        symlink(target, path).unwrap();
    };
    check(&write("bin/ampoule"), &["changed: bin/ampoule"]);
    check(&|release| fs::write(release.path("bin/ampoule"), "A binary").unwrap(), &["changed: bin/ampoule"]);
    // Reading it would take many minutes, and all of them would tell nothing that its length does not tell.
    let endless = |release: &Release| fs::File::create(release.path("bin/ampoule")).unwrap().set_len(1 << 42).unwrap();
    let started = Instant::now();
    check(&endless, &["changed: bin/ampoule"]);
    assert!(started.elapsed() < Duration::from_secs(60), "a file of 4 TiB was read");
    check(&|release| fs::remove_file(release.path("docs/a/README.md")).unwrap(), &["missing: docs/a/README.md"]);
    check(&write("docs/\u{1b}[2J"), &["extra: docs/\\u{1b}[2J (a file)"]);
    check(&|release| fs::create_dir(release.path("empty")).unwrap(), &["extra: empty (a folder)"]);
    check(
        &|release| link("ampoule.aside", &release.path("bin/ampoule")),
        &["changed: bin/ampoule (a link)", "extra: bin/ampoule.aside (a file)"],
    );
    // A folder that is a link to itself under another name holds all the right bytes, and is refused unread.
    check(
        &|release| link("docs.aside", &release.path("docs")),
        &["missing: docs/a/README.md", "extra: docs (a link)", "extra: docs.aside (a folder)"],
    );
    check(
        &|release| {
            write("bin/ampoule")(release);
            write("extra")(release);
        },
        &["changed: bin/ampoule", "extra: extra (a file)"],
    );
}

#[test]
fn another_key_and_another_list_are_refused_before_a_file_is_read() {
    let check = |damage: &dyn Fn(&Release), more: &[&str], expected: i32, words: &str| {
        let release = Release::new();
        damage(&release);
        let output = release.verify(more);
        let told = text(&output.stderr);
        assert_eq!(code(&output), expected, "{told}");
        assert!(told.contains(words), "{told}");
    };
    let append = |name: &'static str| {
        move |release: &Release| {
            let bytes = fs::read(release.path(name)).unwrap();
            fs::write(release.path(name), [bytes.as_slice(), b"\n"].concat()).unwrap();
        }
    };
    check(&append("RELEASE"), &[], 11, "the signature of the release manifest is not that of key");
    check(&append("RELEASE.sig"), &[], 11, "the signature of the release manifest is not that of key");
    let other = Release::new();
    check(&|_| (), &["--fingerprint", &other.fingerprint], 11, "another vendor's");
    let key = other.path("trust/vendor.pub").display().to_string();
    check(&|_| (), &["--public-key", &key], 11, "the signature of the release manifest is not that of key");
    check(&append("trust/vendor.pub"), &[], 10, "public key refused");
    check(&|release| fs::remove_file(release.path("RELEASE")).unwrap(), &[], 10, "has no RELEASE");
    check(&|release| fs::remove_file(release.path("RELEASE.sig")).unwrap(), &[], 10, "cannot read");
    check(&|release| fs::write(release.path("RELEASE.sig"), [0; 4096]).unwrap(), &[], 10, "longer than");
    check(&|_| (), &["--fingerprint", "12"], 2, "64 hex digits");
}
