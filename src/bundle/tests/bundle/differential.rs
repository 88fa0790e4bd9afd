//! THREATS C03: Python's tarfile, a reader that has nothing of ours, sees in every file that this crate opens exactly what
//! this crate sees.  Where two readers could differ, this crate refuses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use ampoule_bundle::archive::PlacedFile;
use ampoule_bundle::{Digest, SealedBundle};
use serde_json::Value;

/// Prints for each file its members as name, size and digest of the content, or why it is no archive.
const TARFILE: &str = r#"
import hashlib, json, sys, tarfile
def members(path):
    try:
        with tarfile.open(path, "r:") as archive:
            return [[m.name, m.size, hashlib.sha256(archive.extractfile(m).read()).hexdigest() if m.isreg() else m.type.decode()]
                    for m in archive.getmembers()]
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError, UnicodeError) as error:
        return str(error)
print(json.dumps({path: members(path) for path in sys.argv[1:]}))
"#;

fn fixtures() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../bundles/fixtures");
    let within = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = within(folder).flat_map(within).collect();
    found.retain(|path| path.extension().is_some_and(|ending| ending == "bundle"));
    found.sort();
    found
}

#[test]
fn c03_what_is_opened_is_read_alike_by_python() {
    let fixtures = fixtures();
    let python = Command::new("python3").arg("-c").arg(TARFILE).args(&fixtures).output();
    let Ok(python) = python else {
        assert!(std::env::var_os("CI").is_none(), "python3 is missing");
        eprintln!("skipped: c03_what_is_opened_is_read_alike_by_python: python3 is missing");
        return;
    };
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let by_python: BTreeMap<PathBuf, Value> = serde_json::from_slice(&python.stdout).unwrap();
    let (mut opened, mut refused_by_one) = (0, Vec::new());
    for path in fixtures {
        let read = &by_python[&path];
        let Ok(sealed) = SealedBundle::open(std::fs::File::open(&path).unwrap()) else {
            // Here the two may differ, and do: it is why a reader of bundles must not be lenient.
            if read.is_array() {
                refused_by_one.push(path);
            }
            continue;
        };
        let ours: Vec<Value> = sealed.layout_files().iter().map(|file| entry(file, read)).collect();
        assert_eq!(read, &Value::Array(ours), "{}", path.display());
        opened += 1;
    }
    assert!(opened >= 20, "{opened} were opened");
    assert!(refused_by_one.len() >= 10, "tarfile reads what we refuse: {refused_by_one:?}");
}

/// A file as tarfile should have told it.  The content of a layer is not ours to vouch for before it is verified, so one
/// with a wrong digest is taken as it is.
fn entry(file: &PlacedFile<'_>, read: &Value) -> Value {
    let mut content = Vec::new();
    let digest = match file.copy_to(&mut content) {
        Ok(()) => Value::from(Digest::of(&content).to_hex()),
        Err(_) => {
            let found = read.as_array().into_iter().flatten().find(|entry| entry[0] == *file.path);
            found.map(|entry| entry[2].clone()).unwrap_or_default()
        }
    };
    Value::Array(vec![file.path.as_ref().into(), file.size.into(), digest])
}
