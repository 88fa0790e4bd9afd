//! Measures how fast a model computes on this host: prompts, answers, and answers to several at once, each beside what the
//! host does at most.  It is how a site sizes its hardware before it serves anyone.

use std::time::Instant;

use ampoule_inference::{HostLimits, InferenceError, ReadyModel};
use serde::Serialize;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The length of the prompt, in tokens.
    pub prompt: usize,
    /// The length of the answer, in tokens.
    pub generate: usize,
    /// How many answers at once, each in turn.
    pub batches: Vec<usize>,
    /// How often each is measured; the median is told.
    pub rounds: usize,
}

impl Plan {
    /// How many answers there are at once, at most.
    pub fn sequences(&self) -> usize {
        self.batches.iter().copied().max().unwrap_or(1)
    }

    /// How many pieces of work there are, each of which is told.
    pub fn steps(&self) -> usize {
        self.sequences() + self.rounds * (1 + self.batches.len())
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Threads that computed.
    pub threads: usize,
    /// Their vector instructions.
    pub instructions: &'static str,
    /// What the host does at most.
    pub peaks: Peaks,
    /// A prompt.
    pub prefill: Prefill,
    /// Answers, by how many at once.
    pub decode: Vec<Decode>,
    /// The most memory that the process has had for the model and its work, in bytes.
    pub peak_memory_bytes: Option<u64>,
}

/// What the host does at most.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peaks {
    /// Bytes a second when memory is read and nothing is done with it.
    pub read_bytes_per_second: f64,
    /// Multiplications and additions a second of bytes that are in registers.
    pub int8_operations_per_second: f64,
    /// The same of numbers in single precision.
    pub f32_operations_per_second: f64,
}

/// How fast a prompt is computed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Prefill {
    /// Its length.
    pub tokens: usize,
    /// The median.
    pub tokens_per_second: f64,
    /// How long the products with weights take where arithmetic is at its peak, as a fraction of how long the prompt took.
    /// More than 1 is possible for bfloat16, of which some processors multiply pairs.
    pub fraction_of_peak: f64,
}

/// How fast answers are computed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Decode {
    /// How many at once.
    pub sequences: usize,
    /// The length of each.
    pub tokens: usize,
    /// The median, of all together.
    pub tokens_per_second: f64,
    /// What is read of weights, keys and values apart, as a fraction of the bandwidth.
    pub fraction_of_bandwidth: f64,
}

/// Measures a model.  `progress` is told each time that a piece of the plan's work was done.
///
/// # Errors
/// As [`ReadyModel::benchmark`], before anything is computed.
pub fn measure(model: ReadyModel, plan: &Plan, progress: impl Fn()) -> Result<Measured, InferenceError> {
    let mut benchmark = model.benchmark(plan.sequences(), plan.prompt, plan.generate)?;
    // Every prompt once beforehand: what answers attend to is in memory then, and the processor is awake.
    for sequence in 0..plan.sequences() {
        benchmark.prefill(sequence)?;
        progress();
    }
    let mut limits = Vec::new();
    let mut prefill = Vec::new();
    let mut decode: Vec<Vec<f64>> = vec![Vec::new(); plan.batches.len()];
    let mut peak_memory = None;
    for round in 0..plan.rounds {
        // The host may be busy at times: what is compared is measured in turns.
        prefill.push(rate(plan.prompt, || benchmark.prefill(0))?);
        progress();
        for (index, &sequences) in plan.batches.iter().enumerate() {
            decode[index].push(rate(sequences * plan.generate, || benchmark.decode(sequences))?);
            progress();
        }
        if round == 0 {
            // To measure the host takes memory, too, which is none of the model's.
            peak_memory = peak_memory_bytes();
        }
        limits.push(benchmark.limits());
    }
    let of_rounds = |value: fn(&HostLimits) -> f64| median(limits.iter().map(value).collect());
    let limits = HostLimits {
        read_bytes_per_second: of_rounds(|limits| limits.read_bytes_per_second),
        byte_operations_per_second: of_rounds(|limits| limits.byte_operations_per_second),
        float_operations_per_second: of_rounds(|limits| limits.float_operations_per_second),
    };
    let prompt_rate = median(prefill);
    let fraction_of_peak = benchmark.least_prefill_seconds(&limits) * prompt_rate / plan.prompt as f64;
    let decode = plan.batches.iter().zip(decode).map(|(&sequences, rates)| {
        let tokens_per_second = median(rates);
        let steps_per_second = tokens_per_second / sequences as f64;
        let bytes_per_second = steps_per_second * benchmark.bytes_per_step() as f64;
        let fraction_of_bandwidth = bytes_per_second / limits.read_bytes_per_second;
        Decode { sequences, tokens: plan.generate, tokens_per_second, fraction_of_bandwidth }
    });
    Ok(Measured {
        threads: benchmark.threads(),
        instructions: benchmark.instructions(),
        peaks: Peaks {
            read_bytes_per_second: limits.read_bytes_per_second,
            int8_operations_per_second: limits.byte_operations_per_second,
            f32_operations_per_second: limits.float_operations_per_second,
        },
        prefill: Prefill { tokens: plan.prompt, tokens_per_second: prompt_rate, fraction_of_peak },
        decode: decode.collect(),
        peak_memory_bytes: peak_memory,
    })
}

/// How many tokens a second some work is.
fn rate(tokens: usize, work: impl FnOnce() -> Result<(), InferenceError>) -> Result<f64, InferenceError> {
    let start = Instant::now();
    work()?;
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => 0.0,
        (0, Some(upper)) => (values[middle - 1] + upper) / 2.0,
        (_, Some(&value)) => value,
    }
}

/// The most memory that the process has had, as the kernel counts it; `None` where it does not tell.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_of_work_is_told_once() {
        let plan = Plan { prompt: 8, generate: 4, batches: vec![1, 8, 2], rounds: 5 };
        assert_eq!((plan.sequences(), plan.steps()), (8, 8 + 5 * 4));
    }

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_has_had_some_memory() {
        assert!(peak_memory_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
