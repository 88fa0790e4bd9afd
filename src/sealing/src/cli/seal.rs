//! `ampoule-seal seal`.

use std::path::PathBuf;

use ampoule_inference::Recording;

use super::Output;
use super::statement::{Statement, binding_to};
use crate::error::SealingError;
use crate::quantize::BlockFormat;

const EXAMPLES: &str = "\
Examples:
  ampoule-seal seal --from ./Qwen3-0.6B --name qwen3 --version 1.0.0 --counter 1 \\
      --key vendor.key --password-file password --out qwen3.bundle
  ampoule-seal seal --from ./Qwen3-0.6B … --known-answers 8        # each site proves that it computes what you did
  ampoule-seal seal --from ./Qwen3-0.6B … --quantize q4_k          # a third of the bytes, and faster
  ampoule-seal seal --from model-q4_k_m.gguf --name chat --version 2.1.0 --counter 7 \\
      --expires 2028-01-01T00:00:00Z --contract contract.json --key vendor.key --out chat.bundle

The same files and flags give the same manifest, byte for byte; give --issued-at or SOURCE_DATE_EPOCH and the signed
statements are the same too. Only the signatures differ, because ECDSA draws a fresh nonce for each.

The bundle appears whole and verified, or not at all. Whoever is interrupted leaves FILE.partial
beside it, which is of no use, and which the next sealing to that name replaces.";

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
    /// Record so many answers of the model: the logits that it computes here, or its vectors.  Each site computes them
    /// again before it serves, and refuses a model that does not.  This loads the model.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    known_answers: Option<u16>,
    /// How far a backend's numbers may differ from these, as in cpu=0.05 or cuda=0.25; may be given for several.
    #[arg(long, value_name = "BACKEND=DIFFERENCE", requires = "known_answers", value_parser = parse_tolerance)]
    tolerance: Vec<(String, u64)>,
    /// Quantise the matrices of a folder of safetensors (F32, F16 or BF16): they become GGUF's blocks, in one file
    /// model.gguf, which the folder's config.json goes on to describe.  Of q4_k and q5_k half of the attention's values and
    /// of the feed-forward's outputs, and the output, take q6_k, as in llama.cpp's Q4_K_M and Q5_K_M.  An encoder takes q8_0.
    #[arg(long, value_enum, value_name = "FORMAT")]
    quantize: Option<BlockFormat>,
    #[command(flatten)]
    statement: Statement,
}

pub(super) fn run(arguments: &Arguments, output: Output) -> Result<(), SealingError> {
    let adapter = arguments.adapter_of.as_deref().map(binding_to).transpose()?;
    let recording = arguments.known_answers.map(|answers| {
        let mut recording = Recording::of(answers.into());
        recording.tolerance_millionths.extend(arguments.tolerance.iter().cloned());
        recording
    });
    let sealed =
        arguments.statement.seal(&arguments.from, &arguments.leave_out, adapter, recording, arguments.quantize)?;
    output.print(&sealed.text, &sealed.json)
}

/// A backend's name and a difference of logits, which is stated in millionths.
fn parse_tolerance(text: &str) -> Result<(String, u64), String> {
    let wanted = "a backend and a difference above 0, as in cpu=0.05";
    let (backend, difference) = text.split_once('=').ok_or(wanted)?;
    let difference: f64 = difference.parse().map_err(|_| wanted)?;
    let is_name = !backend.is_empty() && backend.bytes().all(|byte| byte.is_ascii_lowercase());
    if !is_name || !(1e-6..=1e3).contains(&difference) {
        return Err(wanted.to_owned());
    }
    // At most a thousand million, which fits.
    Ok((backend.to_owned(), (difference * 1e6).round() as u64))
}
