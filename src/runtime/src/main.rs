//! The binary: run the command line, map the outcome to its exit code, return.  The work is elsewhere.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(ampoule::exit::Exit::Ok)
}
