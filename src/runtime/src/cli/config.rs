//! `ampoule config`: what would hold, from where, and whether it is right; without loading or serving anything.

use std::fs::File;
use std::path::Path;

use clap::{Args, Subcommand};

use super::arguments::ConfigArguments;
use super::output::Output;
use crate::boot;
use crate::config::{BundleSource, ConfigError, ConfigErrors, Effective, ListenPlan, Options, RuntimeConfig};
use crate::error::Error;
use crate::exit::Exit;
use crate::state::Keeping;

const CHECK_EXAMPLES: &str = "\
Examples:
  ampoule config check --config /etc/ampoule/ampoule.toml

Checks every value, that the files are there and usable, and that the bundle is signed, may run here
and allows this configuration. Opens no listener and reads no weights: `ampoule verify` holds them
against their digests. Exits with 0, with 4 if there are only warnings, with 78 if the configuration
is wrong, or with the code of what else `serve` would refuse.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print every option with its value and where it comes from.
    ///
    /// What the bundle proposes or bounds counts too, where a bundle is configured that `serve` would take.
    Show(ShowArguments),
    /// Check all that `serve` would check before it reads the weights, without serving.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArguments),
    /// Print the JSON Schema of the configuration file.
    Schema,
}

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(command: &Command, output: &mut Output) -> Result<Exit, Error> {
    let exit = match command {
        Command::Show(arguments) => show(arguments, output)?,
        Command::Check(arguments) => check(arguments, output)?,
        Command::Schema => {
            output.line(format_args!("{:#}", Options::schema()))?;
            Exit::Ok
        }
    };
    output.flush()?;
    Ok(exit)
}

fn show(arguments: &ShowArguments, output: &mut Output) -> Result<Exit, Error> {
    let layers = arguments.config.layers()?;
    let of_site = layers.merge();
    let settled =
        RuntimeConfig::require(&of_site).map_err(Error::from).and_then(|config| boot::check(&layers, &config));
    let (effective, without_bundle) = match settled {
        Ok(settled) => (settled, None),
        Err(reason) => (of_site, Some(reason.to_string())),
    };
    if arguments.json {
        let mut shown = effective.to_json();
        shown["without_bundle"] = without_bundle.into();
        output.line(format_args!("{shown:#}"))?;
    } else {
        output.piece(effective.to_table())?;
        if let Some(reason) = without_bundle {
            output.line(format_args!(
                "\nWithout what a bundle proposes or bounds, because `serve` would refuse:\n{reason}"
            ))?;
        }
    }
    Ok(Exit::Ok)
}

fn check(arguments: &CheckArguments, output: &mut Output) -> Result<Exit, Error> {
    let (layers, effective, config) = arguments.config.require()?;
    files_are_there(&effective, &config)?;
    let settled = boot::check(&layers, &config)?;
    let warnings = warnings(&effective, &config);
    for warning in &warnings {
        output.line(format_args!("warning: {warning}"))?;
    }
    output.line(format_args!("ok: configuration digest {}", settled.digest()))?;
    if config.admission.state.is_none() && matches!(config.source, BundleSource::File(_)) {
        output.line(format_args!("note: {}", Keeping::Nowhere))?;
    }
    Ok(if warnings.is_empty() { Exit::Ok } else { Exit::Warnings })
}

/// All missing files at once, where `serve` would stop at the first.
fn files_are_there(effective: &Effective, config: &RuntimeConfig) -> Result<(), ConfigErrors> {
    let source: (&'static str, &Path) = match &config.source {
        BundleSource::File(path) => ("bundle", path),
        BundleSource::Store(folder) => ("store", folder),
    };
    let mut files: Vec<(&'static str, &Path)> =
        vec![source, ("trust_root", &config.admission.trust_root), ("keys_file", &config.keys_file)];
    let supplements = &config.admission.supplements;
    files.extend(supplements.revocations.as_deref().map(|path| ("revocations", path)));
    files.extend(supplements.downgrade_token.as_deref().map(|path| ("downgrade_token", path)));
    if let ListenPlan::Tls(_, tls) = &config.listen {
        files.push(("tls.certificate_file", &tls.certificate));
        files.push(("tls.key_file", &tls.key));
    }
    let errors: Vec<ConfigError> = files
        .into_iter()
        .filter_map(|(key, path)| {
            let reason = File::open(path).err()?.to_string();
            Some(ConfigError::MissingFile { key, path: path.to_owned(), reason, origin: effective.origin(key) })
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
}

fn warnings(effective: &Effective, config: &RuntimeConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if let ListenPlan::NamedPlain(address) = &config.listen {
        warnings.push(format!(
            "plain HTTP on {address}: keys and prompts cross the network readable (from {})",
            effective.origin("allow_plain_http_beyond_loopback")
        ));
    }
    if let Some(metrics) = config.metrics.filter(|metrics| !metrics.address.ip().is_loopback()) {
        warnings.push(format!(
            "metrics on {} are served to other hosts without a key (from {})",
            metrics.address,
            effective.origin("allow_metrics_beyond_loopback")
        ));
    }
    warnings
}
