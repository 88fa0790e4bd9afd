//! The store of a site's bundles: it gives back what was delivered, serves what is active, and takes nothing that is not
//! what was sealed, neither when it comes in nor later.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::tampering::{copy_of_bundle, flip};
use crate::catalogue::Case;
use crate::site::{Ended, Site};

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-STO-01", "What was imported is given back byte for byte", given_back),
    Case::installed("AMP-STO-02", "What is active is served, and nothing before it is", active),
    Case::installed("AMP-STO-03", "A bundle that is refused leaves nothing in the store", refused),
    Case::installed("AMP-STO-04", "A file of the store that changed is never served", changed),
];

/// What a store without a bundle may have written down about itself.
const OWN_RECORDS_BYTES: u64 = 4096;

/// The store of one case.
struct Store<'a> {
    site: &'a Site,
    folder: PathBuf,
}

impl Store<'_> {
    /// A store with the site's bundle in it, staged.
    fn with_bundle<'a>(site: &'a Site, name: &str) -> anyhow::Result<Store<'a>> {
        let store = Store { site, folder: site.folder().join(name) };
        store.import(site.bundle())?.requires(0, &[])?;
        Ok(store)
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<Ended> {
        self.site.run(&[arguments, &["--store", &self.folder.display().to_string()]].concat())
    }

    fn import(&self, bundle: &Path) -> anyhow::Result<Ended> {
        let (bundle, root) = (bundle.display().to_string(), self.site.root().display().to_string());
        self.run(&["import", &bundle, "--trust-root", &root])
    }

    /// What the store tells about its one bundle.
    fn listed(&self) -> anyhow::Result<Value> {
        let told = self.run(&["list", "--json"])?.json()?;
        match told["bundles"].as_array().map(Vec::as_slice) {
            Some([bundle]) => Ok(bundle.clone()),
            _ => anyhow::bail!("the store does not hold one bundle: {told}"),
        }
    }

    fn name(&self) -> anyhow::Result<String> {
        Ok(self.listed()?["name"].as_str().context("the bundle has no name")?.to_owned())
    }

    /// The flags that serve what is active.
    fn flags(&self) -> Vec<String> {
        let named = [("--store", self.folder.as_path()), ("--trust-root", self.site.root())];
        let named = named.into_iter().chain([("--keys-file", self.site.keys())]);
        named.flat_map(|(flag, path)| [flag.to_owned(), path.display().to_string()]).collect()
    }
}

fn given_back(site: &Site) -> anyhow::Result<()> {
    let store = Store::with_bundle(site, "given-back")?;
    let out = site.folder().join("given-back.bundle");
    store.run(&["export", &store.name()?, "--out", &out.display().to_string()])?.requires(0, &[])?;
    ensure!(fs::read(&out)? == fs::read(site.bundle())?, "what was exported is not what was imported");
    Ok(())
}

fn active(site: &Site) -> anyhow::Result<()> {
    let store = Store::with_bundle(site, "active")?;
    ensure!(store.listed()?["standing"] == "staged", "an import alone changes what is served: {}", store.listed()?);
    site.refuses_to_serve(&store.flags(), 13, &["activate"])?;
    store.run(&["activate", &store.name()?])?.requires(0, &[])?;
    let listed = store.listed()?;
    ensure!(listed["standing"] == "active", "it was activated, and stands as {}", listed["standing"]);
    let flags = store.flags();
    let arguments: Vec<&str> = ["serve"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let server = site.serve_command(site.command(&arguments), None)?;
    let served = server.target().get(super::METADATA)?.json(200)?;
    ensure!(served["bundle"]["digest"] == listed["digest"], "it serves {}", served["bundle"]["digest"]);
    Ok(())
}

fn refused(site: &Site) -> anyhow::Result<()> {
    // A file that a store has already is not taken from what is delivered, so each try begins with a store of its own.
    let copy = copy_of_bundle(site, "not-imported.bundle")?;
    let length = fs::metadata(&copy)?.len();
    for place in [600, length / 3, length / 2, length - 5000] {
        let store = Store { site, folder: site.folder().join(format!("refused-{place}")) };
        flip(&copy, place, 1)?;
        let ended = store.import(&copy)?;
        flip(&copy, place, 1)?;
        ensure!(matches!(ended.code, Some(10 | 11)), "byte {place} changed, and it ended with {:?}", ended.code);
        // What is refused by its first bytes makes no store at all.
        if !store.folder.exists() {
            continue;
        }
        let told = store.run(&["list", "--json"])?.json()?;
        ensure!(told["bundles"] == Value::Array(Vec::new()), "byte {place} changed, and it holds {told}");
        let left = files_below(&store.folder)?;
        let bytes: u64 = left.iter().map(|(_, length)| length).sum();
        ensure!(bytes <= OWN_RECORDS_BYTES, "byte {place} changed: the import left {left:?}");
    }
    Ok(())
}

fn changed(site: &Site) -> anyhow::Result<()> {
    let store = Store::with_bundle(site, "changed")?;
    store.run(&["activate", &store.name()?])?.requires(0, &[])?;
    let files = files_below(&store.folder)?;
    let (largest, length) = files.iter().max_by_key(|(_, length)| *length).context("the store holds no file")?;
    make_writable(largest)?;
    flip(largest, length - 1, 1)?;
    site.refuses_to_serve(&store.flags(), 11, &["import the bundle again"])?;
    // What an import finds damaged it replaces.
    store.import(site.bundle())?.requires(0, &[])?;
    let flags = store.flags();
    let arguments: Vec<&str> = ["serve"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    site.serve_command(site.command(&arguments), None).map(drop)
}

/// A store keeps its files read-only.
fn make_writable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(|| path.display().to_string())
}

/// Every file below a folder with its length, sorted.
fn files_below(folder: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files_below(&entry.path())?);
        } else {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    found.sort();
    Ok(found)
}
