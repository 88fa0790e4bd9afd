//! `ampoule-seal seal`.

use std::path::PathBuf;

use super::Output;
use super::statement::{Statement, binding_to};
use crate::error::SealingError;

const EXAMPLES: &str = "\
Examples:
  ampoule-seal seal --from ./Qwen3-0.6B --name qwen3 --version 1.0.0 --counter 1 \\
      --key vendor.key --password-file password --out qwen3.bundle
  ampoule-seal seal --from model-q4_k_m.gguf --name chat --version 2.1.0 --counter 7 \\
      --expires 2028-01-01T00:00:00Z --contract contract.json --key vendor.key --out chat.bundle

The same files and flags give the same manifest, byte for byte; give --issued-at or SOURCE_DATE_EPOCH and the signed
statements are the same too. Only the signatures differ, because ECDSA draws a fresh nonce for each.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The model: a Hugging Face folder, or one .gguf file.  A symbolic link in the folder may lead to what is inside it,
    /// and in the hub's cache to the blobs of the same repository (snapshots/… to ../../blobs/…); any other is refused.
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// A file of the folder that stays outside, by its name in the folder; may be given several times.
    #[arg(long, value_name = "NAME")]
    leave_out: Vec<String>,
    /// Seal an adapter: --from is a PEFT folder, and this the sealed base that it was trained beside.
    #[arg(long, value_name = "BUNDLE")]
    adapter_of: Option<PathBuf>,
    #[command(flatten)]
    statement: Statement,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let adapter = arguments.adapter_of.as_deref().map(binding_to).transpose()?;
    let sealed = arguments.statement.seal(&arguments.from, &arguments.leave_out, adapter)?;
    output.print(&sealed.text, &sealed.json)
}
