//! `ampoule bench`: how fast a sealed model computes on this host.

use std::path::PathBuf;

use ampoule_bundle::{Footprint, MemoryPart, VerifiedBundle};
use ampoule_inference::model::ModelError;
use ampoule_inference::scheduler::BLOCK_TOKENS;
use ampoule_inference::{EngineConfig, HostLimits, InferenceError};
use clap::Args;
use clap::error::ErrorKind;

use super::arguments::ConfigArguments;
use super::output::Output;
use crate::admission::Admission;
use crate::bench::{self, Measured, Plan};
use crate::boot;
use crate::config::{AdmissionConfig, LogFormat, LogLevel, RuntimeConfig};
use crate::error::Error;
use crate::exit::Exit;
use crate::identity::{DecryptionIdentities, IdentityFile};
use crate::progress::Progress;
use crate::{telemetry, trust};

const EXAMPLES: &str = "\
Examples:
  ampoule bench model.bundle --trust-root root.json
  ampoule bench model.bundle --trust-root root.json --set inference.threads=4
  ampoule bench model.bundle --trust-root root.json --prompt 2048 --generate 64 --batch 1,8,32 --json

Loads the bundle as `ampoule serve` does, with every signature, digest and known answer checked, and
times its work alone: a prompt, and answers of one and of several requests at a time, in turns, so
that a busy host disturbs all of them alike. Beside each figure stands the fraction of what this host
does at most, measured in the same run: of its memory's bandwidth for answers, of its arithmetic for
prompts. That takes 1 GiB of memory beside the model's. Serves nothing and changes nothing. Exits as
`ampoule self-test` does, and with 2 where a prompt and an answer are longer than the context.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The sealed bundle to measure, whatever the configuration serves.
    #[arg(value_name = "BUNDLE")]
    candidate: PathBuf,
    /// The length of the prompt, in tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    prompt: u32,
    /// The length of each answer, in tokens.
    #[arg(long, value_name = "TOKENS", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    generate: u32,
    /// How many answers at a time, each in turn.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 4, 8, 16], value_parser = clap::value_parser!(u32).range(1..=256))]
    batch: Vec<u32>,
    /// How often each is measured; the median is told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) fn run(arguments: &Arguments, output: &mut Output) -> Result<Exit, Error> {
    telemetry::start(LogLevel::Warn, LogFormat::Text);
    let layers = arguments.config.layers()?;
    let config = AdmissionConfig::require(&layers.merge())?;
    let [prompt, generate, rounds] = [arguments.prompt, arguments.generate, arguments.rounds].map(|n| n as usize);
    let batches = arguments.batch.iter().map(|&sequences| sequences as usize).collect();
    let plan = Plan { prompt, generate, batches, rounds };
    let root = trust::open_for_serving(&config.trust_root, &config.supplements)?.0;
    let admission = Admission::of_site(&config)?;
    let name = arguments.candidate.display().to_string();
    let identity = IdentityFile::open(config.decryption_identity.as_deref())?;
    let verified = boot::verify(boot::open_bundle(&arguments.candidate)?, &root, &name)?;
    let verified = DecryptionIdentities::of(identity.as_ref())?.unlock(verified, &name)?;
    let admission = admission.with_footprint(foresee(&verified, &plan).ok());
    let admitted = admission.admit_model(verified, &name)?;
    let settled = boot::settle(&layers, admitted.release(), |path| admitted.file(path))?;
    let ready = boot::prove(admitted, &RuntimeConfig::limits(&settled), &name)?;
    let model = format!("{} {}", ready.identity().name, ready.identity().version);
    let refused = |source| Error::from_inference(&name, source);
    let progress = Progress::of_steps("Measuring", plan.steps() as u64);
    let measured = bench::measure(ready, &plan, || progress.advance(1));
    progress.finish();
    let measured = match measured {
        Err(InferenceError::Model(ModelError::ContextExceeded { found, limit })) => return too_long(found, limit),
        measured => measured.map_err(refused)?,
    };
    if arguments.json {
        output.line(format_args!("{:#}", serde_json::json!(measured)))?;
    } else {
        tell(&model, &measured, output)?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

/// Foresees what the model of a verified bundle takes while it is measured: keys and values for the plan's sequences, in the
/// place of those for requests, and what the memory's bandwidth is measured with.
fn foresee(verified: &VerifiedBundle, plan: &Plan) -> Result<Footprint, InferenceError> {
    let (sequences, tokens) = (plan.sequences(), plan.prompt + plan.generate);
    let engine = EngineConfig {
        max_running: sequences,
        token_budget: sequences * tokens.next_multiple_of(BLOCK_TOKENS),
        draft_tokens: 0,
        ..EngineConfig::default()
    };
    let mut footprint = ampoule_inference::footprint(verified, Some(tokens), &engine)?;
    for part in &mut footprint.0 {
        // The plan decides here, not the limits of serving.
        part.lowered_by = part.lowered_by.map(|setting| match setting {
            "limits.running_requests" => "--batch",
            "limits.token_budget" => "--batch, --prompt, --generate",
            _ => "--prompt, --generate",
        });
    }
    let (what, bytes) = ("memory to measure the bandwidth with", HostLimits::MEMORY_BYTES as u64);
    footprint.0.push(MemoryPart { what, bytes, lowered_by: None });
    Ok(footprint)
}

/// Refuses a command line that asks for more than a sequence may have here.
fn too_long(found: usize, limit: usize) -> Result<Exit, Error> {
    let reason = format!(
        "--prompt and --generate are {found} tokens together, but a request has at most {limit} here: lower one of them"
    );
    super::tell(&super::command().error(ErrorKind::ValueValidation, reason))
}

fn tell(model: &str, measured: &Measured, output: &mut Output) -> Result<(), Error> {
    let Measured { threads, instructions, peaks, prefill, decode, peak_memory_bytes } = measured;
    output.line(format_args!("{model} on {threads} threads with {instructions}"))?;
    let [bandwidth, bytes, floats] =
        [peaks.read_bytes_per_second, peaks.int8_operations_per_second, peaks.f32_operations_per_second]
            .map(|per_second| per_second / 1e9);
    output.line(format_args!(
        "  this host    reads {bandwidth:.1} GB/s, computes {bytes:.0} Gop/s on bytes and {floats:.0} on floats"
    ))?;
    let (rate, share) = (prefill.tokens_per_second, 100.0 * prefill.fraction_of_peak);
    output.line(format_args!(
        "  prompt       {} tokens: {rate:.1} tokens/s, {share:.0} % of the arithmetic",
        prefill.tokens
    ))?;
    for answers in decode {
        let (rate, share) = (answers.tokens_per_second, 100.0 * answers.fraction_of_bandwidth);
        let each = rate / answers.sequences as f64;
        output.line(format_args!(
            "  {:2} at a time  {} tokens: {rate:.1} tokens/s, {each:.1} each, weights at {share:.0} % of the bandwidth",
            answers.sequences, answers.tokens
        ))?;
    }
    if let Some(bytes) = peak_memory_bytes {
        output.line(format_args!("  memory       {:.2} GiB at most", *bytes as f64 / f64::from(1 << 30)))?;
    }
    Ok(())
}
