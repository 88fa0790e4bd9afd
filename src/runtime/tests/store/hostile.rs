//! What hostile deliveries leave behind: nothing, and a refusal with its exit code, within bounded memory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use crate::shelf::Shelf;
use crate::support::{ampoule, code, text, workspace};

/// More than an import of small files needs, and less than one of the sizes that the defects claim.
const MEMORY_KIB: u32 = 128 * 1024;

/// Every file below a folder with its length and when it was changed.
fn everything_in(folder: &Path) -> Vec<(PathBuf, u64, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let facts = entry.metadata().unwrap();
        if facts.is_dir() {
            found.extend(everything_in(&entry.path()));
        } else {
            found.push((entry.path(), facts.size(), facts.ctime_nsec()));
        }
    }
    found.sort();
    found
}

/// THREATS C01 (names and digests that are paths), C02 (entries that are no files), C03 (archives that two readers read
/// differently), C20 (files that were exchanged), C22 (compressed layers), and every other defect that is kept.
#[test]
fn c01_c02_c03_c20_c22_a_delivery_with_a_defect_leaves_no_trace() {
    let shelf = Shelf::with_two_versions();
    let root = workspace().join("bundles/fixtures/keys/root.json");
    let mut refused = 0;
    for folder in fs::read_dir(workspace().join("bundles/fixtures")).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(expected) = fs::read(folder.join("expected.json")) else { continue };
        let expected: Json = serde_json::from_slice(&expected).unwrap();
        // A store takes what it cannot look into.
        if !expected["accepted_counter"].is_null() || !expected["identity"].is_null() {
            continue;
        }
        let before = everything_in(shelf.site.folder.path());
        let import = ampoule();
        let mut bounded = Command::new("sh");
        bounded.arg("-c").arg(format!("ulimit -v {MEMORY_KIB} && exec \"$@\"")).arg("sh").arg(import.get_program());
        bounded.arg("import").arg(folder.join("defect.bundle")).arg("--trust-root").arg(&root);
        let output = bounded.args(["--store", &shelf.store]).output().unwrap();
        let told = text(&output.stderr);
        assert_eq!(code(&output), i32::try_from(expected["exit"].as_i64().unwrap()).unwrap(), "{folder:?}: {told}");
        assert!(told.contains(expected["message_contains"].as_str().unwrap()), "{folder:?}: {told}");
        assert_eq!(everything_in(shelf.site.folder.path()), before, "{folder:?}");
        refused += 1;
    }
    assert!(refused >= 40, "{refused} defects");
}
