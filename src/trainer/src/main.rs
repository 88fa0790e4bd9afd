//! The command line of `ampoule-trainer`; it only parses, runs and maps errors to exit codes.

mod cli;

use std::process::ExitCode;

use ampoule_trainer::error::TrainerError;
use clap::Parser;

fn main() -> ExitCode {
    match cli::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ampoule-trainer: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The codes that all of Ampoule's binaries share; README.md has the table.
fn exit_code(error: &TrainerError) -> u8 {
    use ampoule_bundle::{ErrorClass, ViolationClass};
    use ampoule_trainer::tuning::base::BaseError;

    const OTHER_FAILURE: u8 = 1;
    const USAGE: u8 = 2;
    const CHECK_FAILED: u8 = 3;
    const UNREADABLE: u8 = 10;
    const SIGNATURE: u8 = 11;
    const NOT_ADMITTED: u8 = 12;
    const STATE: u8 = 13;
    const MODEL: u8 = 20;
    const CONFIGURATION: u8 = 78;
    match error {
        TrainerError::BelowPassMark { .. }
        | TrainerError::BelowMark { .. }
        | TrainerError::NothingAsked { .. }
        | TrainerError::Data(_) => CHECK_FAILED,
        TrainerError::Toml { .. }
        | TrainerError::Recipe { .. }
        | TrainerError::Pattern { .. }
        | TrainerError::DuplicateFact { .. }
        | TrainerError::UnknownFact { .. }
        | TrainerError::HeldOutLeak { .. } => CONFIGURATION,
        TrainerError::UnknownTarget { .. } => USAGE,
        TrainerError::OtherRun { .. } | TrainerError::IncompleteCheckpoint { .. } => STATE,
        TrainerError::Base(BaseError::Open { .. } | BaseError::NotAFile { .. }) => UNREADABLE,
        TrainerError::Base(BaseError::WritableTrustRoot { .. }) => CONFIGURATION,
        TrainerError::Base(BaseError::Refused { source, .. }) => match source.class() {
            ErrorClass::Unreadable => UNREADABLE,
            ErrorClass::Signature => SIGNATURE,
        },
        TrainerError::Base(BaseError::NotAdmitted { violation, .. }) => match violation.class() {
            ViolationClass::NotAdmitted => NOT_ADMITTED,
            ViolationClass::State => STATE,
        },
        TrainerError::Base(BaseError::Model { .. } | BaseError::NoGenerator { .. })
        | TrainerError::Adapter { .. }
        | TrainerError::NotFinite { .. }
        | TrainerError::Quantised { .. } => MODEL,
        TrainerError::OtherBase { .. } | TrainerError::Memory { .. } => NOT_ADMITTED,
        TrainerError::Sealing(error) => error.exit_code(),
        _ => OTHER_FAILURE,
    }
}
