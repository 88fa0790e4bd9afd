//! Checks the service unit: systemd understands every line of it, and finds little that the service could do to its host.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

const UNIT: &str = "packaging/systemd/ampoule.service";
/// Where the unit looks for the binary.
const INSTALLED: &str = "/usr/bin/ampoule";
/// The highest exposure that systemd may find, in tenths: 0 is a service that can do nothing, 100 one without limits.
const MAX_EXPOSURE: u32 = 20;

/// Verifies the unit as if `binary` were installed, and rates its confinement.
pub(crate) fn run(binary: &Path) -> Result<()> {
    let unit = std::fs::read_to_string(UNIT).with_context(|| format!("cannot read {UNIT}"))?;
    let binary = binary.canonicalize().with_context(|| format!("{} is not built", binary.display()))?;
    let folder = Path::new("target/systemd");
    std::fs::create_dir_all(folder)?;
    let copy = folder.join("ampoule.service");
    std::fs::write(&copy, unit.replace(INSTALLED, &binary.display().to_string()))?;

    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&copy);
    let verdict = verify.output().with_context(|| format!("{verify:?} did not start"))?;
    // An unknown key is only a warning to systemd, which then starts the service without that protection.
    let told = String::from_utf8_lossy(&verdict.stderr);
    ensure!(verdict.status.success() && !told.contains("ampoule"), "systemd refuses a line of {UNIT}:\n{told}");

    let threshold = format!("--threshold={MAX_EXPOSURE}");
    let rated = ["security", "--offline=yes", "--no-pager", &threshold];
    let rating = process::output(Command::new("systemd-analyze").args(rated).arg(&copy))?;
    println!("{}", rating.lines().last().unwrap_or_default().trim());
    Ok(())
}
