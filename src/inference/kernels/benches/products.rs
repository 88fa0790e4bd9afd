//! How near the products come to what the processor can do: each format at few and at many rows, beside the peak of byte
//! products and the bandwidth of memory, which are measured in the same run.
//!
//! `cargo bench --package ampoule-kernels -- [--isa NAME] [--threads N] [FORMAT]...`

use std::num::NonZero;
use std::time::{Duration, Instant};

use ampoule_kernels::{Activations, Format, Isa, Packed, Packing, Pool, Processor, Product, Target};

const FORMATS: [Format; 6] = [Format::Q4_0, Format::Q5_0, Format::Q8_0, Format::Q4_K, Format::Q5_K, Format::Q6_K];
/// More than any cache holds.
const FEW_ROWS_BYTES: usize = 640 << 20;
const FEW_ROWS: [usize; 4] = [1, 2, 4, 8];
const MANY_ROWS: [usize; 3] = [16, 64, 512];
const MANY_ROWS_OUTPUTS: usize = 8192;
const INPUTS: [usize; 2] = [2048, 8192];
/// The best of so many runs, or of all within this time, is told: what else the machine does makes a run slower, never
/// faster.
const LEAST_RUNS: usize = 3;
const LEAST_TIME: Duration = Duration::from_millis(300);

fn main() {
    let mut isa = Isa::best();
    let mut threads = std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN);
    let mut wanted: Vec<String> = Vec::new();
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option has a value");
        match argument.as_str() {
            "--isa" => isa = value().parse().expect("an instruction set of this processor"),
            "--threads" => threads = value().parse().expect("a number of threads"),
            _ => wanted.push(argument),
        }
    }
    let processor = Processor { isa, pool: Pool::new(threads).expect("threads start") };
    println!("{isa}, {threads} threads");
    for format in FORMATS {
        if wanted.is_empty() || wanted.contains(&format!("{format:?}")) {
            measure(&processor, format);
        }
    }
}

fn measure(processor: &Processor, format: Format) {
    for inputs in INPUTS {
        let row_bytes = format.row_bytes(inputs);
        let many = matrix(format, std::env::var("OUTPUTS").map_or(MANY_ROWS_OUTPUTS, |x| x.parse().unwrap()), inputs);
        for rows in FEW_ROWS.iter().filter(|_| std::env::var("OUTPUTS").is_ok()).chain(&MANY_ROWS).copied() {
            report(processor, &many, rows);
        }
        drop(many);
        if std::env::var("OUTPUTS").is_ok() { continue; }
        let few = matrix(format, FEW_ROWS_BYTES / row_bytes / 16 * 16, inputs);
        for rows in FEW_ROWS {
            report(processor, &few, rows);
        }
    }
}

/// Bytes of no meaning: what they stand for changes no speed, but for scales that are no numbers.
fn matrix(format: Format, outputs: usize, inputs: usize) -> Packed {
    let row: Vec<u8> = (0..format.row_bytes(inputs)).map(|byte| (byte * 37 % 59) as u8).collect();
    let start = Instant::now();
    let mut packing = Packing::new(format, outputs, inputs);
    for output in 0..outputs {
        packing.put(output, &row);
    }
    let cold = start.elapsed();
    let start = Instant::now();
    for output in 0..outputs {
        packing.put(output, &row);
    }
    let warm = start.elapsed();
    let packed = packing.finish();
    let speed = |time: std::time::Duration| packed.bytes() as f64 / time.as_secs_f64() / 1e9;
    println!("{format:?} × {inputs}: packed at {:.1} GB/s, again at {:.1} GB/s", speed(cold), speed(warm));
    packed
}

fn report(processor: &Processor, weights: &Packed, rows: usize) {
    let mut activations = Activations::default();
    let forms = [weights.format().form()].into_iter().collect();
    let row = |index: usize, into: &mut [f32]| {
        for (place, value) in into.iter_mut().enumerate() {
            *value = ((place * 31 + index * 17) % 101) as f32 - 50.0;
        }
    };
    activations.fill(processor, forms, rows, weights.inputs(), row);
    let mut target = vec![0.0; rows * weights.outputs()];
    let (mut seconds, mut peak, mut bandwidth) = (f64::INFINITY, 0_f64, 0_f64);
    let start = Instant::now();
    let mut runs = 0;
    while runs < LEAST_RUNS || start.elapsed() < LEAST_TIME {
        runs += 1;
        peak = peak.max(processor.peak_of_bytes());
        bandwidth = bandwidth.max(processor.read_bandwidth(weights));
        let start = Instant::now();
        processor.multiply(&activations, &mut [Product { weights, target: Target::Set(&mut target) }]);
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    let operations = 2.0 * (rows * weights.inputs() * weights.outputs()) as f64 / seconds;
    let bytes = weights.bytes() as f64 / seconds;
    println!(
        "  {rows:3} rows: {:6.0} Gop/s {:4.0} % of {:.0} | {:5.1} GB/s {:4.0} % of {:.1}",
        operations / 1e9,
        100.0 * operations / peak,
        peak / 1e9,
        bytes / 1e9,
        100.0 * bytes / bandwidth,
        bandwidth / 1e9,
    );
}
