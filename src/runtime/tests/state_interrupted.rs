//! A write of the state that is killed, or fails, at each of its system calls in turn: afterwards the old state or the new
//! one is there, whole, and a reset that is there is on record.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use ampoule::state::{Cause, State, StateError};
use ampoule_bundle::HighWaterMarks;
use support::ampoule;

/// The system calls by which files are found, changed and made durable.
const CALLS: [&str; 8] = ["openat", "unlink", "write", "fsync", "rename", "flock", "mkdir", "close"];
/// What can happen to one: the process is killed as it begins, or the system refuses it.
const FAULTS: [&str; 3] = ["signal=KILL", "error=ENOSPC", "error=EIO"];
/// More than any of them is called.
const MOST_CALLS: usize = 200;

/// Whether system calls can be made to fail here; a run without says so.
fn can_inject() -> bool {
    let probe = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "inject=getpid:error=EIO", "true"])
        .stderr(Stdio::null())
        .status();
    let can = probe.is_ok_and(|status| status.success());
    if !can {
        println!("skipped: interrupted writes (strace is missing or may not watch; `cargo xtask tools` installs it)");
    }
    can
}

/// Runs `ampoule` with this fault at the `number`th call of `call`. Says whether the fault came about, and whether the
/// command was done nevertheless.
fn run_with(call: &str, fault: &str, number: usize, arguments: &[&str], log: &Path) -> (bool, bool) {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", log.to_str().unwrap(), "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:{fault}:when={number}")]);
    command.arg(ampoule().get_program()).args(arguments).stdin(Stdio::null());
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    let told = fs::read_to_string(log).unwrap();
    (told.contains("(INJECTED)") || told.contains("killed by SIGKILL"), status.success())
}

/// Holds `check` after a fault at each call that `arguments` make, and tells how many there were.
fn sweep(arguments: &[&str], prepare: impl Fn(), check: impl Fn(&str, bool)) {
    let log = tempfile::NamedTempFile::new().unwrap();
    for fault in FAULTS {
        let mut points = Vec::new();
        for call in CALLS {
            let mut count = 0;
            for number in 1..MOST_CALLS {
                prepare();
                let (came_about, is_done) = run_with(call, fault, number, arguments, log.path());
                if !came_about {
                    break;
                }
                check(&format!("{fault} at {call} {number}"), is_done);
                count += 1;
            }
            points.push(format!("{call} {count}"));
        }
        println!("{} {fault}: {}", arguments[..2].join(" "), points.join(", "));
    }
}

#[test]
fn c16_a_reset_that_is_cut_at_any_system_call_leaves_the_old_state_or_the_new_one() {
    if !can_inject() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let prepare = || {
        fs::read_dir(folder.path()).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
        let mut seen = HighWaterMarks::none();
        seen.see_trust_root(7);
        State::create(folder.path()).unwrap().raise(&seen, "a test").unwrap();
    };
    sweep(&["state", "reset", "--state", path, "--reason", "cut"], prepare, |point, is_done| {
        let state = State::open(folder.path()).unwrap_or_else(|error| panic!("{point}: {error}"));
        let is_reset = matches!(state.records().last().unwrap().cause, Cause::Reset { .. });
        assert_eq!(state.marks().trust_root(), if is_reset { 0 } else { 7 }, "{point}");
        let is_on_record = fs::read_to_string(folder.path().join("high-water.log")).unwrap().contains("\"cut\"");
        assert!(!is_reset || is_on_record, "{point}: a reset without a record");
        assert!(is_reset || !is_done, "{point}: done, and the old state is there");
        // The next writer is not kept from anything by what this one left behind.
        let mut seen = HighWaterMarks::none();
        seen.see_trust_root(9);
        State::open(folder.path()).unwrap().raise(&seen, "the next").unwrap_or_else(|error| panic!("{point}: {error}"));
    });
}

#[test]
fn c16_a_state_whose_making_is_cut_is_there_or_is_missing() {
    if !can_inject() {
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("state");
    let prepare = || drop(fs::remove_dir_all(&folder));
    sweep(&["state", "init", "--state", folder.to_str().unwrap()], prepare, |point, is_done| {
        match State::open(&folder) {
            Ok(state) => assert_eq!(state.marks(), HighWaterMarks::none(), "{point}"),
            // Nothing was remembered yet, so making it again is right, and works.
            Err(StateError::Missing { .. }) if !is_done => {
                fs::create_dir_all(&folder).unwrap();
                State::create(&folder).unwrap_or_else(|error| panic!("{point}: {error}"));
            }
            Err(error) => panic!("{point}: {error}"),
        }
    });
}
