//! `ampoule verify-self`: is the installed release, this binary among it, what its vendor signed?

use std::path::PathBuf;

use ampoule_bundle::KeyId;
use clap::Args;
use serde_json::json;

use super::output::Output;
use crate::error::Error;
use crate::exit::Exit;
use crate::installation::{self, InstallationError, VerifiedRelease};
use crate::report;

const EXAMPLES: &str = "\
Examples:
  ampoule verify-self
  ampoule verify-self --fingerprint \"$FINGERPRINT\"     the one that the vendor told you
  ampoule verify-self --root /usr/local/lib/ampoule/current --json

Holds every file of the installed release against its signed list: what is missing, extra or changed
is named, and the exit code is 11. A forged release brings its own key, so the fingerprint decides;
and a forged binary may say anything, so verify.sh, beside it, does the same with openssl and
sha256sum alone.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The folder of the release; without it the one that this binary lies in.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The vendor's public key (PEM); without it trust/vendor.pub of the release.
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// The SHA-256 of the public key's file that the vendor told you by another way.
    #[arg(long, value_name = "HEX", value_parser = parse_fingerprint)]
    fingerprint: Option<KeyId>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// As people write it down: in capitals too, and with blanks around it.
fn parse_fingerprint(text: &str) -> Result<KeyId, &'static str> {
    let digits = text.trim().to_ascii_lowercase();
    digits.parse().map_err(|_| "a fingerprint has 64 hex digits, as `sha256sum vendor.pub` prints them")
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let verdict = judge(arguments).map_err(Error::from);
    match &verdict {
        Ok(release) if arguments.json => {
            let told = json!({
                "verified": true,
                "release": release.manifest.version().to_string(),
                "platform": release.manifest.platform(),
                "files": release.manifest.len(),
                "root": release.root.display().to_string(),
                "signer": release.signer.to_string(),
                "fingerprint_compared": arguments.fingerprint.is_some(),
            });
            output.line(format_args!("{told:#}"))?;
        }
        Ok(release) => tell(release, arguments.fingerprint.is_some(), output)?,
        Err(error) if arguments.json => {
            let mut told = report::refusal(error);
            told["verified"] = json!(false);
            output.line(format_args!("{told:#}"))?;
        }
        Err(_) => {}
    }
    output.flush()?;
    verdict.map(|_| Exit::Ok)
}

fn judge(arguments: &Arguments) -> Result<VerifiedRelease, InstallationError> {
    let root = arguments.root.clone().map_or_else(installation::own_root, Ok)?;
    installation::verify(&root, arguments.public_key.as_deref(), arguments.fingerprint)
}

fn tell(release: &VerifiedRelease, fingerprint_compared: bool, output: &mut Output) -> Result<(), Error> {
    let manifest = &release.manifest;
    output.line(format_args!("Verified: all {} files are what was signed.", manifest.len()))?;
    output.line(format_args!("  Release    ampoule {} for {}", manifest.version(), manifest.platform()))?;
    output.line(format_args!("  Folder     {}", release.root.display()))?;
    output.line(format_args!("  Signed by  key {}", release.signer))?;
    if !fingerprint_compared {
        output.line(
            "Compare this key with the fingerprint that your vendor told you by another way; only then is it his.",
        )?;
    }
    Ok(())
}
