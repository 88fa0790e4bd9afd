//! What an installation remembers of what it took into use: kept over a stop, never taken for a first start when it is
//! lost, and begun anew only on record.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::catalogue::Case;
use crate::site::Site;

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-STA-01", "What is served is remembered, and the metadata say that it is", remembered),
    Case::installed("AMP-STA-02", "A state that is missing, lost or damaged ends with 13 (C16)", lost),
    Case::installed("AMP-STA-03", "A reset needs a reason, which is kept on record", reset),
    Case::installed("AMP-STA-04", "`admit` tells every rule and takes nothing into use", judged),
];

/// A folder with a new state.
fn new_state(site: &Site, name: &str) -> anyhow::Result<String> {
    let folder = site.folder().join(name).display().to_string();
    site.run(&["state", "init", "--state", &folder])?.requires(0, &[])?;
    Ok(folder)
}

fn shown(site: &Site, folder: &str) -> anyhow::Result<Value> {
    site.run(&["state", "show", "--state", folder, "--json"])?.json()
}

fn remembered(site: &Site) -> anyhow::Result<()> {
    let folder = new_state(site, "remembered")?;
    ensure!(shown(site, &folder)?["counters"] == Value::Array(Vec::new()), "a new state remembers something");
    let server = site.serve(&["--state", &folder])?;
    let metadata = server.target().get(super::METADATA)?.json(200)?;
    ensure!(metadata["rollback_protection"] == "state", "the metadata say {}", metadata["rollback_protection"]);
    drop(server);
    let shown = shown(site, &folder)?;
    let counter = &shown["counters"][0];
    for member in ["name", "counter", "epoch"] {
        ensure!(counter[member] == metadata["bundle"][member], "{member} of {counter} is not what was served");
    }
    ensure!(shown["time"].is_string(), "the time was not kept: {shown}");
    Ok(())
}

fn lost(site: &Site) -> anyhow::Result<()> {
    let missing = site.folder().join("missing");
    fs::create_dir_all(&missing)?;
    let refuses = |folder: &Path, words: &[&str]| {
        let state = ["--state".to_owned(), folder.display().to_string()];
        site.refuses_to_serve(&[site.flags(), state.to_vec()].concat(), 13, words)
    };
    refuses(&missing, &["state init", "state reset"])?;
    let folder = new_state(site, "lost")?;
    let file = only_json(Path::new(&folder))?;
    let whole = fs::read(&file)?;
    fs::write(&file, &whole[..whole.len() / 2])?;
    refuses(Path::new(&folder), &["state reset"])?;
    fs::remove_file(&file)?;
    refuses(Path::new(&folder), &["lost", "state reset"])?;
    site.run(&["state", "init", "--state", &folder])?.requires(13, &["lost"])
}

/// The state itself, whatever it is called.
fn only_json(folder: &Path) -> anyhow::Result<std::path::PathBuf> {
    let mut files = fs::read_dir(folder)?.filter_map(Result::ok).map(|entry| entry.path());
    files.find(|path| path.extension().is_some_and(|ending| ending == "json")).context("the state has no file")
}

fn reset(site: &Site) -> anyhow::Result<()> {
    let folder = new_state(site, "reset")?;
    let reset = ["state", "reset", "--state", &folder];
    site.run(&reset)?.requires(2, &["--reason"])?;
    site.run(&[&reset[..], &["--reason", "conformance, 5e1f"]].concat())?.requires(0, &["conformance, 5e1f"])?;
    let records = shown(site, &folder)?["records"].to_string();
    ensure!(records.contains("conformance, 5e1f"), "the reason is not on record: {records}");
    Ok(())
}

fn judged(site: &Site) -> anyhow::Result<()> {
    let folder = new_state(site, "judged")?;
    let before = shown(site, &folder)?;
    let (bundle, root) = (site.bundle().display().to_string(), site.root().display().to_string());
    let told = site.run(&["admit", &bundle, "--trust-root", &root, "--state", &folder, "--json"])?.json()?;
    let rules = told["rules"].as_array().context("the report tells no rules")?;
    ensure!(told["admitted"] == true && rules.len() >= 10, "it tells {} rules: {told}", rules.len());
    for rule in rules {
        for side in ["found", "required"] {
            let is_told = |part: &str| rule[side][part].as_str().is_some_and(|text| !text.is_empty());
            ensure!(is_told("text") && is_told("from"), "the rule does not say what was {side}: {rule}");
        }
    }
    ensure!(shown(site, &folder)? == before, "judging took something into use");
    Ok(())
}
