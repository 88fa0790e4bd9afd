//! `ampoule doctor`: what this host offers, before something is served on it and when something is wrong with it.

use clap::Args;
use serde_json::json;

use super::arguments::ConfigArguments;
use super::output::Output;
use crate::doctor::{self, Finding, Level};
use crate::error::Error;
use crate::exit::Exit;

const EXAMPLES: &str = "\
Examples:
  ampoule doctor                                        this host alone
  ampoule doctor --config /etc/ampoule/ampoule.toml     with what this file names
  ampoule doctor --json                                 for programs

It puts up the layers of the sandbox as `serve` does, on itself, so what it reports is what `serve`
gets from the same user in the same place. Run it there: in the container, or with systemd-run
under the properties of the unit. It reads what is configured and changes nothing. Whether a bundle
would be served, `ampoule admit` tells, and whether the whole configuration fits, `config check`.

Exits with 0 when all is well, with 4 when there are warnings only, and with 3 when something that
serving needs is missing.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let findings = doctor::examine(&arguments.config.layers()?.merge());
    let count = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (warnings, failed) = (count(Level::Warning), count(Level::Failed));
    if arguments.json {
        let found: Vec<_> = findings.iter().map(as_json).collect();
        let summary = json!({ "ok": count(Level::Ok), "warnings": warnings, "failed": failed });
        output.line(format_args!("{:#}", json!({ "findings": found, "summary": summary })))?;
    } else {
        for Finding { check, level, found, advice } in &findings {
            output.line(format_args!("{:8} {check:18} {found}", level.as_str()))?;
            if let Some(advice) = advice {
                output.line(format_args!("{:8} {:18} {advice}", "", ""))?;
            }
        }
        output.line(format_args!("\n{warnings} warnings, {failed} failed"))?;
    }
    output.flush()?;
    Ok(match (failed, warnings) {
        (0, 0) => Exit::Ok,
        (0, _) => Exit::Warnings,
        _ => Exit::CheckFailed,
    })
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let Finding { check, level, found, advice } = finding;
    json!({ "check": check, "level": level.as_str(), "found": found, "advice": advice })
}
