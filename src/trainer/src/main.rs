//! The command line of `ampoule-trainer`; it only parses, runs and maps errors to exit codes.

use std::path::PathBuf;
use std::process::ExitCode;

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::pretrain::pretrain;
use ampoule_trainer::progress::Progress;
use clap::{Parser, Subcommand};

/// Trains small models offline, for Ampoule to seal and serve.
#[derive(Debug, Parser)]
#[command(name = "ampoule-trainer", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Trains a model from nothing by a recipe and writes it as a Hugging Face folder, ready for `ampoule-seal seal`.
    ///
    /// Ends with the held-out questions; exit code 3 means that the model misses the recipe's pass marks.
    Pretrain {
        /// The recipe (TOML): seed, corpus, shape, steps, pass marks.
        #[arg(long, value_name = "FILE")]
        recipe: PathBuf,
        /// The folder to write; must not exist yet.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let Arguments { command: Command::Pretrain { recipe, out } } = Arguments::parse();
    match pretrain(&recipe, &out, Progress::Shown) {
        Ok(report) => {
            println!("{report}");
            println!("the model is in {}", out.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ampoule-trainer: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The codes that all of Ampoule's binaries share; README.md has the table.
fn exit_code(error: &TrainerError) -> u8 {
    const OTHER_FAILURE: u8 = 1;
    const CHECK_FAILED: u8 = 3;
    const CONFIGURATION: u8 = 78;
    match error {
        TrainerError::BelowPassMark { .. } => CHECK_FAILED,
        TrainerError::Toml { .. }
        | TrainerError::Recipe { .. }
        | TrainerError::Pattern { .. }
        | TrainerError::DuplicateFact { .. }
        | TrainerError::UnknownFact { .. }
        | TrainerError::HeldOutLeak { .. } => CONFIGURATION,
        _ => OTHER_FAILURE,
    }
}
