//! One point of the sweep: a fault at one call of one command, and what the store is afterwards.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};

use super::scene::Scene;

/// What happens at a call.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// The process dies before it.
    Kill {
        /// Or the process that it started does.
        follow: bool,
    },
    /// It fails with this error, once.
    Error(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Fault::Kill { .. } => "kill -9",
            Fault::Error(name) => name,
        })
    }
}

/// What was found afterwards.
pub(crate) enum Outcome {
    /// The store is as it was.
    Old,
    /// The command has done its work.
    New,
    /// Something that must not be, in words.
    Other(String),
}

/// Injects a fault into the `number`th call of this name and looks at the store.
pub(crate) fn run(scene: &Scene, fault: Fault, call: &str, number: u32) -> anyhow::Result<Outcome> {
    scene.reset()?;
    let (kind, follow) = match fault {
        Fault::Kill { follow } => ("signal=KILL".to_owned(), follow),
        Fault::Error(name) => (format!("error={name}"), false),
    };
    let inject = format!("inject={call}:{kind}:when={number}");
    let mut options = vec!["-qq", "-o", "/dev/null", "-e", &inject];
    if follow {
        options.push("-f");
    }
    let output = scene.traced(&options).stdin(Stdio::null()).output()?;
    Ok(match ended_well(&output, fault, call).and_then(|()| look(scene).map_err(|error| format!("{error:#}"))) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome::Other(reason),
    })
}

/// A process that met a fault dies of the signal, or tells the error and ends with a code of the table.
fn ended_well(output: &Output, fault: Fault, call: &str) -> Result<(), String> {
    let told = String::from_utf8_lossy(&output.stderr);
    let ended = || format!("it ended with {}: {told}", output.status);
    match (fault, output.status.code(), output.status.signal()) {
        (Fault::Kill { .. }, None, Some(9)) | (Fault::Kill { .. }, Some(0), _) => Ok(()),
        // A folder that is there already need not be made; but nothing is done that was not made durable and renamed.
        (Fault::Error(_), Some(0), _) if !call.contains("sync") && !call.contains("rename") => Ok(()),
        // The self-test's process was killed, and not this one.
        (Fault::Kill { follow: true }, Some(20), _) if told.contains("nothing was switched") => Ok(()),
        // What cannot be written to standard error cannot be told.
        (Fault::Error(_), Some(1 | 11 | 13 | 20), _) if told.is_empty() || told.contains("ampoule: ") => Ok(()),
        _ => Err(ended()),
    }
}

/// Whatever happened, the store lists the old or the new state, the active bundle is whole, and the command succeeds when
/// it is run again.
fn look(scene: &Scene) -> anyhow::Result<Outcome> {
    let found = scene.standings()?;
    let is_new = found == scene.new;
    if !is_new && found != scene.old {
        return Ok(Outcome::Other(format!("{found:?}")));
    }
    scene.export_active()?;
    if !is_new || scene.is_repeatable {
        crate::process::output(&mut scene.command())?;
        let repeated = scene.standings()?;
        if repeated != scene.new {
            return Ok(Outcome::Other(format!("repeated, it gives {repeated:?}")));
        }
        scene.export_active()?;
    }
    Ok(if is_new { Outcome::New } else { Outcome::Old })
}
