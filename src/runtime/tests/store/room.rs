//! What two versions share lies in the store once, and what nobody needs goes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value as Json;

use crate::shelf::Shelf;

#[test]
fn a_second_version_writes_only_what_is_new() {
    let shelf = Shelf::new();
    shelf.import("generator.bundle");
    let facts =
        |path: &Path| fs::metadata(path).map(|facts| (facts.ino(), facts.mtime_nsec(), facts.ctime_nsec())).unwrap();
    let before: Vec<_> = shelf.blobs().iter().map(|(path, _)| (path.clone(), facts(path))).collect();
    let bytes = |shelf: &Shelf| shelf.blobs().iter().map(|(_, size)| size).sum::<u64>();
    let bytes_before = bytes(&shelf);
    shelf.import("generator-next.bundle");
    assert!(before.iter().all(|(path, unchanged)| facts(path) == *unchanged), "a shared blob was written again");
    let grown = bytes(&shelf) - bytes_before;
    let weights = fs::metadata(shelf.weights()).unwrap().size();
    assert!(grown < 10_000 && weights > 90_000, "{grown} bytes more, weights of {weights}");
    // Imported once more, nothing is written at all.
    shelf.import("generator-next.bundle");
    assert_eq!(bytes(&shelf) - bytes_before, grown);
}

#[test]
fn prune_takes_what_nobody_needs_and_nothing_else() {
    let shelf = Shelf::with_two_versions();
    let store = Path::new(&shelf.store);
    shelf.import("encoder.bundle");
    let all = shelf.blobs();
    fs::write(store.join("incoming.partial"), "half a blob").unwrap();
    fs::write(store.join("blobs/sha256").join("0".repeat(64)), "nobody's").unwrap();
    fs::write(store.join("not-ours"), "stays").unwrap();

    let dry: Json = serde_json::from_str(&shelf.done(&["prune", "--keep", "0", "--dry-run", "--json"])).unwrap();
    assert_eq!(dry["bundles"].as_array().unwrap().len(), 2, "{dry}");
    assert_eq!(shelf.blobs().len(), all.len() + 1, "a dry run takes nothing");
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.1.0 staged", "1.0.0 staged"]);

    let told = shelf.done(&["prune"]);
    assert!(told.contains("fixture-generator 1.1.0 gone") && told.contains("Freed"), "{told}");
    assert_eq!(shelf.standings(), ["1.0.0 active", "1.0.0 staged"], "one more than the active one is kept");
    assert!(!store.join("incoming.partial").exists() && store.join("not-ours").exists());
    shelf.done(&["prune", "--keep", "0"]);
    assert_eq!(shelf.standings(), ["1.0.0 active"]);
    // What is left is what the active one needs: as much as a store that never had another.
    let fresh = Shelf::new();
    fresh.import("generator.bundle");
    let names = |shelf: &Shelf| {
        shelf.blobs().iter().map(|(path, size)| (path.file_name().unwrap().to_owned(), *size)).collect::<Vec<_>>()
    };
    assert_eq!(names(&shelf), names(&fresh));
    assert_eq!(shelf.served_version(), "1.0.0");
    let again: Json = serde_json::from_str(&shelf.done(&["prune", "--keep", "0", "--json"])).unwrap();
    assert_eq!((again["bytes"].as_u64(), again["files"].as_array().map(Vec::len)), (Some(0), Some(0)), "{again}");
}

#[test]
fn the_previous_bundle_is_never_pruned() {
    let shelf = Shelf::with_two_versions();
    shelf.done(&["activate", "fixture-generator@1.1.0"]);
    shelf.done(&["prune", "--keep", "0"]);
    assert_eq!(shelf.standings(), ["1.0.0 previous", "1.1.0 active"]);
    shelf.done(&["rollback"]);
    assert_eq!(shelf.served_version(), "1.0.0");
}
