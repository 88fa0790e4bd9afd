//! The black-box judge of an installed appliance: it sees a binary, its configuration and its HTTP surface, as a customer
//! does, and no crate of the product.
//!
//! `SPECIFICATION.md` holds the promises, one case each.  A reader begins there, then with `catalogue`, then with the
//! module of `cases` that holds the promise in question.
//!
//! What is absent: no async, no knowledge of the product's types, and no case that cannot fail.

mod arguments;
mod catalogue;
mod runner;

mod cases;

mod certificates;
mod connection;
mod reply;
mod server;
mod site;
mod stream;
mod target;
mod trace;

mod report;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command, RunArguments};
use crate::report::Report;
use crate::runner::Subject;

/// The judgement itself could not be made: the command line is wrong, or there is nothing to judge.
const EXIT_NO_JUDGEMENT: u8 = 2;

fn main() -> ExitCode {
    let Command::Run(arguments) = Arguments::parse().command;
    // TLS here is what the appliance's own is: rustls on ring.  A second installation is the only way to fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ampoule-conformance: {error:#}");
            ExitCode::from(EXIT_NO_JUDGEMENT)
        }
    }
}

fn run(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let cases = catalogue::select(arguments.profile, &arguments.cases)?;
    if arguments.list {
        report::list(&cases, arguments.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let subject = Subject::prepare(arguments, &cases)?;
    let report = Report { subject: subject.name(), results: runner::judge(&subject, &cases, arguments.json)? };
    report.write(arguments)?;
    Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
