//! The server that is loaded, and what it holds at a moment: by the kernel's account and by its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::process;

/// How long a server may take to be ready, and afterwards to be idle.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running server; it ends with this value.
pub(super) struct Server {
    child: Child,
    address: SocketAddr,
    metrics: SocketAddr,
    key: String,
    folder: PathBuf,
}

/// What it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) resident_bytes: u64,
    pub(super) descriptors: u64,
    pub(super) tokens_held: u64,
    pub(super) running: u64,
    pub(super) queued: u64,
}

impl Server {
    pub(super) fn start(binary: &Path, bundle: &Path, trust_root: &Path) -> anyhow::Result<Server> {
        let folder = PathBuf::from("target/soak");
        fs::create_dir_all(&folder).context("cannot make target/soak")?;
        let keys = folder.join("keys.jsonl");
        let _ = fs::remove_file(&keys);
        let added =
            process::output(Command::new(binary).args(["keys", "add", "soak", "--json", "--keys-file"]).arg(&keys))?;
        let added: serde_json::Value = serde_json::from_str(&added)?;
        let key = added["key"].as_str().context("`keys add` printed no key")?.to_owned();
        let [address, metrics] = [free_address()?, free_address()?];
        let log = fs::File::create(folder.join("server.log")).context("cannot write target/soak/server.log")?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--bundle").arg(bundle).arg("--trust-root").arg(trust_root);
        command.arg("--keys-file").arg(&keys).args(["--listen", &address.to_string()]);
        command.args(["--metrics-listen", &metrics.to_string(), "--model-name", "demo"]);
        // Blocks that hold what was computed before are kept until memory runs out: with little of it that is soon.
        command.args(["--set", "limits.token_budget=8192"]);
        let child = command.stdin(Stdio::null()).stderr(log).spawn();
        let child = child.with_context(|| format!("{} did not start", binary.display()))?;
        let mut server = Server { child, address, metrics, key, folder };
        server.wait_until_ready()?;
        Ok(server)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// What the server holds now.
    pub(super) fn sample(&self) -> anyhow::Result<Sample> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(process.join("status")).context("the server has ended")?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: u64 = resident.trim().trim_end_matches(" kB").trim().parse()?;
        let page = get(self.metrics, "/metrics")?;
        let series = |name: &str| -> anyhow::Result<u64> {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            Ok(line.with_context(|| format!("no series {name}"))?.parse::<f64>()? as u64)
        };
        Ok(Sample {
            resident_bytes: kibibytes << 10,
            descriptors: fs::read_dir(process.join("fd"))?.count() as u64,
            tokens_held: series("ampoule_tokens_held")?,
            running: series("ampoule_requests_running")?,
            queued: series("ampoule_requests_queued")?,
        })
    }

    /// What the server holds once nobody asks any more.
    pub(super) fn quiet(&self) -> anyhow::Result<Sample> {
        let began = Instant::now();
        loop {
            let sample = self.sample()?;
            if sample.running + sample.queued + sample.tokens_held == 0 || began.elapsed() > PATIENCE {
                // Connections that were just closed are given a moment.
                thread::sleep(Duration::from_secs(1));
                return self.sample();
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if get(self.address, "/readyz").is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
                bail!("the server ended with {status}\n{log}");
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the server is not ready after {} seconds", PATIENCE.as_secs())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has nothing to finish, and a failure to end it is no news on the way out.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?)
}

/// The body of an answer with status 200.
fn get(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    let mut rest = String::new();
    reader.read_to_string(&mut rest)?;
    if !status.contains(" 200 ") {
        bail!("{path} answers {status}");
    }
    Ok(rest)
}
