//! The whole life of an installation, by the script `airgap/end-to-end.sh`: installed, served, taught, judged, updated,
//! taken back and removed, in a folder that holds only what a customer is handed.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::super::VERSION;
use super::{Delivery, hand_out, run_alone};
use crate::process;

/// Runs the script on two releases.
pub(super) fn check(first: &Delivery, next: &Delivery, work: &Path) -> Result<Vec<String>> {
    let folder = work.join("life");
    hand_out(first, &folder)?;
    hand_out(next, &folder)?;
    ensure!(first.fingerprint == next.fingerprint, "the two releases are signed with two keys");
    let script = process::workspace_root().join("airgap/end-to-end.sh");
    let script = script.to_str().context("the workspace's path is not UTF-8")?;
    let program = format!("exec sh '{script}' {} {VERSION} {VERSION}+2", first.fingerprint);
    let (told, skips) = run_alone("end-to-end.sh", &program, &[], &folder)?;
    ensure!(told.contains("== done: every step held"), "end-to-end.sh did not come to its end:\n{told}");
    for line in told.lines().filter(|line| line.starts_with("base:") || line.starts_with("adapter:")) {
        println!("{line}");
    }
    println!("an installation lives as end-to-end.sh says, from the tarball to its removal");
    Ok(skips)
}
