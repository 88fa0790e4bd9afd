//! `ampoule trust`: what this host trusts, and the step to the vendor's next root.

use std::path::PathBuf;

use ampoule_bundle::Timestamp;
use ampoule_bundle::trust::RootSummary;
use clap::{Args, Subcommand};
use serde_json::json;

use super::output::Output;
use crate::error::Error;
use crate::exit::Exit;
use crate::trust::{self, Supplements, Updated};

const SHOW_EXAMPLES: &str = "\
Examples:
  ampoule trust show root.json
  ampoule trust show root.json --revocations revocations.json --json

Compare the digest with the one that your vendor told you by another way than the file came.";

const UPDATE_EXAMPLES: &str = "\
Examples:
  ampoule trust update --trust-root /etc/ampoule/root.json --from 2.root.json
  ampoule trust update --trust-root /etc/ampoule/root.json --from 2.root.json 3.root.json
  Would what is served be admitted under it?
    ampoule admit my-model.bundle --trust-root 2.root.json

There is no way back to an older root. Where a key is replaced, the next root refuses what the old
one alone has signed, so ask `admit` first. Each root must follow the one before it: one version higher, and signed by enough of the root keys
of both. The last one then replaces the file in one step, with the same permissions; whatever is
refused leaves it as it was. Restart the server afterwards. Exits with 0, or with 4 where the new
root has expired already, 10 for a file that is no trust root, 11 for one that does not follow.";

/// What this host trusts.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show a trust root: its digest, its keys, what each may sign, and how many must.
    Show(ShowArguments),
    /// Take the vendor's next root, or several in a row.
    Update(UpdateArguments),
}

#[derive(Debug, Args)]
#[command(after_help = SHOW_EXAMPLES)]
pub(super) struct ShowArguments {
    /// The trust root.
    #[arg(value_name = "ROOT")]
    root: PathBuf,
    /// Show what this revocation list takes away too; it must be signed by the root's `revoke` keys.
    #[arg(long, value_name = "FILE")]
    revocations: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = UPDATE_EXAMPLES)]
pub(super) struct UpdateArguments {
    /// The trust root that this host has pinned.
    #[arg(long, value_name = "FILE", env = "AMPOULE_TRUST_ROOT")]
    trust_root: PathBuf,
    /// The roots that follow, in order.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    from: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What stands beside the trust root, for every command that takes one.
#[derive(Debug, Clone, Args)]
pub(super) struct SupplementArguments {
    /// The revocation list, signed by the root's `revoke` keys: what must not be used any more.
    #[arg(long, value_name = "FILE", env = "AMPOULE_REVOCATIONS")]
    revocations: Option<PathBuf>,
    /// A token of the vendor's that permits one bundle below what was accepted before.
    #[arg(long, value_name = "FILE", env = "AMPOULE_DOWNGRADE_TOKEN")]
    downgrade_token: Option<PathBuf>,
}

impl SupplementArguments {
    /// Whether a token was named.
    pub(super) fn has_downgrade_token(&self) -> bool {
        self.downgrade_token.is_some()
    }

    pub(super) fn supplements(&self) -> Supplements {
        Supplements { revocations: self.revocations.clone(), downgrade_token: self.downgrade_token.clone() }
    }
}

pub(super) fn run(command: &Command, output: &mut Output) -> Result<Exit, Error> {
    match command {
        Command::Show(arguments) => show(arguments, output),
        Command::Update(arguments) => update(arguments, output),
    }
}

fn show(arguments: &ShowArguments, output: &mut Output) -> Result<Exit, Error> {
    let supplements = Supplements { revocations: arguments.revocations.clone(), downgrade_token: None };
    let root = RootSummary::of(&trust::open(&arguments.root, &supplements)?);
    if arguments.json {
        output.line(format_args!("{:#}", json!(root)))?;
    } else {
        output.piece(root)?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

fn update(arguments: &UpdateArguments, output: &mut Output) -> Result<Exit, Error> {
    let Updated { from, root } = trust::update(&arguments.trust_root, &arguments.from)?;
    let expired = root.expires() <= Timestamp::new(jiff::Timestamp::now());
    let summary = RootSummary::of(&root);
    if arguments.json {
        output.line(format_args!("{:#}", json!({ "from": from, "root": summary, "expired": expired })))?;
    } else {
        output.line(format_args!("Updated from version {from}. Restart the server to use the new root."))?;
        output.line(
            "Before that, `ampoule admit BUNDLE --trust-root ROOT` tells whether what you serve is admitted under it.",
        )?;
        output.piece(summary)?;
        if expired {
            output
                .line("warning: this root has expired, so no bundle is admitted: ask your vendor for the next one")?;
        }
    }
    output.flush()?;
    Ok(if expired { Exit::Warnings } else { Exit::Ok })
}
