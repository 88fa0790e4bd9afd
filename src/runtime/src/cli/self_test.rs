//! `ampoule self-test`: whether a bundle of the store can be served on this host, found out by loading it.

use std::path::PathBuf;

use clap::Args;

use super::arguments::{ConfigArguments, IdentityArgument};
use super::output::Output;
use super::store::{OptionalRoot, StoreFolder};
use crate::config::{LogFormat, LogLevel};
use crate::error::Error;
use crate::exit::Exit;
use crate::store::{self, Wanted};
use crate::telemetry;

const EXAMPLES: &str = "\
Examples:
  ampoule self-test my-model@1.1.0 --store /var/lib/ampoule
  ampoule self-test my-model --store /var/lib/ampoule --config /etc/ampoule/ampoule.toml

Verifies the bundle, admits it, loads its weights, which checks every byte of them, and replays its
known answers, as `ampoule serve` does before it is ready; serves nothing and changes nothing. It
needs the memory that serving needs, beside what a running server has. `ampoule activate` runs it in
a process of its own. Exits with 0, as `ampoule verify` does, or with 20 for a model that cannot be
loaded or does not give its known answers.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Which imported bundle: its name, and its version if not the one with the highest counter is meant.
    #[arg(value_name = "NAME[@VERSION]")]
    bundle: Wanted,
    #[command(flatten)]
    store: StoreFolder,
    #[command(flatten)]
    root: OptionalRoot,
    #[command(flatten)]
    identity: IdentityArgument,
    /// The configuration that it will be served under (TOML). May be given again: later files win.
    #[arg(long = "config", value_name = "FILE")]
    configuration: Vec<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    telemetry::start(LogLevel::Warn, LogFormat::Text);
    let files = arguments.configuration.clone();
    let layers = ConfigArguments { files, ..ConfigArguments::default() }.layers()?;
    let with = arguments.root.with(&arguments.identity);
    let record = store::self_test(&arguments.bundle, &arguments.store.folder, &with, &layers)?;
    output.line(format_args!("Passed: {} is loaded and gives its known answers on this host.", record.title()))?;
    output.flush()?;
    Ok(Exit::Ok)
}
