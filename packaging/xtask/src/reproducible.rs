//! `cargo xtask reproducible`: the same sources in two folders give the same binaries, to the bit.
//!
//! Whoever has the sources can then check what a vendor ships without trusting his build machine.  The folders differ
//! in name and in length, because both leak in different ways.  It compiles everything twice, so `test` leaves it out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{dist, process};

/// Clones the committed tree twice, builds one after the other, and compares.
pub(crate) fn run() -> Result<()> {
    let changed = process::output(Command::new("git").args(["status", "--porcelain", "--untracked-files=no"]))?;
    ensure!(changed.is_empty(), "what is not committed would not be built; commit first:\n{changed}");
    let work = std::env::temp_dir().join(format!("ampoule-reproducible-{}", std::process::id()));
    let folders = [work.join("a"), work.join("another-folder/with-a-longer-name")];
    // Both before the first build, which takes long enough for a commit to come in between.
    for folder in &folders {
        process::run(Command::new("git").args(["clone", "--quiet", "--no-hardlinks", "."]).arg(folder))?;
    }
    let mut digests = Vec::new();
    for folder in &folders {
        println!("building in {}", folder.display());
        digests.push(build(folder)?);
    }
    for binary in &dist::BINARIES {
        let [first, second] = [&digests[0][binary.name], &digests[1][binary.name]];
        let verdict = if first == second { "the same" } else { "DIFFERENT" };
        println!("{first}  {}\n{second}  {verdict}", binary.name);
    }
    ensure!(digests[0] == digests[1], "two folders give different binaries; both are kept in {}", work.display());
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))
}

/// Builds the tree in `folder` and digests each binary.
fn build(folder: &Path) -> Result<BTreeMap<&'static str, String>> {
    let built = dist::build(&folder.canonicalize()?, &dist::BINARIES)?;
    let digest = |path: &Path| -> Result<String> { Ok(hex::encode(Sha256::digest(fs::read(path)?))) };
    dist::BINARIES.iter().map(|binary| Ok((binary.name, digest(&built.join(binary.name))?))).collect()
}
