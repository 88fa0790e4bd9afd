//! Measures how fast a model computes on this host: prompts, answers, and answers to several at once, each beside what the
//! host does at most.  It is how a site sizes its hardware before it serves anyone.

use std::time::Instant;

use ampoule_inference::{Benchmark, HostLimits, InferenceError};
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
    /// The most memory that the process has had, in bytes.
    pub peak_memory_bytes: Option<u64>,
}

/// What the host does at most.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Peaks {
    /// Bytes a second when weights are read and nothing is done with them.
    pub read_bytes_per_second: f64,
    /// Multiplications and additions a second of bytes that are in registers.
    pub int8_operations_per_second: f64,
}

/// How fast a prompt is computed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Prefill {
    /// Its length.
    pub tokens: usize,
    /// The median.
    pub tokens_per_second: f64,
    /// The products' operations, as a fraction of the peak.
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
    /// What is read of weights, as a fraction of the bandwidth.
    pub fraction_of_bandwidth: f64,
}

/// Measures a model.  `progress` is told each time that something was measured.
///
/// # Errors
/// A prompt and an answer that are longer than the model's context.
pub fn measure(benchmark: &mut Benchmark, plan: &Plan, progress: impl Fn()) -> Result<Measured, InferenceError> {
    // Once beforehand, so that memory is touched and the processor awake.
    benchmark.prefill(plan.prompt)?;
    let mut limits = Vec::new();
    let mut prefill = Vec::new();
    let mut decode: Vec<Vec<f64>> = vec![Vec::new(); plan.batches.len()];
    for _ in 0..plan.rounds {
        // The host may be busy at times: what is compared is measured in turns.
        limits.push(benchmark.limits());
        prefill.push(rate(plan.prompt, || benchmark.prefill(plan.prompt))?);
        progress();
        for (index, &sequences) in plan.batches.iter().enumerate() {
            let answer = || benchmark.decode(sequences, plan.prompt, plan.generate);
            decode[index].push(rate(sequences * plan.generate, answer)?);
            progress();
        }
    }
    let of_limits = |value: fn(&HostLimits) -> f64| median(limits.iter().map(value).collect());
    let peaks = Peaks {
        read_bytes_per_second: of_limits(|limits| limits.read_bytes_per_second),
        int8_operations_per_second: of_limits(|limits| limits.byte_operations_per_second),
    };
    let prompt_rate = median(prefill);
    let fraction_of_peak = prompt_rate * benchmark.operations_per_token() as f64 / peaks.int8_operations_per_second;
    let decode = plan.batches.iter().zip(decode).map(|(&sequences, rates)| {
        let tokens_per_second = median(rates);
        let steps_per_second = tokens_per_second / sequences as f64;
        let bytes_per_second = steps_per_second * benchmark.bytes_per_token() as f64;
        let fraction_of_bandwidth = bytes_per_second / peaks.read_bytes_per_second;
        Decode { sequences, tokens: plan.generate, tokens_per_second, fraction_of_bandwidth }
    });
    Ok(Measured {
        threads: benchmark.threads(),
        instructions: benchmark.instructions(),
        peaks,
        prefill: Prefill { tokens: plan.prompt, tokens_per_second: prompt_rate, fraction_of_peak },
        decode: decode.collect(),
        peak_memory_bytes: peak_memory_bytes(),
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
