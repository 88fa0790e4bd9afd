//! A server that the harness started: it is watched until it is ready, can be asked to stop, and never outlives its case.

use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::certificates::Authority;
use crate::site::{Ended, collect, wait};
use crate::target::Target;

/// A large model on a slow disk takes minutes to load.
const START_PATIENCE: Duration = Duration::from_secs(600);

/// How often a server is asked whether it is ready.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a server may listen without answering: it listens once it is ready, so that it answers at once.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);

/// Longer than the longest drain that a case configures.
const STOP_PATIENCE: Duration = Duration::from_secs(180);

/// A running `ampoule serve`.
pub(crate) struct Server {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    target: Target,
}

impl Server {
    /// Starts `command`, which listens on `port`, and waits until `/readyz` says 200.
    pub(crate) fn start(mut command: Command, port: u16, key: &str, tls: Option<&Authority>) -> anyhow::Result<Server> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let authority = tls.map(|authority| authority.certificate_pem().as_bytes());
        let target = Target::new(&format!("{scheme}://127.0.0.1:{port}"), Some(key.to_owned()), authority)?;
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("the server cannot be started")?;
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let mut server = Server { child, stdout: Some(stdout), stderr: Some(stderr), target };
        server.becomes_ready()?;
        Ok(server)
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) -> anyhow::Result<()> {
        // `kill` is a builtin of every POSIX shell, while the program of that name is missing from small systems, and the
        // system call needs an unsafe block.
        let mut shell = Command::new("sh");
        let sent = shell.args(["-c", "kill -s \"$0\" \"$1\"", name, &self.child.id().to_string()]).status()?;
        ensure!(sent.success(), "the signal {name} could not be sent");
        Ok(())
    }

    /// Waits for the end of a server that was told to stop.
    pub(crate) fn ended(mut self) -> anyhow::Result<Ended> {
        let Some(status) = wait(&mut self.child, STOP_PATIENCE)? else {
            bail!("the server still ran {} s after the signal", STOP_PATIENCE.as_secs());
        };
        Ok(Ended { code: status.code(), stdout: text(self.stdout.take()), stderr: text(self.stderr.take()) })
    }

    /// Asks it to stop and waits for its end.
    pub(crate) fn stop(self) -> anyhow::Result<Ended> {
        self.signal("TERM")?;
        self.ended()
    }

    /// The number of the process.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    fn becomes_ready(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut listens_since = None;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let told: String = text(self.stderr.take()).chars().take(800).collect();
                bail!("the server ended with {:?} before it was ready: {told}", status.code());
            }
            match self.target.send("GET", "/readyz", &[], None) {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Err(error) if self.target.listens() => {
                    let since = *listens_since.get_or_insert_with(Instant::now);
                    ensure!(since.elapsed() < ANSWER_PATIENCE, "the server listens and does not answer: {error:#}");
                }
                Ok(_) | Err(_) => {}
            }
            ensure!(started.elapsed() < START_PATIENCE, "not ready after {} s", START_PATIENCE.as_secs());
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(reader: Option<JoinHandle<String>>) -> String {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}
