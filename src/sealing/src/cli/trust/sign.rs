//! `ampoule-seal trust sign`.

use std::path::PathBuf;

use serde_json::json;

use super::list;
use crate::cli::{KeyArguments, Output};
use crate::error::SealingError;
use crate::trust;

const EXAMPLE: &str = "\
Example:
  ampoule-seal trust sign 2.root.json --key second-root.key

What is signed does not change, so the file can go from one machine to the next.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(in crate::cli) struct Arguments {
    /// The root, revocation list or downgrade token.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    key: KeyArguments,
    /// Where to write it; the file itself is replaced otherwise.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let out = arguments.out.as_ref().unwrap_or(&arguments.file);
    let signers = trust::sign(&arguments.file, &arguments.key.open()?, out)?;
    output.print(
        &format!("signed {}: it carries {} signatures, by {}", out.display(), signers.len(), list(&signers)),
        &json!({ "file": out.display().to_string(), "signers": signers }),
    )
}
