//! The whole life of an installation, by the script `airgap/end-to-end.sh`: installed, served, taught, judged, updated,
//! taken back and removed, in a folder that holds only what a customer is handed.
//!
//! `serve` takes no root with the demo's key in it, which everybody has. So there is a vendor here with a key of his own,
//! who seals the demo's model once more and signs both releases.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::super::{Options, VERSION};
use super::{deliver, hand_out, run_alone};
use crate::process;

/// Runs the script on two releases of these binaries.
pub(super) fn check(binaries: &Path, work: &Path) -> Result<Vec<String>> {
    let vendor = Vendor::new(&binaries.join("ampoule-seal"), &work.join("vendor"))?;
    let folder = work.join("life");
    let first = deliver(binaries, vendor.options(&work.join("life-first"), VERSION))?;
    let next = deliver(binaries, vendor.options(&work.join("life-next"), &format!("{VERSION}+2")))?;
    hand_out(&first, &folder)?;
    hand_out(&next, &folder)?;
    fs::copy(&vendor.bundle, folder.join("demo.bundle")).context("cannot hand out the bundle")?;
    let script = process::workspace_root().join("airgap/end-to-end.sh");
    let script = script.to_str().context("the workspace's path is not UTF-8")?;
    let program = format!("exec sh '{script}' {} {VERSION} {VERSION}+2", first.fingerprint);
    let (told, skips) = run_alone("end-to-end.sh", &program, &[], &folder)?;
    ensure!(told.contains("== done: every step held"), "end-to-end.sh did not come to its end:\n{told}");
    for line in told.lines().filter(|line| ["base:", "adapter:", "89 ", "cases"].iter().any(|word| line.contains(word)))
    {
        println!("{line}");
    }
    println!("an installation lives as end-to-end.sh says, from the tarball to its removal");
    Ok(skips)
}

/// Who seals and signs.
struct Vendor {
    key: PathBuf,
    password: PathBuf,
    bundle: PathBuf,
}

impl Vendor {
    /// Makes a key, and seals the demo's model with it.
    fn new(seal: &Path, folder: &Path) -> Result<Vendor> {
        fs::create_dir_all(folder)?;
        let at = |name: &str| folder.join(name);
        fs::write(at("password"), "a password for an hour\n")?;
        let run = |arguments: &[&str]| process::output(Command::new(seal).args(arguments).current_dir(folder));
        run(&["keygen", "--password-file", "password", "vendor"])?;
        let demo = process::workspace_root().join("bundles/demo/demo.bundle");
        run(&["export", "--dir", "model", demo.to_str().context("the workspace's path is not UTF-8")?])?;
        let what = ["seal", "--from", "model", "--name", "demo", "--version", "1.0.0", "--counter", "1"];
        run(&[&what[..], &["--key", "vendor.key", "--password-file", "password", "--out", "demo.bundle"]].concat())?;
        Ok(Vendor { key: at("vendor.key"), password: at("password"), bundle: at("demo.bundle") })
    }

    fn options(&self, out: &Path, release: &str) -> Options {
        let (key, password_file) = (Some(self.key.clone()), Some(self.password.clone()));
        Options { key, password_file, ..Options::of_test(out, release) }
    }
}
