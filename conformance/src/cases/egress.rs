//! Nothing leaves: while the whole served suite runs, no thread of the appliance makes a socket or connects one.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::catalogue::{self, Case, Check, Skipped};
use crate::site::{Site, finish};
use crate::trace::{Trace, egress};

pub(super) const CASES: &[Case] =
    &[Case::installed("AMP-EGR-01", "Once it accepts, the appliance opens no socket and connects nowhere", no_egress)];

/// How long strace may take to write its last line after the process that it watches has ended.
const TRACE_PATIENCE: Duration = Duration::from_secs(30);

fn no_egress(site: &Site) -> anyhow::Result<()> {
    let Trace { accepted, calls } = egress(&traced(site, "%network")?);
    ensure!(accepted > 10, "the trace shows {accepted} accepted connections, so nothing was judged");
    ensure!(calls.is_empty(), "{} calls reach out, the first is {}", calls.len(), calls[0]);
    Ok(())
}

/// What strace sees of these calls while every served case is asked of a server, until its end.
pub(super) fn traced(site: &Site, calls: &str) -> anyhow::Result<String> {
    traceable()?;
    let file = site.folder().join("calls.trace");
    let path = file.display().to_string();
    let flags = site.flags();
    let mut traced = site.command(&[]);
    let binary = traced.get_program().to_owned();
    let environment: Vec<_> =
        traced.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    // With -D strace is no parent but a grandchild: the process that we signal and wait for is the appliance itself.
    traced = Command::new("strace");
    let wanted = format!("trace={calls}");
    traced.args(["-D", "-f", "-e", &wanted, "-o", &path, "--"]).arg(binary).arg("serve").args(&flags);
    for (name, value) in environment {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    let server = site.serve_command(traced, None)?;
    for case in catalogue::all() {
        if let Check::Served(check) = case.check {
            // Judged elsewhere: here they are the traffic.
            let _ = check(server.target());
        }
    }
    let last_line = format!("{} +++ exited with 0 +++", server.process_id());
    let ended = server.stop()?;
    ensure!(ended.code == Some(0), "the traced server ended with {:?}", ended.code);
    let started = Instant::now();
    loop {
        let trace = fs::read_to_string(&file).unwrap_or_default();
        if trace.lines().any(|line| line == last_line) || started.elapsed() > TRACE_PATIENCE {
            return Ok(trace);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether strace is here and may watch a process of ours.
fn traceable() -> anyhow::Result<()> {
    let mut probe = Command::new("strace");
    probe.args(["-D", "-f", "-e", "trace=%network", "-o", "/dev/null", "--", "true"]);
    let skipped = |reason: &str| Err(Skipped(reason.to_owned()).into());
    match finish(probe, Duration::from_secs(30)) {
        Ok(ended) if ended.code == Some(0) => Ok(()),
        Ok(_) => skipped("strace may not watch a process here"),
        Err(_) => skipped("strace is not installed"),
    }
}
