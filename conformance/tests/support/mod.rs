//! What the harness's tests share: where the binaries and the bundles are, an appliance that
//! serves, and how the harness is asked.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its own part")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The harness.
pub fn harness(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ampoule-conformance"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The appliance.
pub fn ampoule() -> PathBuf {
    built("ampoule")
}

/// Signs a folder as a release of the appliance, with test material.
pub fn sign_release(tree: &Path) {
    let keys = fixture("generator.bundle").parent().unwrap().join("../keys");
    let mut command = Command::new(built("ampoule-seal"));
    command.args(["release", "--version", "1.2.3", "--platform", "x86_64-linux", "--tree"]).arg(tree);
    command.arg("--key").arg(keys.join("test.key")).arg("--password-file").arg(keys.join("test.password"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Cargo tells no crate where the binary of another one is; all are built into one folder, and this test runs from the
/// folder `deps` in it.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let binary = test.parent().and_then(Path::parent).unwrap().join(name);
    assert!(
        binary.is_file(),
        "{} is missing: build it with `cargo build --release --locked --workspace`, or test the whole workspace",
        binary.display()
    );
    binary
}

/// A file of the bundles that are made for serving.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles/fixtures/serve").join(name).canonicalize().unwrap()
}

/// A real appliance that serves the tiny generator, for liars to stand in front of.
pub struct Appliance {
    child: Child,
    folder: tempfile::TempDir,
    pub port: u16,
    pub key: String,
}

impl Appliance {
    pub fn start() -> Appliance {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys.jsonl");
        let added = clean(ampoule()).args(["keys", "add", "tester", "--keys-file"]).arg(&keys).output().unwrap();
        let key = String::from_utf8(added.stdout).unwrap().trim().to_owned();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = clean(ampoule());
        command.arg("serve").arg("--bundle").arg(fixture("generator.bundle"));
        command.arg("--trust-root").arg(fixture("root.json")).arg("--keys-file").arg(&keys);
        command.args(["--listen", &format!("127.0.0.1:{port}")]).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let appliance = Appliance { child, folder, port, key };
        let started = Instant::now();
        // It listens once its model has proven itself, so a connection is readiness.
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(60), "the appliance does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        appliance
    }

    /// The file from which the harness takes the key.
    pub fn key_file(&self) -> PathBuf {
        let path = self.folder.path().join("key.txt");
        std::fs::write(&path, format!("{}\n", self.key)).unwrap();
        path
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command without any of our variables in its environment.
fn clean(program: PathBuf) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AMPOULE_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the harness and returns its exit code and its report.
pub fn judge(mut command: Command) -> (Option<i32>, Value) {
    let output = command.output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("no report: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    });
    (output.status.code(), report)
}

/// The ids of the cases with this result.
pub fn with_result<'a>(report: &'a Value, result: &str) -> Vec<&'a str> {
    let cases = report["cases"].as_array().unwrap().iter();
    cases.filter(|case| case["result"] == result).map(|case| case["id"].as_str().unwrap()).collect()
}
