//! `cargo xtask crash-sweep`: a command that changes a store is killed before each of its system calls, and has each
//! write, fsync and rename fail; afterwards the store must be the old one or the new one, whole, and usable.
//!
//! strace injects the faults into the shipped code, unchanged.  Each point begins from a copy of the same store.  The short
//! form, which `cargo xtask test` runs, stops at the calls that change something; the full form at all of them, those of
//! the self-test's process included.  It is the power cut of THREATS C16, as far as a process can be cut off.

mod point;
mod scene;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use point::{Fault, Outcome};
use scene::Scene;

/// How much is swept.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Stop at every system call, not only at those that change something.
    #[arg(long)]
    full: bool,
    /// Write the table into this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// The calls by which a file or a folder changes, or becomes durable.
const CHANGES: &[&str] = &[
    "fsync",
    "fdatasync",
    "ftruncate",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "unlink",
    "unlinkat",
    "write",
    "writev",
];
/// The calls that a full or a broken disk makes fail.
const FAILING: &[&str] =
    &["fsync", "fdatasync", "ftruncate", "mkdir", "mkdirat", "pwrite64", "rename", "renameat", "renameat2", "write"];

/// Sweeps all commands and prints what became of the store at how many points.
pub(crate) fn run(binary: &Path, options: &Options) -> anyhow::Result<()> {
    let folder = Path::new("target/crash-sweep");
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    // A copy, because a build may exchange the binary meanwhile, and its points would be another one's.
    let swept = folder.join("ampoule");
    std::fs::copy(binary, &swept).with_context(|| format!("{} is not built", binary.display()))?;
    let mut rows = BTreeMap::new();
    let mut wrong = Vec::new();
    for scene in Scene::all(&swept.canonicalize()?, &folder.canonicalize()?)? {
        for (fault, counts) in plan(&scene, options.full)? {
            for (call, count) in counts {
                for number in 1..=count {
                    let outcome = point::run(&scene, fault, &call, number)?;
                    let row: &mut Row = rows.entry((scene.name, fault.to_string())).or_default();
                    row.count(&outcome);
                    if let Outcome::Other(reason) = outcome {
                        wrong.push(format!("{}, {fault} at {call} {number}: {reason}", scene.name));
                    }
                }
            }
        }
    }
    let table = table(&rows);
    print!("{table}");
    if let Some(path) = &options.out {
        std::fs::write(path, &table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !wrong.is_empty() {
        bail!("{} points ended in another store than the old or the new one:\n{}", wrong.len(), wrong.join("\n"));
    }
    Ok(())
}

/// The faults of a scene, each with the calls that it is injected into and how often each occurs.
fn plan(scene: &Scene, full: bool) -> anyhow::Result<Vec<(Fault, BTreeMap<String, u32>)>> {
    let calls = scene.count_calls(full)?;
    let only = |names: &[&str]| -> BTreeMap<String, u32> {
        calls
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(name, count)| (name.clone(), *count))
            .collect()
    };
    let killed = if full { calls.clone() } else { only(CHANGES) };
    let follow = full && scene.has_a_child;
    let plan = vec![
        (Fault::Kill { follow }, killed),
        (Fault::Error("ENOSPC"), only(FAILING)),
        (Fault::Error("EIO"), only(FAILING)),
    ];
    // A sweep over nothing would pass.
    match plan.iter().find(|(_, counts)| counts.is_empty()) {
        Some((fault, _)) => bail!("{} makes no call for {fault}", scene.name),
        None => Ok(plan),
    }
}

#[derive(Default)]
struct Row {
    old: u32,
    new: u32,
    other: u32,
}

impl Row {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Old => self.old += 1,
            Outcome::New => self.new += 1,
            Outcome::Other(_) => self.other += 1,
        }
    }
}

fn table(rows: &BTreeMap<(&str, String), Row>) -> String {
    let mut text = String::from("| command | fault | points | old | new | other |\n|---|---|---|---|---|---|\n");
    for ((command, fault), Row { old, new, other }) in rows {
        let points = old + new + other;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "| {command} | {fault} | {points} | {old} | {new} | {other} |");
    }
    text
}
