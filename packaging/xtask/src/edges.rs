//! The direction of dependencies, as a test.  A crate edge that points back is how a boundary ends; so each product crate
//! has the full list of workspace crates that it may name, and the shipped binary the list of those it must not contain.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::process;

/// Who may depend on whom: the crate, and all workspace crates that it may name outside of tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ampoule-bundle", &[]),
    ("ampoule-sealing", &["ampoule-bundle", "ampoule-inference"]),
    ("ampoule-inference", &["ampoule-bundle", "ampoule-kernels"]),
    ("ampoule-kernels", &[]),
    ("ampoule", &["ampoule-bundle", "ampoule-inference"]),
    ("ampoule-trainer", &["ampoule-bundle", "ampoule-inference", "ampoule-sealing"]),
    ("ampoule-conformance", &[]),
    ("xtask", &[]),
];

/// Outside crates that a product crate must not reach, by any path.
const BANNED: &[(&str, &[&str])] = &[
    ("ampoule-bundle", &["candle-core", "tokio", "hyper", "reqwest"]),
    ("ampoule-kernels", &["candle-core", "tokio", "rayon", "ampoule-bundle"]),
    (
        "ampoule",
        &["ampoule-trainer", "ampoule-sealing", "sigstore", "reqwest", "openssl-sys", "onig_sys", "aws-lc-sys"],
    ),
];

/// Checks both tables against what cargo resolves.
pub(crate) fn run() -> anyhow::Result<()> {
    let metadata = process::output(process::cargo().args(["metadata", "--locked", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let members: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();

    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let Some((_, allowed)) = ALLOWED.iter().find(|(member, _)| *member == name) else {
            bail!("crate {name} is not in the table of allowed edges; add it to packaging/xtask/src/edges.rs");
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let target = dependency["name"].as_str().unwrap_or_default();
            let is_for_tests = dependency["kind"].as_str() == Some("dev");
            if members.contains(target) && !is_for_tests && !allowed.contains(&target) {
                bail!("crate {name} depends on {target}; it may depend on {allowed:?} only");
            }
        }
    }

    for (package, banned) in BANNED {
        let tree = ["tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}", "--package", package];
        let tree = process::output(process::cargo().args(tree))?;
        let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        if let Some(found) = banned.iter().find(|name| reached.contains(*name)) {
            bail!("crate {package} reaches {found}; `cargo tree -p {package} -i {found}` shows how");
        }
    }
    println!("{} crates, every edge allowed", ALLOWED.len());
    Ok(())
}
