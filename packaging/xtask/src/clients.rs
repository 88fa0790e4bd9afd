//! The venv of other people's Python clients, and the tests that drive the built binaries with them.  Real clients are
//! better judges of an interface than our own opinion of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process;

/// Where the pinned packages are listed.
const REQUIREMENTS: &str = "conformance/clients/requirements.txt";

/// Makes the venv unless it already holds exactly the pinned packages; returns its folder.
pub(crate) fn venv() -> anyhow::Result<PathBuf> {
    let folder =
        std::env::var_os("AMPOULE_CLIENT_VENV").map_or_else(|| PathBuf::from("target/venv/clients"), PathBuf::from);
    process::run(Command::new("sh").arg("conformance/clients/venv.sh").arg(REQUIREMENTS).arg(&folder))?;
    Ok(folder.canonicalize()?)
}

/// Runs every `test_*.py` under `conformance/clients` against the built binary.
pub(crate) fn run(venv: &Path, binary: &Path, embedding_bundle: &Path, trust_root: &Path) -> anyhow::Result<()> {
    let arguments = ["-m", "unittest", "discover", "--verbose", "--start-directory", "conformance/clients"];
    let mut command = Command::new(venv.join("bin/python"));
    command.args(arguments).env("CONFORMANCE_BINARY", binary.canonicalize()?);
    command.env("CONFORMANCE_EMBEDDING_BUNDLE", embedding_bundle.canonicalize()?);
    command.env("CONFORMANCE_EMBEDDING_ROOT", trust_root.canonicalize()?);
    process::run(&mut command)
}
