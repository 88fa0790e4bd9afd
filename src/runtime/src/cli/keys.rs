//! `ampoule keys`: who may call this appliance.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;

use super::output::Output;
use crate::error::Error;
use crate::exit::Exit;
use crate::keys;

const EXAMPLES: &str = "\
Examples:
  ampoule keys add alice --keys-file keys.jsonl
  ampoule keys list --keys-file keys.jsonl
  ampoule keys revoke alice --keys-file keys.jsonl

The server reads the file when it starts: restart it after a change.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Command {
    /// Make a key and print it once; the file keeps only its hash.
    Add {
        /// Whose key it is, as it will appear in logs.
        name: String,
        #[command(flatten)]
        file: KeysFile,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the names of the keys.
    List {
        #[command(flatten)]
        file: KeysFile,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a key away.
    Revoke {
        /// Whose key it is.
        name: String,
        #[command(flatten)]
        file: KeysFile,
    },
}

#[derive(Debug, Args)]
pub(super) struct KeysFile {
    /// The file of API keys; `add` makes it if it is not there.
    #[arg(long = "keys-file", value_name = "FILE", env = "AMPOULE_KEYS_FILE")]
    path: PathBuf,
}

pub(super) fn run(command: &Command, output: &mut Output) -> Result<Exit, Error> {
    match command {
        Command::Add { name, file, json } => {
            let key = keys::add(&file.path, name, Timestamp::now())?;
            if *json {
                output.line(format_args!("{:#}", json!({ "name": name, "key": key.reveal() })))?;
            } else {
                output.line(key.reveal())?;
            }
            eprintln!(
                "This is the only time that this key is shown. Its hash is in {}; a running server takes it after a restart.",
                file.path.display()
            );
        }
        Command::List { file, json } => {
            let entries = keys::list(&file.path)?;
            if *json {
                let keys = entries.iter().map(|entry| json!({ "name": entry.name, "created": entry.created }));
                output.line(format_args!("{:#}", json!({ "keys": keys.collect::<Vec<_>>() })))?;
            } else {
                for entry in entries {
                    output.line(format_args!("{}  {}", entry.created, entry.name))?;
                }
            }
        }
        Command::Revoke { name, file } => {
            keys::revoke(&file.path, name)?;
            eprintln!("The key of {name} is taken away; a running server keeps it until it restarts.");
        }
    }
    output.flush()?;
    Ok(Exit::Ok)
}
