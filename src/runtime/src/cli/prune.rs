//! `ampoule prune`: room again, without what nobody will go back to.

use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;

use super::output::Output;
use super::store::StoreFolder;
use crate::error::Error;
use crate::exit::Exit;
use crate::store::{self, Record};

const EXAMPLES: &str = "\
Examples:
  ampoule prune --store /var/lib/ampoule --dry-run
  ampoule prune --store /var/lib/ampoule --keep 0

Takes away the bundles that are neither active nor previous, but for the --keep of them that were
imported last; then every file that no bundle of the store needs, and what an interrupted import
left. Files that two bundles share stay as long as one of them does. Interrupted, it leaves no
bundle incomplete; run it again. Exits with 0, or with 13 if the store cannot be used.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(flatten)]
    store: StoreFolder,
    /// How many bundles to keep beside the active and the previous one.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    keep: usize,
    /// Say what would go, and take nothing away.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    let pruned = store::prune(&arguments.store.folder, arguments.keep, arguments.dry_run)?;
    let titles: Vec<String> = pruned.bundles.iter().map(Record::title).collect();
    if arguments.json {
        let told = json!({
            "dry_run": arguments.dry_run,
            "bundles": titles,
            "files": pruned.files,
            "bytes": pruned.bytes,
        });
        output.line(format_args!("{told:#}"))?;
    } else {
        let (done, gone) = if arguments.dry_run { ("Would free", "would go") } else { ("Freed", "gone") };
        for title in &titles {
            output.line(format_args!("  {title} {gone}"))?;
        }
        output.line(format_args!("{done} {} in {} files.", HumanBytes(pruned.bytes), pruned.files.len()))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}
