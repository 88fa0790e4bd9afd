//! Checks the units: systemd understands every line of them, and finds little that the service could do to its host.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

const FOLDER: &str = "packaging/systemd";
const SERVICE: &str = "ampoule.service";
const SOCKET: &str = "ampoule.socket";
/// Where the service looks for the binary.
const INSTALLED: &str = "/usr/bin/ampoule";
/// The highest exposure that systemd may find, in tenths: 0 is a service that can do nothing, 100 one without limits.
const MAX_EXPOSURE: u32 = 5;

/// Verifies the units as if `binary` were installed, and rates the service's confinement.
pub(crate) fn run(binary: &Path) -> Result<()> {
    let binary = binary.canonicalize().with_context(|| format!("{} is not built", binary.display()))?;
    let copies = Path::new("target/systemd");
    std::fs::create_dir_all(copies)?;
    for unit in [SERVICE, SOCKET] {
        let path = Path::new(FOLDER).join(unit);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        std::fs::write(copies.join(unit), text.replace(INSTALLED, &binary.display().to_string()))?;
    }

    let (service, socket) = (copies.join(SERVICE), copies.join(SOCKET));
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&service).arg(&socket);
    let verdict = verify.output().with_context(|| format!("{verify:?} did not start"))?;
    // An unknown key is only a warning to systemd, which then starts the service without that protection.
    let told = String::from_utf8_lossy(&verdict.stderr);
    ensure!(verdict.status.success() && !told.contains("ampoule"), "systemd refuses a line of {FOLDER}:\n{told}");

    let threshold = format!("--threshold={MAX_EXPOSURE}");
    let rated = ["security", "--offline=yes", "--no-pager", &threshold];
    let rating = process::output(Command::new("systemd-analyze").args(rated).arg(&service))?;
    println!("{}", rating.lines().last().unwrap_or_default().trim());
    Ok(())
}
