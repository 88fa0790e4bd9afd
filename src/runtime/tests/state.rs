//! What an installation remembers, as an operator meets it: made, raised by what is served, shown, lost, and begun anew;
//! and that neither an older bundle nor a clock that was set back gets past it.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ampoule::state::{Cause, State, StateError};
use ampoule_bundle::{Counter, Epoch, HighWaterMarks};
use serde_json::Value as Json;
use support::{Server, Site, ampoule, code, exchange, get, refused, run, text};

/// A site with a folder for its state.
struct Memory {
    site: Site,
    folder: PathBuf,
}

impl Memory {
    /// A folder without a state.
    fn without() -> Memory {
        let site = Site::new();
        let folder = site.folder.path().join("state");
        fs::create_dir(&folder).unwrap();
        Memory { site, folder }
    }

    fn new() -> Memory {
        let memory = Memory::without();
        memory.done(&["init"]);
        memory
    }

    fn file(&self) -> PathBuf {
        self.folder.join("high-water.json")
    }

    fn path(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    /// Runs `ampoule state` on this folder.
    fn done(&self, arguments: &[&str]) -> String {
        let output = run(&[&["state"], arguments, &["--state", self.path()]].concat());
        assert_eq!(code(&output), 0, "{arguments:?}\n{}", text(&output.stderr));
        text(&output.stdout)
    }

    fn shown(&self) -> Json {
        serde_json::from_str(&self.done(&["show", "--json"])).unwrap()
    }

    /// The flags that serve one of the fixtures with this state.
    fn flags(&self, bundle: &str) -> Vec<String> {
        let bundle = self.site.bundle.replace("generator.bundle", bundle);
        let Site { root, keys, .. } = &self.site;
        [
            "--bundle",
            &bundle,
            "--trust-root",
            root,
            "--keys-file",
            keys,
            "--listen",
            "127.0.0.1:0",
            "--state",
            self.path(),
        ]
        .map(str::to_owned)
        .into()
    }

    fn serve(&self, bundle: &str) -> Server {
        let mut command = ampoule();
        command.arg("serve").args(self.flags(bundle));
        Server::start(command)
    }

    fn refuses(&self, bundle: &str, exit: i32, words: &[&str]) {
        let flags = self.flags(bundle);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for command in [&["serve"][..], &["config", "check"]] {
            refused(&[command, &flags].concat(), exit, words);
        }
    }

    fn raise(&self, change: impl FnOnce(&mut HighWaterMarks)) {
        let mut seen = HighWaterMarks::none();
        change(&mut seen);
        State::open(&self.folder).unwrap().raise(&seen, "a test").unwrap();
    }
}

#[test]
fn c16_what_was_served_is_remembered_and_nothing_older_is_served_again() {
    let memory = Memory::new();
    let server = memory.serve("generator.bundle");
    let metadata =
        exchange(&mut TcpStream::connect(server.address).unwrap(), &get("/v1/metadata", Some(&memory.site.key)));
    assert!(metadata.1.contains("\"rollback_protection\":\"state\""), "{metadata:?}");
    drop(server);
    let shown = memory.shown();
    assert_eq!(shown["counters"][0]["counter"], 1, "{shown}");
    assert_eq!((&shown["trust_root"], &shown["revocation_list"]), (&1.into(), &0.into()));
    drop(memory.serve("generator-next.bundle"));
    assert_eq!(memory.shown()["counters"][0]["counter"], 2);
    let words = ["rule on rollback", "counter 1 in epoch 1", "at least counter 2 in epoch 1", "`ampoule state show`"];
    memory.refuses("generator.bundle", 13, &words);
    assert_eq!(memory.shown()["counters"][0]["counter"], 2, "a refusal changes nothing");
    let told = memory.done(&["show"]);
    for part in ["fixture-generator: counter 2 in epoch 1", "made by user", "raised by fixture-generator 1.1.0"] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    // Only an operator's word, which is kept, lets it come back.
    let folder = memory.path();
    refused(&["state", "reset", "--state", folder], 2, &["--reason"]);
    refused(&["state", "reset", "--state", folder, "--reason", " "], 2, &["one of 1 to 500 characters"]);
    memory.done(&["reset", "--reason", "the new version was withdrawn"]);
    drop(memory.serve("generator.bundle"));
    let log = fs::read_to_string(memory.folder.join("high-water.log")).unwrap();
    let events: Vec<Json> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = |index: usize| events[index]["event"].as_str().unwrap();
    assert_eq!((events.len(), event(0), event(1)), (2, "created", "reset"));
    assert_eq!(events[1]["reason"], "the new version was withdrawn");
    assert!(events[1]["lost"].as_str().unwrap().starts_with("sha256:") && events[1]["uid"].is_u64(), "{log}");
    assert!(memory.done(&["show"]).contains("the new version was withdrawn"));
}

#[test]
fn c16_neither_an_older_root_nor_a_lost_revocation_list_is_used_again() {
    let memory = Memory::new();
    memory.raise(|seen| seen.see_trust_root(7));
    memory.refuses("generator.bundle", 13, &["rule on trust root rollback", "at least version 7", "newest root.json"]);
    let memory = Memory::new();
    memory.raise(|seen| seen.see_revocation_list(3));
    memory.refuses("generator.bundle", 13, &["rule on revocation list rollback", "at least version 3"]);
}

#[test]
fn c18_a_clock_that_was_set_back_brings_nothing_back_to_life() {
    let memory = Memory::new();
    // What this host has seen is later than its clock says: the bundle expired with the century.
    memory.raise(|seen| seen.see_time("2100-01-01T00:00:00Z".parse().unwrap()));
    let words = ["rule on", "it is 2100-01-01T00:00:00Z", "what it has seen"];
    memory.refuses("generator.bundle", 12, &words);
    let shown = memory.shown();
    assert_eq!(shown["time"], "2100-01-01T00:00:00Z", "a refusal lowers nothing");
}

#[test]
fn exit_13_a_state_that_is_missing_lost_or_damaged_is_no_first_start() {
    let memory = Memory::without();
    memory.refuses("generator.bundle", 13, &["there is no state in", "`ampoule state init", "`ampoule state reset"]);
    memory.done(&["init"]);
    refused(&["state", "init", "--state", memory.path()], 13, &["there is a state in", "already"]);
    let whole = fs::read(memory.file()).unwrap();
    for damage in [&whole[..whole.len() / 2], &b""[..], &b"{}"[..], &[whole.as_slice(), b"\n"].concat()] {
        fs::write(memory.file(), damage).unwrap();
        memory.refuses("generator.bundle", 13, &["cannot be used", "high-water.json", "`ampoule state reset"]);
        assert!(matches!(State::open(&memory.folder), Err(StateError::Damaged { .. })));
    }
    fs::remove_file(memory.file()).unwrap();
    let lost = ["is lost: there was one", "high-water.log", "backup", "`ampoule state reset"];
    memory.refuses("generator.bundle", 13, &lost);
    assert!(matches!(State::open(&memory.folder), Err(StateError::Lost { .. })));
    // Making it anew as if nothing had been is not offered: that would be a reset without a record.
    refused(&["state", "init", "--state", memory.path()], 13, &lost);
    memory.done(&["reset", "--reason", "the disk lost it"]);
    let state = State::open(&memory.folder).unwrap();
    assert!(matches!(&state.records()[0].cause, Cause::Reset { lost: None, .. }), "{:?}", state.records());
    drop(memory.serve("generator.bundle"));
}

#[test]
fn c09_a_state_of_any_size_takes_bounded_memory() {
    let memory = Memory::new();
    fs::File::create(memory.file()).unwrap().set_len(1 << 40).unwrap();
    memory.refuses("generator.bundle", 13, &["has more than 16777216 bytes"]);
    let peak = "VmHWM";
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let before: u64 = kibibytes(&status, peak);
    assert!(matches!(State::open(&memory.folder), Err(StateError::Damaged { .. })));
    let after = kibibytes(&fs::read_to_string("/proc/self/status").unwrap(), peak);
    assert!(after - before < 64 << 10, "{before} KiB, then {after} KiB");
}

fn kibibytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn exit_78_a_state_that_everybody_may_write() {
    let memory = Memory::new();
    for (path, mode) in [(memory.file(), 0o644), (memory.folder.clone(), 0o755)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o002)).unwrap();
        memory.refuses("generator.bundle", 78, &["may be written by everybody", "chmod o-w"]);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_second_writer_waits_its_turn_and_readers_do_not() {
    let memory = Memory::new();
    // Whoever may only read the folder keeps nobody waiting: the lock is its owner's file.
    let path = memory.folder.join("high-water.lock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::File::open(&memory.folder).unwrap().lock().unwrap();
    let lock = fs::File::options().write(true).open(path).unwrap();
    lock.lock().unwrap();
    assert_eq!(memory.shown()["records"][0]["sequence"], 0);
    let folder = memory.folder.clone();
    let raising = std::thread::spawn(move || {
        let mut seen = HighWaterMarks::none();
        seen.see_trust_root(2);
        State::open(&folder).unwrap().raise(&seen, "the second writer")
    });
    std::thread::sleep(Duration::from_millis(100));
    memory_is(&memory.folder, 0);
    lock.unlock().unwrap();
    raising.join().unwrap().unwrap();
    memory_is(&memory.folder, 2);
}

fn memory_is(folder: &Path, trust_root: u64) {
    assert_eq!(State::open(folder).unwrap().marks().trust_root(), trust_root);
}

#[test]
fn what_two_looks_raise_is_joined_and_not_overwritten() {
    let memory = Memory::new();
    let mut looks = [State::open(&memory.folder).unwrap(), State::open(&memory.folder).unwrap()];
    for (look, name) in looks.iter_mut().zip(["one", "two"]) {
        let mut seen = HighWaterMarks::none();
        seen.accept(&name.parse().unwrap(), Epoch(1), Counter(1));
        look.raise(&seen, name).unwrap();
    }
    assert_eq!(looks[1].marks().counters().count(), 2);
    assert_eq!(State::open(&memory.folder).unwrap().marks(), looks[1].marks());
    let records = looks[1].records().len();
    let again = looks[1].marks();
    looks[1].raise(&again, "nobody").unwrap();
    assert_eq!(looks[1].records().len(), records, "what raises nothing writes nothing");
}

#[test]
fn c16_killed_at_any_moment_a_start_leaves_the_old_marks_or_the_new_ones() {
    let memory = Memory::new();
    let mut told = [0, 0];
    for milliseconds in (0..30).map(|step| step * 8) {
        memory.done(&["reset", "--reason", "the next round"]);
        let mut child = ampoule()
            .arg("serve")
            .args(memory.flags("generator-next.bundle"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        let marks = State::open(&memory.folder).unwrap().marks();
        let latest = marks.latest(&"fixture-generator".parse().unwrap());
        match latest {
            None => {
                assert_eq!(marks, HighWaterMarks::none(), "killed after {milliseconds} ms");
                told[0] += 1;
            }
            Some(found) => {
                assert_eq!(found, (Epoch(1), Counter(2)), "killed after {milliseconds} ms");
                assert!(marks.time().is_some() && marks.trust_root() == 1, "all marks or none");
                told[1] += 1;
            }
        }
    }
    println!("killed before the marks were raised: {}, after: {}", told[0], told[1]);
    assert!(told[0] > 0, "not one round was killed in time");
}

#[test]
fn without_a_state_the_server_says_that_nothing_stops_an_older_bundle() {
    let site = Site::new();
    let server = site.serve(&[]);
    assert!(server.told.iter().any(|line| line.contains("rollback protection is off")), "{:#?}", server.told);
    let (_, metadata) =
        exchange(&mut TcpStream::connect(server.address).unwrap(), &get("/v1/metadata", Some(&site.key)));
    assert!(metadata.contains("\"rollback_protection\":\"off\""), "{metadata}");
    let check = run(&[&["config", "check"], &site.flags()[..]].concat());
    assert_eq!(code(&check), 0, "{}", text(&check.stderr));
    assert!(text(&check.stdout).contains("note: rollback protection is off"), "{}", text(&check.stdout));
}

#[test]
fn exit_78_a_state_beside_a_store() {
    let memory = Memory::new();
    let arguments = ["serve", "--store", "/store", "--state", memory.path(), "--trust-root", "/r", "--keys-file", "/k"];
    refused(&arguments, 78, &["`state` (from flag --state)", "`store` (from flag --store)", "a store keeps its own"]);
}

#[test]
fn the_site_accepts_the_channels_and_versions_that_it_names() {
    let memory = Memory::new();
    let with = |setting: &str| {
        let flags = memory.flags("generator.bundle");
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--set", setting]).collect();
        run(&[&["config", "check"], &flags[..]].concat())
    };
    let refused = |setting: &str, exit: i32, words: &[&str]| {
        let output = with(setting);
        let told = text(&output.stderr);
        assert_eq!(code(&output), exit, "{setting}: {told}");
        words.iter().for_each(|word| assert!(told.contains(word), "no {word} in {told}"));
    };
    assert_eq!(code(&with("channels=beta, stable")), 0);
    refused(
        "channels=beta",
        12,
        &["rule on channel", "stable (the release statement of", "(`channels`, flag --set channels)"],
    );
    refused("channels=BETA", 78, &["`channels` has the entry \"BETA\"", "flag --set channels"]);
    assert_eq!(code(&with("minimum_versions=fixture-generator@1.0.0,other@9.0.0")), 0);
    refused(
        "minimum_versions=fixture-generator@1.0.1",
        12,
        &["rule on minimum version", "at least 1.0.1 (`minimum_versions`"],
    );
    refused("minimum_versions=fixture-generator", 78, &["a name and a version"]);
}
