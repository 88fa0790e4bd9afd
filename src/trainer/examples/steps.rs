//! Our side of `conformance/benchmarks/trainer`: some optimizer steps of an adapter beside a Hugging Face folder, timed.
//!
//! The benchmark's script starts this with the path of a task and reads the JSON that it prints. The steps are
//! [`Learner::step`], the ones that `ampoule-trainer train` takes; only the data comes another way.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ampoule_inference::model::{Config, Decoder, Weights};
use ampoule_trainer::learner::Learner;
use ampoule_trainer::optimizer::AdamWSettings;
use ampoule_trainer::rows::Batch;
use ampoule_trainer::tuning::low_rank;
use candle_core::{Device, Tensor, Var, safetensors};
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Task {
    model: PathBuf,
    adapter: PathBuf,
    batches: PathBuf,
    rank: f64,
    alpha: f64,
    learning_rate: f64,
    clip_norm: f64,
    weight_decay: f64,
    warm: usize,
    steps: usize,
}

/// Rows of tokens, and each token once more where it is to be predicted, else a negative number.
#[derive(Deserialize)]
struct Labelled {
    tokens: Vec<Vec<u32>>,
    labels: Vec<Vec<i64>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("the path of a task is missing")?;
    let task: Task = read_json(Path::new(&path))?;
    let batches: Vec<Labelled> = read_json(&task.batches)?;
    let batches: Vec<Batch> = batches.iter().map(batch).collect();
    let mut learner = learner(&task)?;
    let (mut seconds, mut processor_seconds, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    for step in 0..task.warm + task.steps {
        let (started, used) = (Instant::now(), processor_time()?);
        losses.push(learner.step(&batches[step % batches.len()], task.learning_rate)?);
        seconds.push(started.elapsed().as_secs_f64());
        processor_seconds.push(processor_time()? - used);
    }
    let found = json!({
        "seconds": seconds[task.warm..],
        "processor_seconds": processor_seconds[task.warm..],
        "losses": losses,
        "peak_kib": peak_kib()?,
    });
    println!("{found}");
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Box<dyn Error>> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn learner(task: &Task) -> Result<Learner, Box<dyn Error>> {
    let config = Config::from_hugging_face(&std::fs::read(task.model.join("config.json"))?)?;
    let weights = safetensors::load(task.model.join("model.safetensors"), &Device::Cpu)?;
    let decoder = Decoder::new(config, Weights::from_tensors(weights.into_iter().collect())?)?;
    let variables: BTreeMap<String, Var> = safetensors::load(&task.adapter, &Device::Cpu)?
        .into_iter()
        .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)))
        .collect::<Result<_, candle_core::Error>>()?;
    let matrices: BTreeMap<String, Tensor> =
        variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
    let adapter = low_rank::adapter(decoder.config(), &matrices, task.alpha / task.rank)?;
    let settings = AdamWSettings { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: task.weight_decay };
    Ok(Learner::of_adapter(decoder, adapter, variables, settings, task.clip_norm)?)
}

/// A position learns where the token after it has a label.
fn batch(labelled: &Labelled) -> Batch {
    let row_tokens = labelled.tokens.first().map_or(0, Vec::len);
    let (mut positions, mut targets) = (Vec::new(), Vec::new());
    for (row, labels) in labelled.labels.iter().enumerate() {
        for (offset, &label) in labels.iter().skip(1).enumerate() {
            if let Ok(target) = u32::try_from(label) {
                positions.push((row * row_tokens + offset) as u32);
                targets.push(target);
            }
        }
    }
    Batch { rows: labelled.tokens.len(), row_tokens, inputs: labelled.tokens.concat(), positions, targets }
}

/// The time that processors have spent on this process, in seconds.
fn processor_time() -> Result<f64, Box<dyn Error>> {
    // The name of the process, in parentheses, may hold anything; user and system time are the 12th and 13th after it.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("the kernel does not tell the time of this process")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

/// The most memory that this process has held so far.
fn peak_kib() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the kernel does not tell VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
