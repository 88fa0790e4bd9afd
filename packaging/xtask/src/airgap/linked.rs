//! What is linked into the shipped binaries: the crates, as cargo resolves them for the builds that `dist` makes, and
//! the three libraries of the toolchain that every static binary holds.
//!
//! Build scripts, procedural macros and tests leave nothing in a binary, so they do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value as Json;

use crate::{dist, process};

/// A crate's name and version.
pub(super) type CrateId = (String, String);

/// One crate that is linked.
pub(super) struct Linked {
    /// Its licence as an SPDX expression.
    pub(super) licence: String,
    /// Where its sources are kept, if it says so.
    pub(super) repository: Option<String>,
    /// The SHA-256 of its package; a crate of our own has none.
    pub(super) checksum: Option<String>,
    /// Where its sources lie on this machine.
    pub(super) folder: PathBuf,
    /// What it links.
    pub(super) dependencies: BTreeSet<CrateId>,
}

/// A library that no crate is.
pub(super) struct Library {
    pub(super) name: &'static str,
    pub(super) version: String,
    pub(super) licence: &'static str,
    /// Where its licence texts lie on the machine that builds.
    pub(super) texts: Vec<PathBuf>,
}

/// All linked crates, our own among them.
pub(super) fn crates() -> Result<BTreeMap<CrateId, Linked>> {
    let mut edges: BTreeMap<CrateId, BTreeSet<CrateId>> = BTreeMap::new();
    let (runtime, others) = dist::BINARIES.split_at(1);
    for binaries in [runtime, others] {
        let mut tree = process::cargo();
        tree.args(["tree", "--locked", "--edges=normal,no-proc-macro", "--prefix=depth", "--format= {p}"]);
        tree.args(["--target", dist::TARGET]).args(binaries.iter().map(|one| format!("--package={}", one.package)));
        add_edges(&process::output(&mut tree)?, &mut edges)?;
    }

    let metadata = ["metadata", "--locked", "--format-version=1", "--filter-platform", dist::TARGET];
    let metadata: Json = serde_json::from_str(&process::output(process::cargo().args(metadata))?)?;
    let checksums = checksums()?;
    let mut linked = BTreeMap::new();
    for package in metadata["packages"].as_array().context("cargo metadata lists no packages")? {
        let text = |field: &str| package[field].as_str().map(str::to_owned);
        let id = (text("name").unwrap_or_default(), text("version").unwrap_or_default());
        let Some(dependencies) = edges.remove(&id) else { continue };
        let licence = text("license").with_context(|| format!("the crate {} names no licence", id.0))?;
        let manifest = PathBuf::from(text("manifest_path").context("a package without a manifest")?);
        let one = Linked {
            // Before SPDX expressions cargo took a slash for OR.
            licence: licence.replace('/', " OR ").replace("  ", " "),
            repository: text("repository"),
            checksum: checksums.get(&id).cloned(),
            folder: manifest.parent().unwrap_or(Path::new(".")).to_owned(),
            dependencies,
        };
        linked.insert(id, one);
    }
    ensure!(edges.is_empty(), "cargo tree shows crates that cargo metadata does not know: {:?}", edges.keys());
    Ok(linked)
}

/// Reads `cargo tree`: each line is a depth, a name and a version; what stands deeper is linked by what stands above.
fn add_edges(tree: &str, edges: &mut BTreeMap<CrateId, BTreeSet<CrateId>>) -> Result<()> {
    let mut above: Vec<CrateId> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let mut word = || words.next().with_context(|| format!("cargo tree printed {line:?}"));
        let depth: usize = word()?.parse().with_context(|| format!("cargo tree printed {line:?}"))?;
        let id = (word()?.to_owned(), word()?.trim_start_matches('v').to_owned());
        above.truncate(depth);
        edges.entry(id.clone()).or_default();
        if let Some(parent) = above.last() {
            edges.entry(parent.clone()).or_default().insert(id.clone());
        }
        above.push(id);
    }
    Ok(())
}

/// What Cargo.lock pins.
fn checksums() -> Result<BTreeMap<CrateId, String>> {
    let lock: toml::Table = fs::read_to_string("Cargo.lock")?.parse()?;
    let packages = lock.get("package").and_then(toml::Value::as_array).context("Cargo.lock lists no packages")?;
    let pinned = packages.iter().filter_map(|package| {
        let text = |field: &str| package.get(field).and_then(toml::Value::as_str).map(str::to_owned);
        Some(((text("name")?, text("version")?), text("checksum")?))
    });
    Ok(pinned.collect())
}

/// The libraries of the toolchain.
pub(super) fn libraries() -> Result<[Library; 3]> {
    let word = |command: &mut Command, number: usize| -> Result<String> {
        let told = process::output(command)?;
        let line = told.lines().next().unwrap_or_default();
        let word = line.split(' ').nth(number).with_context(|| format!("{command:?} printed {line:?}"))?;
        Ok(word.to_owned())
    };
    let sysroot = PathBuf::from(process::output(Command::new("rustc").args(["--print", "sysroot"]))?.trim());
    let rust = sysroot.join("share/doc/rust/licenses");
    let debian = |path: &str| Path::new("/usr/share").join(path);
    let glibc = process::output(Command::new("ldd").arg("--version"))?;
    let glibc = glibc.lines().next().and_then(|line| line.rsplit(' ').next()).unwrap_or_default().to_owned();
    Ok([
        Library {
            name: "rust-std",
            version: word(Command::new("rustc").arg("--version"), 1)?,
            licence: "MIT OR Apache-2.0",
            texts: vec![rust.join("MIT.txt"), rust.join("Apache-2.0.txt")],
        },
        Library {
            name: "glibc",
            version: glibc,
            licence: "LGPL-2.1-or-later",
            texts: vec![debian("doc/libc6-dev/copyright"), debian("common-licenses/LGPL-2.1")],
        },
        Library {
            name: "libgcc",
            version: word(Command::new("gcc").arg("-dumpfullversion"), 0)?,
            licence: "GPL-3.0-or-later WITH GCC-exception-3.1",
            texts: vec![debian("common-licenses/GPL-3")],
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_by_its_depths() -> Result<()> {
        let tree =
            "0 a v1.0.0 (/somewhere)\n1 b v2.0.0\n2 c v3.0.0+4\n1 c v3.0.0+4 (*)\n\n0 d v1.0.0\n1 b v2.0.0 (*)\n";
        let mut edges = BTreeMap::new();
        add_edges(tree, &mut edges)?;
        let id = |name: &str, version: &str| (name.to_owned(), version.to_owned());
        let (a, b, c, d) = (id("a", "1.0.0"), id("b", "2.0.0"), id("c", "3.0.0+4"), id("d", "1.0.0"));
        let expected = [
            (a, BTreeSet::from([b.clone(), c.clone()])),
            (b.clone(), BTreeSet::from([c.clone()])),
            (c, BTreeSet::new()),
            (d, BTreeSet::from([b])),
        ];
        assert_eq!(edges, BTreeMap::from(expected));
        Ok(())
    }
}
