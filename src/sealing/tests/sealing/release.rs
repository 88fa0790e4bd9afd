//! The vendor's side of a release: what is listed and signed, what is kept, what is refused.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use ampoule_bundle::{PublicKey, ReleaseManifest};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ampoule-seal")).current_dir(folder).args(arguments).output().unwrap()
}

/// A folder with a key of each curve and a small tree of files.
fn vendor() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("password"), "correct horse\n").unwrap();
    for curve in ["p256", "p384"] {
        let made = run(folder.path(), &["keygen", "--curve", curve, "--password-file", "password", curve]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    fs::create_dir_all(folder.path().join("tree/bin")).unwrap();
    fs::write(folder.path().join("tree/bin/ampoule"), "a binary").unwrap();
    fs::write(folder.path().join("tree/README"), "read me").unwrap();
    folder
}

fn release(folder: &Path, key: &str) -> Output {
    let what = ["release", "--tree", "tree", "--version", "1.2.3+4", "--platform", "x86_64-linux"];
    run(folder, &[&what[..], &["--key", key, "--password-file", "password"]].concat())
}

#[test]
fn a_tree_is_listed_and_signed_and_its_signature_kept_while_it_holds() {
    let folder = vendor();
    let read = |name: &str| fs::read(folder.path().join("tree").join(name)).unwrap();
    let key = PublicKey::from_pem(&fs::read_to_string(folder.path().join("p256.pub")).unwrap()).unwrap();
    let signed = || {
        let output = release(folder.path(), "p256.key");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains(&key.id().to_string()));
        ReleaseManifest::verify(&read("RELEASE"), &read("RELEASE.sig"), &key).unwrap()
    };
    let manifest = signed();
    assert_eq!((manifest.version().to_string(), manifest.platform()), ("1.2.3+4".into(), "x86_64-linux"));
    assert!(["README", "bin/ampoule", "trust/vendor.pub"].iter().all(|name| manifest.file(name).is_some()));
    assert_eq!(manifest.file("README").unwrap().length, 7);
    assert_eq!((manifest.len(), read("trust/vendor.pub")), (3, key.to_pem().into_bytes()));

    let kept = read("RELEASE.sig");
    assert_eq!(signed(), manifest);
    assert_eq!(read("RELEASE.sig"), kept, "the same files keep their signature");
    fs::write(folder.path().join("tree/README"), "read me again").unwrap();
    assert_ne!(signed(), manifest);
    assert_ne!(read("RELEASE.sig"), kept, "other files are signed anew");
}

#[test]
fn a_file_is_signed_beside_itself() {
    let folder = vendor();
    fs::write(folder.path().join("archive.tar.gz"), "packed").unwrap();
    // A signature on an archive is one of bare bytes: none is given on what would be a statement, a root or a release.
    for message in ["DSSEv1 28 application", "{\"_type\":\"root\"}", " {\"a\":1}", "# ampoule release 1.0.0 x\n"] {
        fs::write(folder.path().join("message"), message).unwrap();
        let output = run(folder.path(), &["sign", "message", "--key", "p256.key", "--password-file", "password"]);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(!folder.path().join("message.sig").exists(), "{message}");
    }
    let output = run(folder.path(), &["sign", "archive.tar.gz", "--key", "p256.key", "--password-file", "password"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let key = PublicKey::from_pem(&fs::read_to_string(folder.path().join("p256.pub")).unwrap()).unwrap();
    assert!(key.verifies(b"packed", &fs::read(folder.path().join("archive.tar.gz.sig")).unwrap()));
}

#[test]
fn what_stock_tools_could_not_check_is_not_signed() {
    let refused = |folder: &Path, key: &str, words: &str| {
        let output = release(folder, key);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(words), "{told}");
        assert!(!folder.join("tree/RELEASE").exists(), "a refused tree is not listed");
    };
    let folder = vendor();
    refused(folder.path(), "p384.key", "this one is P-384");
    symlink("README", folder.path().join("tree/link")).unwrap();
    refused(folder.path(), "p256.key", "tree/link is neither a file nor a folder");
}
