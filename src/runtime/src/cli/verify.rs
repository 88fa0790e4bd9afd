//! `ampoule verify` and `ampoule inspect`.  The first says whether a bundle is what its vendor sealed; the second only
//! repeats what the file claims, and says so.

use std::path::PathBuf;

use ampoule_bundle::{BundleIdentity, Counter, Epoch, Examination, HighWaterMarks};
use clap::Args;
use serde_json::json;

use super::arguments::IdentityArgument;
use super::output::Output;
use super::trust::SupplementArguments;
use crate::admission::Admission;
use crate::boot;
use crate::error::Error;
use crate::exit::Exit;
use crate::report;
use crate::store::Store;
use crate::trust;

const VERIFY_EXAMPLES: &str = "\
Examples:
  ampoule verify model.bundle --trust-root root.json
  ampoule verify model.bundle --trust-root root.json --json

Checks the canonical form, the signatures and every byte of every file, then every rule on whether
the bundle may run on this host now, whatever is configured; runs nothing. What is inside an
encrypted bundle is checked too if --decryption-identity-file opens it. `ampoule admit` judges by
the configuration and by what was taken into use before, too. Exits with 0, or with 10 for a file
that is no readable bundle, 11 for a wrong signature or digest, 12 for a bundle that may not run
here, 13 for one that is older than --accepted.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  ampoule inspect model.bundle
  ampoule inspect my-model@1.0.0 --store /var/lib/ampoule

Nothing that it prints has been verified; `ampoule verify` does that.";

#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(super) struct VerifyArguments {
    /// The sealed bundle.
    bundle: PathBuf,
    /// The root.json whose keys may sign it.
    #[arg(long = "trust-root", visible_alias = "trust", value_name = "FILE", env = "AMPOULE_TRUST_ROOT")]
    trust_root: PathBuf,
    #[command(flatten)]
    beside: SupplementArguments,
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
    /// The sealed bundle; with --store its name, and its version if not the one with the highest counter is meant.
    #[arg(value_name = "FILE|NAME[@VERSION]")]
    bundle: PathBuf,
    /// The store that holds the bundle.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn verify(arguments: &VerifyArguments, output: &mut Output) -> Result<Exit, Error> {
    let judged = judge(arguments);
    let verdict = match &judged {
        Ok(judged) => judged.verdict(arguments),
        Err(_) => Ok(()),
    };
    match &judged {
        Ok(Judged { identity, examination, contents }) if arguments.json => {
            let mut told = match &verdict {
                Ok(()) => json!({ "exit_code": Exit::Ok.code() }),
                Err(error) => report::refusal(error),
            };
            told["verified"] = json!(verdict.is_ok());
            told["contents_verified"] = json!(*contents == Contents::Opened);
            told["bundle"] = report::json(identity);
            told["rules"] = report::rules_json(examination);
            output.line(format_args!("{told:#}"))?;
        }
        Ok(Judged { identity, examination, contents }) => {
            output.line(match verdict {
                Ok(()) => "Verified: every signature and every byte. The bundle may run on this host.",
                Err(_) => "Refused: every signature and every byte is right, and the bundle may not run on this host.",
            })?;
            if *contents == Contents::Locked {
                let (why, cure) = match arguments.identity.is_given() {
                    true => ("no identity that was named is one of its recipients", "One that is"),
                    false => ("no identity was named", "`--decryption-identity-file`"),
                };
                output.line(format_args!(
                    "NOT checked, because the bundle is encrypted and {why}: what is inside, and that it is what was \
                     signed. {cure} opens it; `serve` checks it in any case.",
                ))?;
            }
            for (label, text) in report::lines(identity) {
                output.line(format_args!("  {label:10} {text}"))?;
            }
            tell_rules(examination, output)?;
        }
        Err(error) if arguments.json => {
            let mut told = report::refusal(error);
            told["verified"] = json!(false);
            output.line(format_args!("{told:#}"))?;
        }
        Err(_) => {}
    }
    output.flush()?;
    judged.and(verdict).map(|()| Exit::Ok)
}

/// Tells what came of each rule.
pub(super) fn tell_rules(examination: &Examination, output: &mut Output) -> Result<(), Error> {
    output.line("Rules:")?;
    report::rule_lines(examination).try_for_each(|line| output.line(format_args!("  {line}")))
}

/// An authentic bundle, and what came of each rule.
struct Judged {
    identity: BundleIdentity,
    examination: Examination,
    contents: Contents,
}

/// Whether what is inside was looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contents {
    Opened,
    Locked,
}

impl Judged {
    fn verdict(&self, arguments: &VerifyArguments) -> Result<(), Error> {
        let name = arguments.bundle.display().to_string();
        let refused = |violation| Error::NotAdmitted { name, violation: Box::new(violation) };
        self.examination.violation().map_or(Ok(()), |violation| Err(refused(violation)))
    }
}

fn judge(arguments: &VerifyArguments) -> Result<Judged, Error> {
    let root = trust::open(&arguments.trust_root, &arguments.beside.supplements())?;
    let name = arguments.bundle.display().to_string();
    let verified = boot::verify(boot::open_bundle(&arguments.bundle)?, &root, &name)?;
    let identities = arguments.identity.read()?;
    let mut verified = identities.unlock(verified, &name)?;
    let contents = if verified.is_locked() { Contents::Locked } else { Contents::Opened };
    if contents == Contents::Locked && !arguments.identity.is_given() {
        verified = verified.leave_locked();
    }
    boot::check_every_byte(&verified, &name)?;
    let mut accepted = HighWaterMarks::none();
    if let Some((epoch, counter)) = arguments.accepted {
        accepted.accept(&verified.identity().name, epoch, counter);
    }
    let examination = Admission::of_host().remembering(accepted).examine(&verified)?;
    Ok(Judged { identity: verified.identity().clone(), examination, contents })
}

pub(super) fn inspect(arguments: &InspectArguments, output: &mut Output) -> Result<Exit, Error> {
    let sealed = match &arguments.store {
        None => boot::open_bundle(&arguments.bundle)?,
        Some(folder) => {
            let store = Store::open(folder)?;
            let wanted = arguments.bundle.display().to_string().parse().map_err(|reason| Error::NotAName { reason })?;
            store.open_bundle(store.find(&wanted)?)?
        }
    };
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
