//! A customer's site in a temporary folder: the installed binary, a bundle, a trust root, and a key of our own.
//!
//! Every process is started with a clean environment, so that what is judged is the appliance and not the shell that the
//! harness was started from.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::certificates::Authority;
use crate::server::Server;

/// Longer than any command takes that does not serve: the longest reads and hashes a whole bundle.
const COMMAND_PATIENCE: Duration = Duration::from_secs(300);

/// How often a process is looked at that should end by itself.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The name of the key that the harness makes for itself.
const KEY_NAME: &str = "conformance";

/// What a customer has.
pub(crate) struct Site {
    folder: TempDir,
    binary: PathBuf,
    bundle: PathBuf,
    root: PathBuf,
    keys: PathBuf,
    key: String,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Site {
    /// Makes a folder with a key file in it.
    pub(crate) fn prepare(binary: &Path, bundle: &Path, root: &Path) -> anyhow::Result<Site> {
        let found = |path: &Path| path.canonicalize().with_context(|| format!("cannot find {}", path.display()));
        let folder = tempfile::Builder::new().prefix("ampoule-conformance-").tempdir()?;
        let keys = folder.path().join("keys.jsonl");
        let (binary, bundle, root) = (found(binary)?, found(bundle)?, found(root)?);
        let mut site = Site { folder, binary, bundle, root, keys, key: String::new() };
        site.key = site.add_key(&site.keys.clone(), KEY_NAME)?;
        Ok(site)
    }

    /// What the report calls this subject.
    pub(crate) fn name(&self) -> String {
        format!("{} with {}", self.binary.display(), self.bundle.display())
    }

    /// The binary itself, where links to it lead.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn bundle(&self) -> &Path {
        &self.bundle
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn keys(&self) -> &Path {
        &self.keys
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Makes a key with `ampoule keys add` and returns it.
    pub(crate) fn add_key(&self, file: &Path, name: &str) -> anyhow::Result<String> {
        let added = self.run(&["keys", "add", name, "--keys-file", &file.display().to_string()])?;
        ensure!(added.code == Some(0), "`keys add` ended with {:?}: {}", added.code, added.stderr);
        let key = added.stdout.trim();
        ensure!(key.starts_with("amp-") && !key.contains(char::is_whitespace), "`keys add` printed no key");
        Ok(key.to_owned())
    }

    /// The flags that name this site's bundle, root and keys.
    pub(crate) fn flags(&self) -> Vec<String> {
        self.flags_for(&self.bundle, &self.root, &self.keys)
    }

    /// The same flags for other files.
    pub(crate) fn flags_for(&self, bundle: &Path, root: &Path, keys: &Path) -> Vec<String> {
        let named = [("--bundle", bundle), ("--trust-root", root), ("--keys-file", keys)];
        named.iter().flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()]).collect()
    }

    /// The binary with these arguments, and with nothing of our environment that it would read.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).current_dir(self.folder()).stdin(Stdio::null());
        clean(&mut command);
        command
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> anyhow::Result<Ended> {
        finish(self.command(arguments), COMMAND_PATIENCE).with_context(|| format!("`{}`", arguments.join(" ")))
    }

    /// Runs `serve` with arguments that it must refuse, and requires the exit code and the words on standard error that
    /// tell the operator what is wrong.
    pub(crate) fn refuses_to_serve(&self, arguments: &[String], code: i32, words: &[&str]) -> anyhow::Result<()> {
        // On an address that nobody has, unless the arguments name one: a server that should have refused must not be
        // taken for one that found its port in use.
        let port = free_port()?;
        let listen = ["--listen".to_owned(), format!("127.0.0.1:{port}")];
        let has_address = arguments.contains(&listen[0]);
        let listen = listen.iter().filter(|_| !has_address);
        let all: Vec<&str> = ["serve"].into_iter().chain(arguments.iter().chain(listen).map(String::as_str)).collect();
        let serves = || !has_address && TcpStream::connect(("127.0.0.1", port)).is_ok();
        finish_unless(self.command(&all), COMMAND_PATIENCE, serves)?.requires(code, words)
    }

    /// Starts a server with more arguments than the site's own, on a free loopback port, and waits until it is ready.
    pub(crate) fn serve(&self, more: &[&str]) -> anyhow::Result<Server> {
        let flags = self.flags();
        let flags: Vec<&str> = ["serve"].into_iter().chain(flags.iter().map(String::as_str)).collect();
        self.serve_command(self.command(&[&flags[..], more].concat()), None)
    }

    /// Starts a server from a command of the caller's own making, to which only the address is added.
    pub(crate) fn serve_command(&self, command: Command, tls: Option<&Authority>) -> anyhow::Result<Server> {
        self.serve_for_key(command, tls, self.key())
    }

    /// The same, to be talked to with another key.
    pub(crate) fn serve_for_key(
        &self,
        mut command: Command,
        tls: Option<&Authority>,
        key: &str,
    ) -> anyhow::Result<Server> {
        let port = free_port()?;
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        Server::start(command, port, key, tls)
    }
}

impl Ended {
    /// Requires an exit code, and words on standard error.
    pub(crate) fn requires(&self, code: i32, words: &[&str]) -> anyhow::Result<()> {
        let told: String = self.stderr.chars().take(600).collect();
        ensure!(self.code == Some(code), "exit code {:?} where {code} was promised; it said: {told}", self.code);
        for word in words {
            ensure!(self.stderr.contains(word), "the message does not say {word:?}: {told}");
        }
        ensure!(!self.stderr.contains("panicked at"), "the process panicked: {told}");
        Ok(())
    }

    /// Standard output as JSON, after the exit code 0.
    pub(crate) fn json(&self) -> anyhow::Result<Value> {
        self.requires(0, &[])?;
        serde_json::from_str(&self.stdout).context("standard output is no JSON")
    }
}

/// A port of loopback on which nobody listens now.  Somebody else could take it before the appliance does; then the
/// start fails and says so.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Takes away the variables that the appliance, or whoever watches over it, would act upon.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("AMPOULE_") || ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"].contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
}

/// Runs a command to its end, or ends it when it takes longer than `patience`.
pub(crate) fn finish(command: Command, patience: Duration) -> anyhow::Result<Ended> {
    finish_unless(command, patience, || false)
}

/// Runs a command to its end, or ends it as soon as it `serves`, which is an error.
fn finish_unless(mut command: Command, patience: Duration, serves: impl Fn() -> bool) -> anyhow::Result<Ended> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot be started")?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let started = Instant::now();
    let status = loop {
        if let Some(status) = wait(&mut child, POLL_INTERVAL)? {
            break status;
        }
        let serves = serves();
        if serves || started.elapsed() > patience {
            child.kill().context("cannot be ended")?;
            child.wait()?;
            ensure!(!serves, "it serves where it had to refuse");
            bail!("still ran after {} s", patience.as_secs());
        }
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) })
}

/// Waits for a child's end; `None` when it has not come in time.
pub(crate) fn wait(child: &mut Child, patience: Duration) -> anyhow::Result<Option<std::process::ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > patience {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads a pipe on a thread of its own, so that a process that says much is never stopped by a full pipe.
pub(crate) fn collect(pipe: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Whatever was read before an error is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
