//! `ampoule-seal trust sign`.

use std::path::PathBuf;

use serde_json::json;

use super::list;
use crate::cli::{KeyArguments, Output};
use crate::error::SealingError;
use crate::trust::{self, AnyDocument, Signed};

const EXAMPLE: &str = "\
Example:
  ampoule-seal trust sign 2.root.json --key second-root.key

What is signed does not change, so the file can go from one machine to the next.  The signatures are
part of the file, so its digest changes with each: the one to tell a customer is that of the last.";

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
    if *out != arguments.file {
        trust::refuse_to_replace(out)?;
    }
    // Looked at before a password is asked for.
    AnyDocument::read(&arguments.file)?;
    let Signed { signers, digest } = trust::sign(&arguments.file, &arguments.key.open()?, out)?;
    let (path, count) = (out.display(), signers.len());
    output.print(
        &format!("signed {path}: it carries {count} signatures, by {}\ndigest {digest}", list(&signers)),
        &json!({ "file": path.to_string(), "signers": signers, "digest": digest.to_string() }),
    )
}
