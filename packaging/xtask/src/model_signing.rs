//! Model signatures and attestations, held against other people's clients: OpenSSF's `model_signing` on generated folders,
//! and Sigstore's own verifier, from npm, on a sealed bundle.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::process;

/// Where the scripts lie, with what npm is to install.
const SCRIPTS: &str = "conformance/model_signing";

/// Compares the binary `seal` with the reference client on so many folders, and prints the table of verdicts.
pub(crate) fn compare(venv: &Path, seal: &Path, folders: u32) -> anyhow::Result<()> {
    let script = Path::new(SCRIPTS).join("compare.py");
    process::run(Command::new(venv.join("bin/python")).arg(script).arg(seal).arg(folders.to_string()))
}

/// Lets Sigstore's verifier judge the three statements of the demo bundle.
pub(crate) fn attestations() -> anyhow::Result<()> {
    let work = Path::new("target/attestations");
    let layout = work.join("layout");
    if layout.exists() {
        fs::remove_dir_all(&layout).with_context(|| format!("cannot empty {}", layout.display()))?;
    }
    fs::create_dir_all(&layout).with_context(|| format!("cannot make {}", layout.display()))?;
    for name in ["attestations.mjs", "package.json", "package-lock.json"] {
        fs::copy(Path::new(SCRIPTS).join(name), work.join(name)).with_context(|| format!("cannot copy {name}"))?;
    }
    // The lock file names the digest of each package, so whoever serves them cannot choose what runs.
    let quietly = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
    process::run(Command::new("npm").args(quietly).current_dir(work))?;
    process::run(Command::new("tar").arg("-xf").arg("bundles/demo/demo.bundle").arg("-C").arg(&layout))?;
    process::run(Command::new("node").arg(work.join("attestations.mjs")).arg(&layout).arg("bundles/demo/demo.pub"))
}
