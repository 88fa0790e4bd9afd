//! `ampoule-seal diff`.

use std::path::PathBuf;

use indicatif::HumanBytes;
use serde_json::json;

use super::Output;
use crate::diff::diff;
use crate::error::SealingError;

const EXAMPLES: &str = "\
Example:
  ampoule-seal diff my-model-1.0.0.bundle my-model-1.1.0.bundle --out my-model-1.1.0.thin.bundle
  ampoule import my-model-1.1.0.thin.bundle --store /var/lib/ampoule --trust-root root.json

The thin bundle carries the new bundle's manifest and statements and the files that the old one lacks;
at a site whose store holds the old one it becomes the new one, byte for byte, and is verified as that.
Files are shared whole: weights that were sealed in several shards are spared shard by shard.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The bundle that the site has.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The bundle that it is to have.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// The thin bundle to write; a file that is there already is not replaced.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let difference = diff(&arguments.old, &arguments.new, &arguments.out)?;
    let out = arguments.out.display().to_string();
    output.print(
        &format!(
            "wrote {out}: {} of files, {} spared\nmanifest {}\nneeds    {}",
            HumanBytes(difference.carried_bytes),
            HumanBytes(difference.spared_bytes),
            difference.manifest,
            difference.base
        ),
        &json!({
            "file": out,
            "manifest": difference.manifest.to_string(),
            "base": difference.base.to_string(),
            "carried_bytes": difference.carried_bytes,
            "spared_bytes": difference.spared_bytes,
        }),
    )
}
