//! What the binary's tests share: a clean environment, a folder with a site's files, and a server that is ended with
//! its test.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test binary uses its own part")]

pub mod adapters;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longer than any start or drain of a small model on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The binary, with none of our variables in its environment.
pub fn ampoule() -> Command {
    program(env!("CARGO_BIN_EXE_ampoule"))
}

/// Another program that starts the binary, with none of our variables in its environment either.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AMPOULE_")) {
        command.env_remove(name);
    }
    command.env_remove("COLUMNS").stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn run(arguments: &[&str]) -> Output {
    ampoule().args(arguments).output().unwrap()
}

/// The exit code, which must be there: a signal is no exit code.
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("ended by a signal: {}", text(&output.stderr)))
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs the binary and requires an exit code and words on standard error.
pub fn refused(arguments: &[&str], expected: i32, words: &[&str]) {
    let output = run(arguments);
    let told = text(&output.stderr);
    assert_eq!(code(&output), expected, "{arguments:?}\n{told}");
    for word in words {
        assert!(told.contains(word), "missing: {word}\nin: {told}");
    }
}

/// Compares with a golden file.  A golden file is changed by hand, with the reason in the commit; nothing rewrites it.
pub fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if expected != found {
        let beside = std::env::temp_dir().join(format!("ampoule-golden-{name}"));
        fs::write(&beside, found).unwrap();
        panic!("{} differs from what was found; compare it with {}:\n{found}", path.display(), beside.display());
    }
}

/// A bundle that may be served, its root, and a key file with one key.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub bundle: String,
    pub root: String,
    pub keys: String,
    pub key: String,
}

impl Site {
    pub fn new() -> Site {
        let fixtures = workspace().join("bundles/fixtures/serve");
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys.jsonl").display().to_string();
        let added = run(&["keys", "add", "tester", "--keys-file", &keys]);
        assert_eq!(code(&added), 0, "{}", text(&added.stderr));
        let path = |name: &str| fixtures.join(name).display().to_string();
        let key = text(&added.stdout).trim().to_owned();
        Site { bundle: path("generator.bundle"), root: path("root.json"), keys, key, folder }
    }

    /// The flags that every `serve` of this site needs.
    pub fn flags(&self) -> Vec<&str> {
        vec!["--bundle", &self.bundle, "--trust-root", &self.root, "--keys-file", &self.keys]
    }

    pub fn serve(&self, more: &[&str]) -> Server {
        let mut command = ampoule();
        command.arg("serve").args(self.flags()).args(["--listen", "127.0.0.1:0"]).args(more);
        Server::start(command)
    }
}

/// A running server; dropping it ends it.
pub struct Server {
    child: Child,
    log: mpsc::Receiver<String>,
    pub told: Vec<String>,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a command and waits until its log says where it listens.
    pub fn start(mut command: Command) -> Server {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let log = lines_of(child.stderr.take().unwrap());
        let mut server = Server { child, log, told: Vec::new(), address: ([0, 0, 0, 0], 0).into() };
        server.address = server.wait_for("address").parse().unwrap();
        server
    }

    /// Starts the demo, which tells its reader on standard output where it listens.
    pub fn start_demo(mut command: Command) -> Server {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let log = lines_of(child.stdout.take().unwrap());
        let mut server = Server { child, log, told: Vec::new(), address: ([0, 0, 0, 0], 0).into() };
        let base = server.wait_for_label("Base URL");
        server.address = base.trim_start_matches("http://").trim_end_matches("/v1").parse().unwrap();
        server
    }

    /// Waits for a line that begins with this label and returns the rest of it.
    pub fn wait_for_label(&mut self, label: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {label} in {:#?}", self.told));
            self.told.push(line.clone());
            if let Some(rest) = line.trim_start().strip_prefix(label) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Waits for a log line with this field and returns the field's text.
    pub fn wait_for(&mut self, field: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.log.recv_timeout(left).unwrap_or_else(|_| panic!("no {field} in {:#?}", self.told));
            self.told.push(line.clone());
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(found) = parsed[field].as_str() {
                return found.to_owned();
            }
        }
    }

    /// The number of the process.
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end and returns the exit code and the whole log.
    pub fn end(mut self) -> (Option<i32>, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("still running: {:#?}", self.told),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        self.told.extend(self.log.iter());
        (status.code(), std::mem::take(&mut self.told))
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One HTTP/1.1 exchange over any stream; returns the status and everything after the head.
pub fn exchange(stream: &mut (impl Read + std::io::Write), request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // A peer that closes without a TLS close_notify ends the stream with an error after the bytes; they count.
    let _ = stream.read_to_end(&mut bytes);
    let answer = text(&bytes);
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no HTTP answer: {answer:?}"));
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// A GET request that closes its connection.
pub fn get(path: &str, key: Option<&str>) -> String {
    let authorization = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n")
}

/// A chat completion that closes its connection.
pub fn chat(model: &str, key: &str, max_tokens: u32) -> String {
    chat_about("Hello there", model, key, max_tokens)
}

/// The same with a prompt of one's own.
pub fn chat_about(prompt: &str, model: &str, key: &str, max_tokens: u32) -> String {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":{max_tokens},"messages":[{{"role":"user","content":"{prompt}"}}]}}"#
    );
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
