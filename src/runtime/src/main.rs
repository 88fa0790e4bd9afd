//! The binary: run the command line, tell what went wrong, map it to its exit code, return.  The work is elsewhere.

use std::io::ErrorKind;
use std::process::ExitCode;

use ampoule::error::Error;
use ampoule::exit::Exit;
use ampoule::{cli, telemetry};

fn main() -> ExitCode {
    telemetry::report_panics();
    // A panic on this thread is a defect like one on any other: it has been reported, and it has its exit code.
    let exit = match std::panic::catch_unwind(|| cli::run(std::env::args_os())) {
        Ok(Ok(exit)) => exit,
        // Whoever closes the pipe has read enough, as `ampoule config show | head` does.
        Ok(Err(Error::Output { source })) if source.kind() == ErrorKind::BrokenPipe => Exit::Ok,
        Ok(Err(error)) => {
            eprintln!("ampoule: {error}");
            error.exit()
        }
        Err(_) => Exit::Internal,
    };
    exit.into()
}
