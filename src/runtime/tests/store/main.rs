//! The store as an operator meets it: import, activate, serve, go back; what an interrupted writer leaves behind; and
//! that a bundle which changed in the store is never served.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod shelf;

/// What leaves a store and comes back: files, OCI layouts, thin bundles.
mod carrying;
/// Blobs that changed, moved or are missing.
mod damage;
/// Deliveries with a defect.
mod hostile;
/// What two versions share, and what nobody needs any more.
mod room;
/// The self-test before a switch, and the way back from one.
mod switching;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value as Json;
use shelf::Shelf;
use support::{ampoule, code, run, workspace};

#[test]
fn a_bundle_is_imported_activated_served_updated_and_taken_back() {
    let shelf = Shelf::new();
    shelf.import("generator.bundle");
    assert_eq!(shelf.standings(), ["1.0.0 staged"]);
    shelf.refused(&shelf.serve_arguments(), 13, &["no bundle of the store", "ampoule activate NAME"]);
    let told = shelf.done(&["activate", "fixture-generator"]);
    assert!(told.contains("fixture-generator 1.0.0 (channel stable, counter 1, epoch 1)"), "{told}");
    assert_eq!(shelf.served_version(), "1.0.0");

    shelf.import("generator-next.bundle");
    assert_eq!(shelf.served_version(), "1.0.0", "an import changes nothing that is served");
    shelf.done(&["activate", "fixture-generator"]);
    assert_eq!(shelf.standings(), ["1.0.0 previous", "1.1.0 active"]);
    assert_eq!(shelf.served_version(), "1.1.0");

    shelf.done(&["rollback"]);
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 staged"]);
    assert_eq!(shelf.served_version(), "1.0.0");
    shelf.refused(&["rollback"], 13, &["no previous bundle", "ampoule list"]);
    let table = shelf.done(&["list"]);
    assert!(table.starts_with("STANDING  BUNDLE") && table.contains("active    fixture-generator 1.0.0"), "{table}");
}

#[test]
fn a_program_is_told_as_much_as_a_person() {
    let shelf = Shelf::new();
    let bundle = Shelf::fixture("generator.bundle");
    let json = |arguments: &[&str]| -> (i32, Json) {
        let output = run(&[arguments, &["--json", "--store", &shelf.store]].concat());
        (code(&output), serde_json::from_slice(&output.stdout).unwrap())
    };
    let (_, imported) = json(&["import", &bundle, "--trust-root", &shelf.site.root]);
    assert_eq!((&imported["bundle"]["standing"], &imported["bundle"]["counter"]), (&"staged".into(), &1.into()));
    let (exit, refused) = json(&["activate", "nobody"]);
    assert_eq!((exit, &refused["exit_code"]), (13, &13.into()));
    let (_, active) = json(&["activate", "fixture-generator"]);
    assert_eq!(active["bundle"]["standing"], "active");
    assert_eq!(active["bundle"]["is_complete"], true);
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let shelf = Shelf::new();
    for arguments in [&["list"][..], &["activate", "m"], &["rollback"], &shelf.serve_arguments()] {
        shelf.refused(arguments, 13, &["there is no store in", &shelf.store, "ampoule import"]);
    }
    shelf.import("generator.bundle");
    let holds = "which holds fixture-generator 1.0.0";
    shelf.refused(&["activate", "other"], 13, &["other is not in the store", holds]);
    shelf.refused(&["activate", "fixture-generator@2.0.0"], 13, &["fixture-generator@2.0.0 is not in", holds]);
    shelf.refused(&["activate", "fixture-generator@latest"], 2, &["MAJOR.MINOR.PATCH"]);
}

#[test]
fn two_bundles_of_one_version_are_told_apart_by_their_digests() {
    let shelf = Shelf::new();
    let first = shelf.seal("1.5.0", 5, |_| ());
    shelf.import_from(&first);
    fs::remove_dir_all(shelf.path("model-1.5.0")).unwrap();
    fs::rename(&first, shelf.path("first.bundle")).unwrap();
    let second = shelf.seal("1.5.0", 5, |folder| fs::write(folder.join("README.md"), "another").unwrap());
    let told = shelf.done(&["import", &second, "--trust-root", &shelf.site.root]);
    let digest = |index: usize| shelf.list()[index]["digest"].as_str().unwrap().to_owned();
    assert!(told.contains("Another bundle with this name and version") && told.contains(&digest(0)), "{told}");
    shelf.done(&["activate", "fixture-generator@1.5.0"]);
    assert_eq!(shelf.standings(), ["1.5.0 staged", "1.5.0 active"]);
    shelf.done(&["activate", &format!("fixture-generator@{}", digest(0))]);
    assert_eq!(shelf.standings(), ["1.5.0 active", "1.5.0 previous"]);
    let nobody = format!("fixture-generator@sha256:{}", "0".repeat(64));
    shelf.refused(&["activate", &nobody], 13, &[&nobody, "is not in the store"]);
}

#[test]
fn a_refused_import_leaves_no_trace() {
    let shelf = Shelf::new();
    let import = |bundle: &str, exit: i32, words: &[&str]| {
        let root = shelf.site.root.clone();
        shelf.refused(&["import", bundle, "--trust-root", &root], exit, words);
    };
    let defect =
        |name: &str| workspace().join("bundles/fixtures").join(name).join("defect.bundle").display().to_string();
    import(&defect("unknown-key"), 11, &["signed by 0"]);
    import(&defect("expired"), 12, &["expiry"]);
    import("/nonexistent.bundle", 10, &["/nonexistent.bundle"]);
    assert!(!PathBuf::from(&shelf.store).exists(), "not even a store");
    shelf.import("generator.bundle");
    let before = shelf.blobs();
    // This one is found out only when its weights are read, which is after they were copied.
    import(&defect("weights-digest"), 11, &["digest"]);
    assert_eq!(shelf.standings(), ["1.0.0 staged"]);
    let demo = workspace().join("bundles/demo");
    let (bundle, root) = (demo.join("demo.bundle").display().to_string(), demo.join("root.json").display().to_string());
    shelf.refused(&["import", &bundle, "--trust-root", &root], 78, &["the demo's root"]);
    let mut left: Vec<_> = fs::read_dir(&shelf.store).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(
        left,
        ["blobs", "catalogue.json", "high-water.json", "high-water.lock", "high-water.log", "lock", "roots"]
    );
    assert_eq!(shelf.blobs(), before);
}

#[test]
fn what_an_interrupted_writer_left_behind_means_nothing() {
    let shelf = Shelf::with_two_versions();
    let store = PathBuf::from(&shelf.store);
    let state = fs::read(shelf.catalogue()).unwrap();
    // Killed while it wrote the state, while it copied, and between the copy's rename and the state's.
    fs::write(store.join("catalogue.partial"), &state[..state.len() / 2]).unwrap();
    fs::write(store.join("incoming.partial"), "half a bundle").unwrap();
    fs::set_permissions(store.join("incoming.partial"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::write(store.join("blobs/sha256").join("0".repeat(64)), "nobody's").unwrap();
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 staged"]);
    assert_eq!(shelf.served_version(), "1.0.0");
    shelf.import("encoder.bundle");
    shelf.done(&["activate", "fixture-generator"]);
    assert_eq!(shelf.standings(), ["1.0.0 previous", "1.1.0 active", "1.0.0 staged"]);
    assert!(!store.join("catalogue.partial").exists() && !store.join("incoming.partial").exists());
}

#[test]
fn a_catalogue_that_is_damaged_or_lost_is_no_first_start() {
    let shelf = Shelf::with_two_versions();
    let state = fs::read(shelf.catalogue()).unwrap();
    let check = |exit: i32, words: &[&str]| {
        let bundle = Shelf::fixture("encoder.bundle");
        let import = ["import", &bundle, "--trust-root", &shelf.site.root];
        for arguments in [&["list"][..], &["activate", "fixture-generator"], &["rollback"], &import] {
            shelf.refused(arguments, exit, words);
        }
        shelf.refused(&shelf.serve_arguments(), exit, words);
    };
    fs::write(shelf.catalogue(), &state[..state.len() / 2]).unwrap();
    check(13, &["catalogue.json", "cannot be used", "backup"]);
    fs::remove_file(shelf.catalogue()).unwrap();
    check(13, &["catalogue.json, is missing", "backup"]);
    fs::write(shelf.catalogue(), &state).unwrap();
    fs::set_permissions(shelf.catalogue(), fs::Permissions::from_mode(0o646)).unwrap();
    check(78, &["written by everybody", "chmod o-w"]);
    fs::set_permissions(shelf.catalogue(), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 staged"]);
    fs::remove_file(shelf.catalogue()).unwrap();
    fs::create_dir(PathBuf::from(&shelf.store).join("bundles")).unwrap();
    check(13, &["an unreleased ampoule", "import the bundles again"]);
}

#[test]
fn c16_what_is_older_than_both_bundles_that_may_be_served_never_comes_back() {
    let shelf = Shelf::with_two_versions();
    shelf.done(&["activate", "fixture-generator@1.1.0"]);
    // The previous one may come back, as `rollback` does; so its counter bounds what is accepted.
    let shown = |shelf: &Shelf| -> Json { serde_json::from_str(&shelf.done(&["state", "show", "--json"])).unwrap() };
    assert_eq!(shown(&shelf)["counters"][0]["counter"], 1);
    // Another bundle takes the place of the previous one, and what was before it is gone for good.
    shelf.import("encoder.bundle");
    shelf.done(&["activate", "fixture-encoder"]);
    assert_eq!(shown(&shelf)["counters"].as_array().unwrap().len(), 2, "{}", shown(&shelf));
    let older = ["at least counter 2 in epoch 1", "accepted before"];
    shelf.refused(&["activate", "fixture-generator@1.0.0"], 13, &older);
    let bundle = Shelf::fixture("generator.bundle");
    let root = shelf.site.root.clone();
    shelf.refused(&["import", &bundle, "--trust-root", &root], 13, &older);
    // A switch that was cut before its marks were noted leaves nothing open: the catalogue counts too.
    let marks = PathBuf::from(&shelf.store).join("high-water.json");
    shelf.done(&["state", "reset", "--reason", "as if the marks had not been written"]);
    shelf.refused(&["activate", "fixture-generator@1.0.0"], 13, &older);
    // And marks that are lost are no first start, for whoever reads and for whoever writes.
    fs::remove_file(&marks).unwrap();
    for arguments in [&["activate", "fixture-generator"][..], &["rollback"], &shelf.serve_arguments()] {
        shelf.refused(arguments, 13, &["is lost", "high-water.log", "`ampoule state reset"]);
    }
    shelf.refused(&["state", "init"], 13, &["is lost"]);
}

#[test]
fn a_second_writer_is_turned_away_and_readers_are_not() {
    let shelf = Shelf::with_two_versions();
    let lock = fs::File::open(PathBuf::from(&shelf.store).join("lock")).unwrap();
    lock.lock().unwrap();
    for arguments in [
        &["import", &Shelf::fixture("encoder.bundle"), "--trust-root", &shelf.site.root][..],
        &["activate", "fixture-generator"],
    ] {
        shelf.refused(arguments, 1, &["another ampoule is changing the store", &shelf.store]);
    }
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 staged"]);
    assert_eq!(shelf.served_version(), "1.0.0");
    lock.unlock().unwrap();
    shelf.done(&["activate", "fixture-generator"]);
}

/// THREATS C16: a power cut at any moment. `cargo xtask crash-sweep` does the same at each system call.
#[test]
fn c16_killed_at_any_moment_a_writer_leaves_the_old_store_or_the_new_one() {
    let shelf = Shelf::with_two_versions();
    let (next, root) = (Shelf::fixture("generator-next.bundle"), shelf.site.root.clone());
    let commands: [&[&str]; 2] = [&["import", &next, "--trust-root", &root], &["activate", "fixture-generator@1.1.0"]];
    for microseconds in (0..24).map(|step| step * 1000) {
        for command in commands {
            let mut child =
                ampoule().args(command).args(["--store", &shelf.store]).stdout(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(microseconds));
            // It may be done already.
            let _ = child.kill();
            child.wait().unwrap();
            let mut standings = shelf.standings();
            standings.sort();
            assert!(
                standings == ["1.0.0 active", "1.1.0 staged"] || standings == ["1.0.0 previous", "1.1.0 active"],
                "{command:?} killed after {microseconds} µs: {standings:?}"
            );
        }
        shelf.done(&["activate", "fixture-generator@1.0.0"]);
        // Leaves no previous bundle, so that each round begins with the same two standings.
        shelf.done(&["activate", "fixture-generator@1.1.0"]);
        shelf.done(&["rollback"]);
    }
}

#[test]
fn the_trust_root_that_is_named_counts_and_otherwise_the_one_of_the_import() {
    let shelf = Shelf::with_two_versions();
    let other = workspace().join("src/runtime/tests/fixtures/root.json").display().to_string();
    shelf.refused(&["activate", "fixture-generator", "--trust-root", &other], 11, &["signed by 0"]);
    let root = shelf.site.folder.path().join("moved.json");
    fs::copy(&shelf.site.root, &root).unwrap();
    shelf.done(&["activate", "fixture-generator", "--trust-root", &root.display().to_string()]);
    fs::remove_file(root).unwrap();
    shelf.done(&["rollback"]);
}

#[test]
fn a_bundle_and_a_store_exclude_each_other() {
    let shelf = Shelf::with_two_versions();
    let both = [&shelf.serve_arguments()[..], &["--bundle", &shelf.site.bundle]].concat();
    shelf.refused(&both, 78, &["`bundle` (from flag --bundle)", "`store` (from flag --store)", "take one away"]);
    let check = ["config", "check", "--trust-root", &shelf.site.root, "--keys-file", &shelf.site.keys];
    assert!(shelf.done(&check).starts_with("ok: "));
    fs::remove_dir_all(&shelf.store).unwrap();
    shelf.refused(&check, 78, &["`store` names", "cannot be opened"]);
}
