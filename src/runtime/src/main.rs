//! The binary: run the command line, tell what went wrong, map it to its exit code, return.  The work is elsewhere.

use std::process::ExitCode;

use ampoule::exit::Exit;
use ampoule::{cli, telemetry};

fn main() -> ExitCode {
    telemetry::report_panics();
    // A panic on this thread is a defect like one on any other: it has been reported, and it has its exit code.
    let exit = match std::panic::catch_unwind(|| cli::run(std::env::args_os())) {
        Ok(Ok(exit)) => exit,
        Ok(Err(error)) => {
            eprintln!("ampoule: {error}");
            error.exit()
        }
        Err(_) => Exit::Internal,
    };
    exit.into()
}
