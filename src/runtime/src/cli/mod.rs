//! The command line: what can be typed, and which function each command runs.  The help texts teach by example, so they
//! are part of the interface and pinned by golden tests.

mod adapters;
mod admit;
mod arguments;
mod bench;
mod config;
mod doctor;
mod export;
mod health;
mod keys;
mod output;
mod prune;
mod self_test;
mod serve;
mod state;
mod store;
mod trust;
mod verify;
mod verify_self;

use std::ffi::OsString;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde_json::json;

use crate::demo;
use crate::error::Error;
use crate::exit::Exit;
use crate::report;

pub use arguments::ConfigArguments;
pub use output::Output;

const EXAMPLES: &str = "\
Examples:
  ampoule demo                                       a small sealed model answers a question
  ampoule verify model.bundle --trust-root root.json is it what the vendor sealed?
  ampoule keys add alice --keys-file keys.jsonl      make an API key; it is printed once
  ampoule serve --bundle model.bundle --trust-root root.json --keys-file keys.jsonl
  ampoule serve --config /etc/ampoule/ampoule.toml   the same from a file
  ampoule import model.bundle --store /var/lib/ampoule --trust-root root.json
  ampoule activate my-model --store /var/lib/ampoule keep several bundles, serve one of them

Exit codes: 0 ok, 1 other failure, 2 usage, 3 a check failed, 4 warnings only,
10 unreadable bundle, 11 signature or digest, 12 not admitted, 13 rollback or state,
20 model, 30 listener or TLS, 70 internal, 78 configuration.";

/// Serves a sealed model: verifies it, admits it, proves it, then answers OpenAI requests.
#[derive(Debug, Parser)]
#[command(name = "ampoule", version, about, after_help = EXAMPLES, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = false)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a sealed bundle.
    Serve(serve::Arguments),
    /// Verify the bundle inside this binary, serve it on loopback and ask it a question.
    Demo(demo::Arguments),
    /// Check a bundle's signatures and every digest against a trust root, without running it.
    Verify(verify::VerifyArguments),
    /// Say whether `serve` would take a bundle on this host with this configuration, rule by rule.
    Admit(admit::Arguments),
    /// Print what a bundle says about itself, without trusting any of it.
    Inspect(verify::InspectArguments),
    /// Bring a bundle into a store: copy what is new of it, verify every byte, stage it.
    Import(store::ImportArguments),
    /// List the bundles of a store and which one is active.
    List(store::ListArguments),
    /// Make an imported bundle the one that is served.
    Activate(store::ActivateArguments),
    /// Go back to the bundle that was active before.
    Rollback(store::RollbackArguments),
    /// Show, make or reset what an installation remembers, so that nothing older is taken into use.
    #[command(subcommand)]
    State(state::Command),
    /// Write a bundle of a store to a file, to an OCI layout, or as a plain model folder.
    Export(export::Arguments),
    /// Take away the bundles of a store that nobody will go back to, and the files that none needs.
    Prune(prune::Arguments),
    /// Load a bundle of a store and replay its known answers, without serving it.
    SelfTest(self_test::Arguments),
    /// Measure how fast a bundle computes on this host, beside what the host does at most.
    Bench(bench::Arguments),
    /// Show what this host trusts, or take the vendor's next trust root.
    #[command(subcommand)]
    Trust(trust::Command),
    /// List, load or unload the adapters of the running server.
    #[command(subcommand)]
    Adapters(adapters::Command),
    /// Show, check or describe the configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// Add, list or revoke API keys.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Look at this host: what it offers, and which layers of the sandbox `serve` would get.
    Doctor(doctor::Arguments),
    /// Ask the running server whether it is ready; for a container's HEALTHCHECK.
    Health(health::Arguments),
    /// Check that the installed release, this binary among it, is what its vendor signed.
    VerifySelf(verify_self::Arguments),
    /// Print the versions of this binary.
    Version {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs one command line to its end.
///
/// # Errors
/// What went wrong, to be told and mapped to an exit code by the caller.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<Exit, Error> {
    let parsed = Cli::command().try_get_matches_from(arguments);
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, wants_json(&matches))));
    let (cli, json) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => return tell(&refusal),
    };
    let mut output = Output::stdout();
    let outcome = execute(cli.command, &mut output);
    if let (Err(error), true, true) = (&outcome, json, output.is_empty()) {
        output.line(format_args!("{:#}", report::refusal(error)))?;
        output.flush()?;
    }
    outcome
}

/// Whether a program reads the answer: then it gets a refusal too, whatever the command.
fn wants_json(matches: &ArgMatches) -> bool {
    let here = matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or(false);
    here || matches.subcommand().is_some_and(|(_, matches)| wants_json(matches))
}

fn execute(command: Command, output: &mut Output) -> Result<Exit, Error> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments, output),
        Command::Verify(arguments) => verify::verify(&arguments, output),
        Command::Admit(arguments) => admit::run(&arguments, output),
        Command::Inspect(arguments) => verify::inspect(&arguments, output),
        Command::Import(arguments) => store::import(&arguments, output),
        Command::List(arguments) => store::list(&arguments, output),
        Command::Activate(arguments) => store::activate(&arguments, output),
        Command::Rollback(arguments) => store::rollback(&arguments, output),
        Command::State(command) => state::run(&command, output),
        Command::Export(arguments) => export::run(&arguments, output),
        Command::Prune(arguments) => prune::run(&arguments, output),
        Command::SelfTest(arguments) => self_test::run(&arguments, output),
        Command::Bench(arguments) => bench::run(&arguments, output),
        Command::Trust(command) => trust::run(&command, output),
        Command::Adapters(command) => adapters::run(&command, output),
        Command::Config(command) => config::run(&command, output),
        Command::Keys(command) => keys::run(&command, output),
        Command::Doctor(arguments) => doctor::run(&arguments, output),
        Command::Health(arguments) => health::run(&arguments, output),
        Command::VerifySelf(arguments) => verify_self::run(&arguments, output),
        Command::Version { json } => version(json, output),
    }
}

/// The command as clap knows it, for golden tests of the help texts.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Help and version are answers, everything else that clap refuses is wrong usage; clap knows which stream is whose.
fn tell(refusal: &clap::Error) -> Result<Exit, Error> {
    refusal.print().map_err(|source| Error::Output { source })?;
    Ok(if refusal.use_stderr() { Exit::Usage } else { Exit::Ok })
}

fn version(json: bool, output: &mut Output) -> Result<Exit, Error> {
    let version = env!("CARGO_PKG_VERSION");
    let format = ampoule_bundle::FORMAT_VERSION;
    let platform = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    if json {
        let versions = json!({ "version": version, "bundle_format": format, "platform": platform });
        output.line(format_args!("{versions:#}"))?;
    } else {
        output.line(format_args!("ampoule {version}\nbundle format {format}\nbuilt for {platform}"))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}
