//! The threats C01 to C22 to a loader, as an operator meets them: each attack is handed to the binary, which must refuse
//! it with its exit code, by the id that programs know it by, and within bounded memory.
//!
//! What a file alone can carry is a folder of `bundles/fixtures`; what takes a site's past, a second key or a file that
//! changes has a test of its own below.  The crates' tests go through each threat in depth.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ampoule::state::State;
use ampoule_bundle::{Counter, Epoch, HighWaterMarks};
use serde_json::Value as Json;
use support::adapters::{seal, succeeds};
use support::{Site, ampoule, code, program, text, workspace};

/// What a process may ask the system for: far less than the sizes that the attacks claim.
const ADDRESS_SPACE_KIB: u32 = 192 << 10;

/// The fixtures that carry each threat out.
const FIXTURES: &[(&str, &[&str])] = &[
    ("C01", &["path-traversal"]),
    ("C02", &["symlink-entry"]),
    ("C03", &["pax-size", "header-not-canonical", "duplicate-entry", "trailing-bytes", "truncated"]),
    ("C04", &["gguf-outside-file"]),
    ("C05", &["gguf-overflow-dims"]),
    ("C06", &["gguf-long-key", "gguf-many-entries", "oversized-manifest"]),
    ("C07", &["gguf-overflow-dims"]),
    ("C08", &["oversized-header", "safetensors-overlap"]),
    ("C09", &["duplicate-json-key"]),
    ("C10", &["missing-release-statement", "missing-model-signature"]),
    ("C11", &["signature-not-der"]),
    ("C12", &["signature-of-zeros"]),
    ("C13", &["wrong-payload-type", "unknown-statement"]),
    ("C14", &["forged-hint", "unknown-key"]),
    ("C16", &["counter-rollback", "trust-root-too-old", "expired"]),
    ("C20", &["layer-digest", "weights-digest", "statement-of-another-bundle", "oms-mismatch"]),
    ("C21", &["age-chunks-exchanged", "age-cut-at-a-chunk", "age-continued", "mixed-encryption"]),
    ("C22", &["unknown-media-type"]),
];
/// The threats that no file alone can carry out, each in the name of a test below.
const TOLD: &[&str] = &["C15", "C17", "C18", "C19"];

#[test]
fn c01_to_c22_are_all_here() {
    let all: BTreeSet<String> = (1..=22).map(|number| format!("C{number:02}")).collect();
    let told = FIXTURES.iter().map(|(threat, _)| *threat).chain(TOLD.iter().copied());
    assert_eq!(told.map(str::to_owned).collect::<BTreeSet<_>>(), all);
}

#[test]
fn c01_to_c22_what_a_fixture_holds_is_refused_by_its_id_within_bounded_memory() {
    let fixtures = workspace().join("bundles/fixtures");
    let folder = tempfile::tempdir().unwrap();
    for (threat, name) in FIXTURES.iter().flat_map(|(threat, names)| names.iter().map(move |name| (threat, name))) {
        let fixture = fixtures.join(name);
        let expected: Json = serde_json::from_slice(&fs::read(fixture.join("expected.json")).unwrap()).unwrap();
        let mut verify = vec!["verify".to_owned(), fixture.join("defect.bundle").display().to_string()];
        verify.extend(["--trust-root".to_owned(), fixtures.join("keys/root.json").display().to_string()]);
        verify.extend(expected["accepted_counter"].as_u64().map(|counter| format!("--accepted=1:{counter}")));
        if let Some(identity) = expected["identity"].as_str() {
            verify.extend(["--decryption-identity-file".to_owned(), identity_file(folder.path(), identity)]);
        }
        let exit = i32::try_from(expected["exit"].as_i64().unwrap()).unwrap();
        refused(&format!("{threat} {name}"), bounded().args(verify), exit, expected["error"].as_str().unwrap());
    }
}

/// A key counts once, whatever it is called and however often it signs.
#[test]
fn c15_one_key_is_no_threshold_of_two() {
    let site = Site::new();
    let root = site.folder.path().join("two.json").display().to_string();
    let [test, other] = [keys("test.pub"), keys("other.pub")];
    let mut init = seal();
    init.args(["trust", "init", "--root-key", &test, "--release-key", &test, "--release-key", &other]);
    succeeds({
        init.args(["--release-threshold", "2", "--out", &root]);
        init
    });
    let verify = ["verify", &site.bundle, "--trust-root", &root];
    refused("one of two keys", bounded().args(verify), 11, "too_few_signatures");

    // The same key under a second id would be counted as another one.
    let mut document: Json = serde_json::from_slice(&fs::read(&root).unwrap()).unwrap();
    let all = document["signed"]["keys"].as_object_mut().unwrap();
    let first = all.values().next().unwrap().clone();
    all.values_mut().for_each(|key| *key = first.clone());
    fs::write(&root, document.to_string()).unwrap();
    refused("one key under two ids", bounded().args(verify), 10, "malformed_trust_root");
}

/// A counter that a stolen key has used up is left behind with the key.
#[test]
fn c17_a_counter_at_its_end_is_left_behind_with_its_epoch() {
    let site = Site::new();
    let path = |name: &str| site.folder.path().join(name).display().to_string();
    let (state, root, next, plain, sealed) =
        (path("state"), path("root.json"), path("2.root.json"), path("plain"), path("2.bundle"));
    let [test, test_key, other, other_key] = ["test.pub", "test.key", "other.pub", "other.key"].map(keys);
    let password = keys("test.password");
    let mut command = seal();
    command.args(["trust", "init", "--root-key", &test, "--release-key", &test, "--revoke-key", &test]);
    command.args(["--out", &root]);
    succeeds(command);
    remember(Path::new(&state), |seen| {
        seen.accept(&"fixture-generator".parse().unwrap(), Epoch(1), Counter((1 << 53) - 1));
    });
    let admit = |bundle: &str, root: &str| {
        let mut command = bounded();
        command.args(["admit", bundle, "--trust-root", root, "--state", &state]);
        command
    };
    refused("a counter below the highest", &mut admit(&site.bundle, &root), 13, "rollback");

    let mut command = seal();
    command.args(["trust", "rotate", &root, "--replace", &test, "--by", &other, "--out", &next]);
    command.args(["--sign-with", &test_key, "--password-file", &password]);
    succeeds(command);
    refused("the stolen key", &mut admit(&site.bundle, &next), 11, "too_few_signatures");
    let mut command = seal();
    command.args(["export", "--dir", &plain, &site.bundle]);
    succeeds(command);
    let mut command = seal();
    command.args(["seal", "--from", &plain, "--name", "fixture-generator", "--version", "1.0.1", "--out", &sealed]);
    command.args(["--epoch", "2", "--counter", "1", "--key", &other_key, "--password-file", &password]);
    succeeds(command);
    let output = admit(&sealed, &next).output().unwrap();
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
}

/// What was seen is later than what the clock says.
#[test]
fn c18_a_clock_that_was_set_back_is_not_believed() {
    let site = Site::new();
    let state = site.folder.path().join("state");
    remember(&state, |seen| seen.see_time("2100-01-01T00:00:00Z".parse().unwrap()));
    let mut admit = bounded();
    admit.args(["admit", &site.bundle, "--trust-root", &site.root, "--state"]).arg(&state);
    refused("a root that expired by what was seen", &mut admit, 12, "trust_root_expiry");
}

/// What is done to a file while it is read, and the refusal that must come of it; none where its old bytes are used.
type Attack<'a> = (&'a str, &'a dyn Fn(&Path), Option<(i32, &'a str)>);

/// A file that changes between two reads gives its old bytes or an error, and never a signal.
#[test]
fn c19_a_file_that_changes_while_it_is_read_is_refused() {
    if Command::new("strace").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: c19 (strace is missing; `cargo xtask tools` installs it)");
        return;
    }
    let site = Site::new();
    let whole = fs::read(&site.bundle).unwrap();
    let changed = |bundle: &Path| {
        let mut bytes = whole.clone();
        // The end is padding; a weight lies well before it.
        let position = bytes.len() - 4096;
        bytes[position] ^= 1;
        fs::write(bundle, bytes).unwrap();
    };
    let cut = |bundle: &Path| {
        let file = fs::File::options().write(true).open(bundle).unwrap();
        file.set_len(whole.len() as u64 / 2).unwrap();
    };
    let exchanged = |bundle: &Path| fs::rename(workspace_copy(&site, "expired"), bundle).unwrap();
    let attacks: [Attack<'_>; 3] = [
        ("a weight that is changed", &changed, Some((11, "digest_mismatch"))),
        ("a file that is cut", &cut, Some((10, "truncated"))),
        // Whoever has opened a file keeps it: another one of its name changes nothing.
        ("a name that comes to mean another file", &exchanged, None),
    ];
    for (what, attack, expected) in attacks {
        let bundle = site.folder.path().join("changing.bundle");
        fs::write(&bundle, &whole).unwrap();
        let trace = site.folder.path().join("trace");
        let child = held_at_the_first_read(&bundle, &site.root, &trace);
        attack(&bundle);
        let output = child.wait_with_output().unwrap();
        match expected {
            Some((exit, id)) => judged(what, &output, exit, id),
            None => assert_eq!(code(&output), 0, "{what}: {}", text(&output.stderr)),
        }
    }
}

/// Starts `verify` and returns when it stands at its first read of the bundle, which takes some seconds.
fn held_at_the_first_read(bundle: &Path, root: &str, trace: &Path) -> Child {
    drop(fs::remove_file(trace));
    let mut command = program("strace");
    command.args(["-f", "-qq", "-e", "trace=pread64", "-e", "inject=pread64:delay_enter=3000000:when=1", "-o"]);
    command.arg(trace).arg("-P").arg(bundle).arg(ampoule().get_program());
    command.args(["verify", "--json", "--trust-root", root]).arg(bundle);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    // strace writes the call down as it begins, and the delay comes before it.
    while fs::read_to_string(trace).unwrap_or_default().is_empty() {
        assert!(start.elapsed() < support::PATIENCE, "no read of {}", bundle.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// A copy of a fixture that may be moved away.
fn workspace_copy(site: &Site, fixture: &str) -> PathBuf {
    let copy = site.folder.path().join("another.bundle");
    fs::copy(workspace().join("bundles/fixtures").join(fixture).join("defect.bundle"), &copy).unwrap();
    copy
}

/// The binary, with a limit to its memory.
fn bounded() -> Command {
    let mut command = program("sh");
    command.arg("-c").arg(format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$@\"")).arg("sh");
    command.arg(ampoule().get_program());
    command
}

/// Runs the command, and holds what it says with `--json` against what must come of it.
fn refused(what: &str, command: &mut Command, exit: i32, id: &str) {
    judged(what, &command.arg("--json").output().unwrap(), exit, id);
}

fn judged(what: &str, output: &Output, exit: i32, id: &str) {
    let told = text(&output.stderr);
    assert_eq!(code(output), exit, "{what}: {told}");
    let report: Json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{what}: {told}"));
    assert_eq!((&report["error_id"], &report["exit_code"]), (&id.into(), &exit.into()), "{what}: {report}");
    assert!(told.contains(report["error"].as_str().unwrap()), "{what}: a person is told the same: {told}");
}

/// A state that has seen something.
fn remember(folder: &Path, change: impl FnOnce(&mut HighWaterMarks)) {
    fs::create_dir(folder).unwrap();
    let mut seen = HighWaterMarks::none();
    change(&mut seen);
    State::create(folder).unwrap().raise(&seen, "a test").unwrap();
}

fn identity_file(folder: &Path, identity: &str) -> String {
    let path = folder.join("identity");
    fs::write(&path, format!("{identity}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn keys(name: &str) -> String {
    workspace().join("bundles/fixtures/keys").join(name).display().to_string()
}
