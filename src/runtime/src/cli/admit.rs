//! `ampoule admit`: what `serve` would say to a bundle on this host with this configuration, rule by rule, without taking
//! it into use and without noting anything.

use std::path::PathBuf;

use ampoule_bundle::statement::AdapterBinding;
use ampoule_bundle::{BundleIdentity, Examination, TrustRoot};
use clap::Args;
use serde_json::{Value as Json, json};

use super::arguments::ConfigArguments;
use super::output::Output;
use super::verify::tell_rules;
use crate::admission::Admission;
use crate::boot;
use crate::config::AdmissionConfig;
use crate::error::Error;
use crate::exit::Exit;
use crate::report;
use crate::store::Store;
use crate::trust;

const EXAMPLES: &str = "\
Examples:
  ampoule admit new.bundle --config /etc/ampoule/ampoule.toml
  ampoule admit new.bundle --trust-root root.json --state /var/lib/ampoule-state --json
  An adapter, beside its base:
    ampoule admit helpdesk.bundle --bundle my-model.bundle --trust-root root.json

Verifies every signature and every byte, holds the bundle against every rule with what this host
has, what the configuration says and what was taken into use before, settles the configuration
under the bundle's constraints, and foresees the memory that the model takes. It runs nothing and
notes nothing. Every rule is told; the exit code is that of the first refusal: 10 for a file that
is no readable bundle, 11 for a wrong signature or digest, 12 for a bundle that may not run here,
13 for one that is older than what was accepted before or a state that cannot be used, 78 for a
configuration that is wrong or wider than the bundle allows, 20 for a model that this runtime
cannot compute. What `serve` needs besides, such as keys and an address, `ampoule config check`
looks at.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The sealed bundle to judge, whatever the configuration serves.
    #[arg(value_name = "BUNDLE")]
    candidate: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

/// All that was found out about an authentic bundle.
struct Judged {
    identity: BundleIdentity,
    examination: Examination,
    /// What refuses it first, in the order of `serve`.
    refusal: Option<Error>,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let judged = judge(arguments);
    if arguments.json {
        output.line(format_args!("{:#}", to_json(&judged)))?;
        output.flush()?;
        return judged.and_then(|judged| judged.refusal.map_or(Ok(Exit::Ok), Err));
    }
    let Judged { identity, examination, refusal } = judged?;
    output.line(match &refusal {
        None => "Admitted: no rule keeps it from this host and this configuration. Nothing was noted.",
        Some(_) => "Refused: it is authentic, and `serve` would not take it. Nothing was noted.",
    })?;
    for (label, text) in report::lines(&identity) {
        output.line(format_args!("  {label:10} {text}"))?;
    }
    tell_rules(&examination, output)?;
    output.flush()?;
    refusal.map_or(Ok(Exit::Ok), Err)
}

fn judge(arguments: &Arguments) -> Result<Judged, Error> {
    let layers = arguments.config.layers()?;
    let config = AdmissionConfig::require(&layers.merge())?;
    let root = trust::open_for_serving(&config.trust_root, &config.supplements)?.0;
    let admission = Admission::of_site(&config)?;
    let name = arguments.candidate.display().to_string();
    let verified = boot::verify(boot::open_bundle(&arguments.candidate)?, &root, &name)?;
    boot::check_every_byte(&verified, &name)?;
    let identity = verified.identity().clone();
    let admission = match identity.kind.base() {
        Some(_) => admission.beside(base(&config, &root)?.as_ref()),
        None => admission,
    };
    // An adapter takes its memory from its base and has settings of its own for nothing.
    let foreseen = identity.kind.base().is_none().then(|| boot::foresee(&layers, &verified)).transpose();
    let (footprint, unusable) = match foreseen {
        Ok(footprint) => (footprint, None),
        Err(error) => (None, Some(error)),
    };
    let examination = admission.with_footprint(footprint).examine(&verified)?;
    let violation = examination.violation();
    let refusal = violation.map(|violation| Error::NotAdmitted { name, violation: Box::new(violation) }).or(unusable);
    Ok(Judged { identity, examination, refusal })
}

/// What an adapter must be bound to: the bundle that is served, if one is configured.
fn base(config: &AdmissionConfig, root: &TrustRoot) -> Result<Option<AdapterBinding>, Error> {
    let (sealed, name) = match (&config.bundle, &config.store) {
        (Some(path), _) => (boot::open_bundle(path)?, path.display().to_string()),
        (None, Some(folder)) => {
            let store = Store::open(folder)?;
            let active = store.active()?;
            (store.open_bundle(active)?, store.describe(active))
        }
        (None, None) => return Ok(None),
    };
    Ok(boot::verify(sealed, root, &name)?.adapter_binding().cloned())
}

fn to_json(judged: &Result<Judged, Error>) -> Json {
    let (bundle, rules, refusal) = match judged {
        Ok(judged) => {
            let (bundle, rules) = (report::json(&judged.identity), report::rules_json(&judged.examination));
            (bundle, rules, judged.refusal.as_ref())
        }
        Err(error) => (Json::Null, Json::Null, Some(error)),
    };
    json!({
        "admitted": refusal.is_none(),
        "exit_code": refusal.map_or(Exit::Ok, Error::exit).code(),
        "error_id": refusal.map(Error::id),
        "error": refusal.map(ToString::to_string),
        "bundle": bundle,
        "rules": rules,
    })
}
