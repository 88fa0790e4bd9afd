//! `ampoule verify` and `ampoule inspect`.  The first says whether a bundle is what its vendor sealed; the second only
//! repeats what the file claims, and says so.

use std::path::PathBuf;

use ampoule_bundle::{BundleIdentity, Counter, Epoch};
use clap::Args;
use serde_json::json;

use super::arguments::IdentityArgument;
use super::output::Output;
use crate::boot;
use crate::error::Error;
use crate::exit::Exit;
use crate::report;
use crate::state::State;

const VERIFY_EXAMPLES: &str = "\
Examples:
  ampoule verify model.bundle --trust-root root.json
  ampoule verify model.bundle --trust-root root.json --json

Checks the canonical form, the signatures and every byte of every file, then whether the bundle
may run on this host now; runs nothing. What is inside an encrypted bundle is checked too if
--decryption-identity-file opens it. Exits with 0, or with 10 for a file that is no readable bundle,
11 for a wrong signature or digest, 12 for a bundle that may not run here, 13 for one that is older
than --accepted.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  ampoule inspect model.bundle

Nothing that it prints has been verified; `ampoule verify` does that.";

#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(super) struct VerifyArguments {
    /// The sealed bundle.
    bundle: PathBuf,
    /// The root.json whose keys may sign it.
    #[arg(long = "trust-root", visible_alias = "trust", value_name = "FILE")]
    trust_root: PathBuf,
    /// The epoch and counter that were accepted last, as in 1:7; what is older is a rollback.
    #[arg(long, value_name = "EPOCH:COUNTER", value_parser = epoch_and_counter)]
    accepted: Option<(Epoch, Counter)>,
    #[command(flatten)]
    identity: IdentityArgument,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = INSPECT_EXAMPLES)]
pub(super) struct InspectArguments {
    /// The sealed bundle.
    bundle: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(arguments: &VerifyArguments, output: &mut Output) -> Result<Exit, Error> {
    let verdict = judge(arguments);
    match &verdict {
        Ok((identity, opened)) if arguments.json => {
            let verdict = json!({ "verified": true, "contents_verified": opened, "bundle": report::json(identity) });
            output.line(format_args!("{verdict:#}"))?;
        }
        Ok((identity, opened)) => {
            output.line("Verified: every signature and every byte. The bundle may run on this host.")?;
            if !opened {
                output.line(
                    "NOT checked, because the bundle is encrypted and no identity was named: what is inside, and that it is \
                     what was signed. `--decryption-identity-file` opens it; `serve` checks it in any case.",
                )?;
            }
            for (label, text) in report::lines(identity) {
                output.line(format_args!("  {label:10} {text}"))?;
            }
        }
        Err(error) if arguments.json => {
            output.line(format_args!("{:#}", report::refusal(error.exit(), error)))?;
        }
        Err(_) => {}
    }
    output.flush()?;
    verdict.map(|_| Exit::Ok)
}

/// Which bundle it is, and whether what is inside was checked.
fn judge(arguments: &VerifyArguments) -> Result<(BundleIdentity, bool), Error> {
    let root = boot::open_trust_root(&arguments.trust_root)?;
    let name = arguments.bundle.display().to_string();
    let verified = boot::verify(boot::open_bundle(&arguments.bundle)?, &root, &name)?;
    let identities = arguments.identity.read()?;
    let mut verified = identities.unlock(verified, &name)?;
    let opened = !verified.is_locked();
    if !opened && !arguments.identity.is_given() {
        verified = verified.leave_locked();
    }
    boot::check_every_byte(&verified, &name)?;
    let mut accepted = State::Unkept.accepted();
    if let Some((epoch, counter)) = arguments.accepted {
        accepted.accept(&verified.identity().name, epoch, counter);
    }
    Ok((boot::admit(verified, &accepted, &name)?.identity().clone(), opened))
}

pub(super) fn inspect(arguments: &InspectArguments, output: &mut Output) -> Result<Exit, Error> {
    let sealed = boot::open_bundle(&arguments.bundle)?;
    let claims = sealed.claims();
    if arguments.json {
        output.line(format_args!("{:#}", json!({ "verified": false, "claims": claims })))?;
    } else {
        output.line("NOT verified: this is what the file says about itself; `ampoule verify` checks it.")?;
        output.piece(claims)?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

fn epoch_and_counter(text: &str) -> Result<(Epoch, Counter), String> {
    let parsed = text.split_once(':').and_then(|(epoch, counter)| Some((epoch.parse().ok()?, counter.parse().ok()?)));
    parsed.map(|(epoch, counter)| (Epoch(epoch), Counter(counter))).ok_or_else(|| "must look like 1:7".to_owned())
}
