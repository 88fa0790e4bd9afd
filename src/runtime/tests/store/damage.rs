//! Blobs that changed, moved or are missing: whatever becomes of them, nothing else than what was imported is served.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::shelf::Shelf;

#[test]
fn a_bundle_that_changed_in_the_store_is_neither_activated_nor_served() {
    let check = |file: fn(&Shelf) -> std::path::PathBuf, change: fn(&mut Vec<u8>), exit: i32, words: &[&str]| {
        let shelf = Shelf::with_two_versions();
        let file = file(&shelf);
        Shelf::tamper(&file, change);
        let again = ["activate", "fixture-generator@1.0.0"];
        shelf.refused(&again, exit, words);
        shelf.refused(&shelf.serve_arguments(), exit, words);
        assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 staged"], "a refusal changes nothing");
        // The delivered file heals the store.
        shelf.import("generator.bundle");
        shelf.done(&again);
        assert_eq!(shelf.served_version(), "1.0.0");
    };
    let hint = "import the bundle again as it was delivered";
    let manifest = |shelf: &Shelf| shelf.manifest("1.0.0");
    check(Shelf::weights, |bytes| *bytes.last_mut().unwrap() ^= 1, 11, &["has digest", "must have", hint]);
    check(Shelf::weights, |bytes| bytes.truncate(bytes.len() / 2), 11, &["the length in bytes of", hint]);
    check(Shelf::weights, |bytes| bytes.push(0), 11, &["the length in bytes of", hint]);
    check(manifest, |bytes| bytes[20] ^= 1, 11, &["the model manifest", "has digest", hint]);
    check(manifest, |bytes| bytes.extend(vec![b' '; 5 << 20]), 10, &["more than the limit", hint]);
}

/// THREATS C20: a valid blob under the wrong name, of the same bundle and of another one.
#[test]
fn c20_a_valid_blob_under_the_name_of_another_one_is_refused() {
    let shelf = Shelf::with_two_versions();
    let (first, second) = (shelf.manifest("1.0.0"), shelf.manifest("1.1.0"));
    let kept = fs::read(&first).unwrap();
    Shelf::tamper(&first, |bytes| *bytes = fs::read(&second).unwrap());
    for arguments in [&["activate", "fixture-generator@1.0.0"][..], &shelf.serve_arguments()] {
        shelf.refused(arguments, 11, &["the model manifest", "has digest"]);
    }
    Shelf::tamper(&first, |bytes| *bytes = kept);
    // Two small files of one length would be taken for each other by their names alone.
    let blobs = shelf.blobs();
    let pair = blobs.windows(2).map(|pair| (&pair[0].0, &pair[1].0)).next().unwrap();
    let (left, right) = (fs::read(pair.0).unwrap(), fs::read(pair.1).unwrap());
    Shelf::tamper(pair.0, |bytes| *bytes = right);
    Shelf::tamper(pair.1, |bytes| *bytes = left);
    let (code, told) = shelf.run(&["activate", "fixture-generator@1.1.0"]);
    let (other_code, other_told) = shelf.run(&["activate", "fixture-generator@1.0.0"]);
    assert!(code == 11 || other_code == 11, "{told}{other_told}");
}

/// THREATS C01: nothing of a store leads out of it, and nothing in a bundle becomes a path.
#[test]
fn c01_a_link_in_the_place_of_a_blob_or_of_a_folder_is_not_followed() {
    let shelf = Shelf::with_two_versions();
    let elsewhere = shelf.path("elsewhere");
    let active = ["activate", "fixture-generator@1.0.0"];
    // Even a link to the very same bytes is none of the store's own files.
    let (weights, moved) = (shelf.weights(), Path::new(&elsewhere).join("weights"));
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&weights, &moved).unwrap();
    symlink(&moved, &weights).unwrap();
    for arguments in [&active[..], &shelf.serve_arguments()] {
        shelf.refused(arguments, 13, &["a symbolic link", "of its own"]);
    }
    let import = ["import", &Shelf::fixture("generator.bundle"), "--trust-root", &shelf.site.root];
    shelf.refused(&import, 13, &["a symbolic link"]);
    fs::remove_file(&weights).unwrap();
    fs::rename(&moved, &weights).unwrap();
    shelf.done(&active);
    let blobs = Path::new(&shelf.store).join("blobs");
    fs::rename(&blobs, Path::new(&elsewhere).join("blobs")).unwrap();
    symlink(Path::new(&elsewhere).join("blobs"), &blobs).unwrap();
    for arguments in [&active[..], &import, &shelf.serve_arguments(), &["prune"]] {
        shelf.refused(arguments, 13, &["blobs is no folder of its own"]);
    }
    // A pipe waits for nobody.
    fs::remove_file(&blobs).unwrap();
    fs::rename(Path::new(&elsewhere).join("blobs"), &blobs).unwrap();
    fs::remove_file(&weights).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&weights).status().unwrap().success());
    shelf.refused(&active, 13, &["is a pipe"]);
}

#[test]
fn a_missing_blob_is_told_by_list_and_refused() {
    let shelf = Shelf::with_two_versions();
    fs::remove_file(shelf.manifest("1.0.0")).unwrap();
    assert!(shelf.done(&["list"]).contains("active (incomplete)"));
    for arguments in [&["activate", "fixture-generator@1.0.0"][..], &shelf.serve_arguments(), &["prune"]] {
        shelf.refused(arguments, 13, &["fixture-generator 1.0.0 is in the catalogue", "is missing: import it again"]);
    }
    shelf.done(&["activate", "fixture-generator@1.1.0"]);
}
