//! `ampoule-seal`: prints what the command did, or why it did not, and maps the error to an exit code.

use std::io::ErrorKind;
use std::process::ExitCode;

use ampoule_sealing::SealingError;
use ampoule_sealing::cli::Command;
use clap::Parser;

fn main() -> ExitCode {
    // clap prints usage errors itself and leaves with 2, which is the table's code for them.
    let command = Command::parse();
    match command.run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closes the pipe has read enough.
        Err(SealingError::Output(source)) if source.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ampoule-seal: {}", error.said().join("\n  because: "));
            ExitCode::from(error.exit_code())
        }
    }
}
