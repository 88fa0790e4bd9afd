//! The sandbox: what a server gave up before it answered, seen from beside it.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};

use super::{METADATA, egress};
use crate::catalogue::{Case, Skipped};
use crate::site::Site;
use crate::trace::{Trace, opened};

pub(super) const CASES: &[Case] = &[
    Case::installed(
        "AMP-SBX-01",
        "Once it accepts, the appliance opens no file but of its state and starts no program",
        nothing_is_opened,
    ),
    Case::installed("AMP-SBX-02", "Every thread of it filters its system calls and has no capability", every_thread),
    Case::installed("AMP-SBX-03", "With `sandbox.required` it serves with each layer up, or ends with 78", required),
];

/// The layers, by the names that the metadata tell.
const LAYERS: [&str; 5] = ["no_new_privileges", "core_dumps", "capabilities", "landlock", "seccomp"];

/// The exit code of a server that a host cannot confine as it is configured.
const REFUSED: i32 = 78;

// The server that is traced keeps no state.
fn nothing_is_opened(site: &Site) -> anyhow::Result<()> {
    let calls = "execve,execveat,fork,vfork,open,openat,openat2,creat,accept,accept4";
    let Trace { accepted, calls } = opened(&egress::traced(site, calls)?);
    ensure!(accepted > 10, "the trace shows {accepted} accepted connections, so nothing was judged");
    ensure!(calls.is_empty(), "{} calls open or start something, the first is {}", calls.len(), calls[0]);
    Ok(())
}

fn every_thread(site: &Site) -> anyhow::Result<()> {
    if !Path::new("/proc/self/task").is_dir() {
        return Err(Skipped("there is no /proc here".to_owned()).into());
    }
    let server = site.serve(&[])?;
    server.target().get(METADATA)?.json(200)?;
    let tasks = format!("/proc/{}/task", server.process_id());
    let mut seen = 0;
    for task in fs::read_dir(&tasks).with_context(|| format!("{tasks} cannot be listed"))? {
        let path = task?.path().join("status");
        // A thread may have ended meanwhile.
        let Ok(status) = fs::read_to_string(&path) else { continue };
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
            ensure!(status.lines().any(|found| found == line), "{} lacks {line:?}: {status}", path.display());
        }
        seen += 1;
    }
    ensure!(seen > 1, "only {seen} threads were seen");
    Ok(())
}

fn required(site: &Site) -> anyhow::Result<()> {
    let told = site.serve(&[])?.target().get(METADATA)?.json(200)?["sandbox"].clone();
    let layers = told["layers"].as_array().with_context(|| format!("the metadata tell no layers: {told}"))?;
    let names: Vec<_> = layers.iter().filter_map(|layer| layer["layer"].as_str()).collect();
    ensure!(names == LAYERS, "the metadata tell of other layers: {told}");
    if layers.iter().all(|layer| layer["applied"] == true) {
        let server = site.serve(&["--set", "sandbox.required=true"])?;
        let told = server.target().get(METADATA)?.json(200)?["sandbox"].clone();
        ensure!(told["required"] == true, "the metadata do not say that it is required: {told}");
        let all_up = told["layers"].as_array().is_some_and(|all| all.iter().all(|layer| layer["applied"] == true));
        ensure!(all_up, "it serves without a layer: {told}");
        return Ok(());
    }
    let mut flags = site.flags();
    flags.extend(["--set", "sandbox.required=true"].map(str::to_owned));
    site.refuses_to_serve(&flags, REFUSED, &["sandbox.required"])
}
