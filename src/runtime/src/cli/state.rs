//! `ampoule state`: what this installation remembers of what it has taken into use; and the two ways to begin, of which one
//! is kept on record.

use std::path::PathBuf;

use ampoule_bundle::HighWaterMarks;
use clap::{Args, Subcommand};
use serde_json::json;

use super::output::Output;
use crate::config::{LogFormat, LogLevel};
use crate::error::Error;
use crate::exit::Exit;
use crate::state::{State, StateError};
use crate::store::{Store, StoreError};
use crate::telemetry;

const SHOW_EXAMPLES: &str = "\
Examples:
  ampoule state show --state /var/lib/ampoule-state
  ampoule state show --store /var/lib/ampoule --json

Prints the high-water marks and what raised them: of each bundle the highest counter that was
taken into use, the highest version of the trust root and of the revocation list, the latest time.
What is below a mark is refused with exit code 13, and time never lies before the latest one. In a
store the counter of a bundle is the lower one of the active and the previous version: either may be
served again, and nothing older.";

const INIT_EXAMPLES: &str = "\
Examples:
  ampoule state init --state /var/lib/ampoule-state
  ampoule serve --bundle model.bundle --state /var/lib/ampoule-state ...

For the first start of a service with --bundle; a store has its state from the beginning. The
folder is made if there is none. A state that is there, or was there and is lost, ends with 13.";

const RESET_EXAMPLES: &str = "\
Examples:
  ampoule state reset --state /var/lib/ampoule-state --reason 'disk replaced, ticket 4711'

Forgets every mark, so that older bundles are accepted again: for a state that is lost or damaged,
or marks that a wrong clock has raised. Time, user, reason and the digest of the file before are
kept in high-water.log, in the state itself and in the log on standard error. In a store the active
and the previous bundle still bound what is accepted.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print what is remembered and how it came about.
    #[command(after_help = SHOW_EXAMPLES)]
    Show(ShowArguments),
    /// Make the state of a service that has none yet.
    #[command(after_help = INIT_EXAMPLES)]
    Init(Folder),
    /// Forget everything and begin anew; who did it and why is kept on record.
    #[command(after_help = RESET_EXAMPLES)]
    Reset(ResetArguments),
}

#[derive(Debug, Args)]
pub(super) struct Folder {
    /// The folder of the state, or a store.
    #[arg(long = "state", visible_alias = "store", value_name = "DIR", env = "AMPOULE_STATE")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    #[command(flatten)]
    state: Folder,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ResetArguments {
    #[command(flatten)]
    state: Folder,
    /// Why, for whoever reads the record later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) fn run(command: &Command, output: &mut Output) -> Result<Exit, Error> {
    match command {
        Command::Show(arguments) => show(arguments, output)?,
        Command::Init(Folder { folder }) => {
            init(folder)?;
            output.line(format_args!("Made: what is taken into use is remembered in {}", folder.display()))?;
        }
        Command::Reset(arguments) => reset(arguments, output)?,
    }
    output.flush()?;
    Ok(Exit::Ok)
}

fn init(folder: &PathBuf) -> Result<(), Error> {
    // A store was made with a state, so one that has none has lost it.
    match Store::open(folder) {
        Ok(_) | Err(StoreError::CatalogueLost { .. } | StoreError::CatalogueDamaged { .. }) => {
            match State::open(folder) {
                Err(StateError::Missing { folder }) => return Err(StateError::Lost { folder }.into()),
                other => drop(other?),
            }
        }
        Err(_) => {}
    }
    std::fs::create_dir_all(folder).map_err(|source| StateError::Io { path: folder.clone(), source })?;
    State::create(folder)?;
    Ok(())
}

fn show(arguments: &ShowArguments, output: &mut Output) -> Result<(), Error> {
    let state = State::open(&arguments.state.folder)?;
    let marks = state.marks();
    if arguments.json {
        let counters: Vec<_> = marks
            .counters()
            .map(|(name, epoch, counter)| json!({ "name": name, "epoch": epoch, "counter": counter }))
            .collect();
        let shown = json!({
            "counters": counters,
            "trust_root": marks.trust_root(),
            "revocation_list": marks.revocation(),
            "time": marks.time(),
            "records": state.records(),
        });
        return output.line(format_args!("{shown:#}"));
    }
    tell(&marks, output)?;
    output.line("\nHow it came about:")?;
    for record in state.records() {
        output.line(format_args!("  {:>5}  {}  {}", record.sequence, record.time, record.cause))?;
    }
    Ok(())
}

fn tell(marks: &HighWaterMarks, output: &mut Output) -> Result<(), Error> {
    for (name, epoch, counter) in marks.counters() {
        output.line(format_args!("Bundle           {name}: counter {counter} in epoch {epoch}"))?;
    }
    let version = |version: u64| if version == 0 { "none".to_owned() } else { format!("version {version}") };
    output.line(format_args!("Trust root       {}", version(marks.trust_root())))?;
    output.line(format_args!("Revocation list  {}", version(marks.revocation())))?;
    output.line(format_args!("Latest time      {}", marks.time().map_or("none".to_owned(), |time| time.to_string())))
}

fn reset(arguments: &ResetArguments, output: &mut Output) -> Result<(), Error> {
    telemetry::start(LogLevel::Info, LogFormat::Json);
    let folder = &arguments.state.folder;
    let state = State::reset(folder, &arguments.reason)?;
    if let Some(record) = state.records().last() {
        tracing::warn!(state = %folder.display(), cause = %record.cause, "the state was reset");
    }
    output.line(format_args!("Reset: {} remembers nothing now. The reason is kept on record.", folder.display()))
}
