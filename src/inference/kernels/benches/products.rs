//! How near the products come to what the processor can do: each format at few and at many rows, beside the peak of byte
//! products and the bandwidth of memory, which are measured in the same run.
//!
//! `cargo bench --package ampoule-kernels -- [--isa NAME] [--threads N] [--inputs N] [--rows N,N...] [FORMAT]...`

use std::num::NonZero;
use std::time::{Duration, Instant};

use ampoule_kernels::{Activations, Format, Isa, Packed, Packing, Pool, Processor, Product, Target};

const FORMATS: [Format; 6] = [Format::Q4_0, Format::Q5_0, Format::Q8_0, Format::Q4_K, Format::Q5_K, Format::Q6_K];

/// The weights are several matrices of this size, each measured by itself and the best told: what else the machine does
/// slows one down, never speeds it up, and spares a short one sooner than a long one.
const MATRIX_BYTES: usize = 16 << 20;
/// All of them are more than any cache holds, so that each comes from memory again.
const ALL_BYTES: usize = 640 << 20;
/// With many rows the arithmetic counts alone, and a few outputs take as long.
const MANY_ROWS: usize = 16;
const MANY_ROWS_OUTPUTS: usize = 256;
const ROUNDS: usize = 3;

struct Options {
    isa: Isa,
    threads: NonZero<usize>,
    inputs: usize,
    rows: Vec<usize>,
    formats: Vec<Format>,
}

fn main() {
    let options = options();
    let pool = Pool::new(options.threads).expect("threads start");
    let processor = Processor { isa: options.isa, pool };
    println!("{}, {} threads, {} inputs", options.isa, options.threads, options.inputs);
    for &format in &options.formats {
        println!("{format:?}");
        let outputs = MATRIX_BYTES / format.row_bytes(options.inputs) / 16 * 16;
        let few = matrices(format, outputs, options.inputs, ALL_BYTES / MATRIX_BYTES);
        let many = matrices(format, MANY_ROWS_OUTPUTS, options.inputs, 8);
        for &rows in &options.rows {
            report(&processor, if rows < MANY_ROWS { &few } else { &many }, rows);
        }
    }
}

fn options() -> Options {
    let mut options = Options {
        isa: Isa::best(),
        threads: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
        inputs: 2048,
        rows: vec![1, 2, 4, 8, 16, 64, 512],
        formats: Vec::new(),
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option has a value");
        match argument.as_str() {
            "--isa" => options.isa = value().parse().expect("an instruction set of this processor"),
            "--threads" => options.threads = value().parse().expect("a number of threads"),
            "--inputs" => options.inputs = value().parse().expect("a number of inputs"),
            "--rows" => {
                options.rows = value().split(',').map(|rows| rows.parse().expect("a number of rows")).collect();
            }
            name => {
                let format = FORMATS.into_iter().find(|format| format!("{format:?}") == name);
                options.formats.push(format.expect("the name of a format"));
            }
        }
    }
    if options.formats.is_empty() {
        options.formats = FORMATS.to_vec();
    }
    options
}

/// Matrices of bytes that mean nothing: what they stand for changes no speed while it is numbers.
fn matrices(format: Format, outputs: usize, inputs: usize, count: usize) -> Vec<Packed> {
    let row: Vec<u8> = (0..format.row_bytes(inputs)).map(|byte| (byte * 37 % 59) as u8).collect();
    let mut best = Duration::MAX;
    let mut matrices = Vec::new();
    for _ in 0..count {
        let mut packing = Packing::new(format, outputs, inputs);
        for _ in 0..2 {
            // The first time touches the memory, which is not what packing costs.
            let start = Instant::now();
            for output in 0..outputs {
                packing.put(output, &row);
            }
            best = best.min(start.elapsed());
        }
        matrices.push(packing.finish());
    }
    println!("  packing: {:5.1} GB/s", matrices[0].bytes() as f64 / best.as_secs_f64() / 1e9);
    matrices
}

fn report(processor: &Processor, matrices: &[Packed], rows: usize) {
    let (inputs, outputs) = (matrices[0].inputs(), matrices[0].outputs());
    let mut activations = Activations::default();
    let forms = [matrices[0].format().form()].into_iter().collect();
    let row = |index: usize, into: &mut [f32]| {
        for (place, value) in into.iter_mut().enumerate() {
            *value = ((place * 31 + index * 17) % 101) as f32 - 50.0;
        }
    };
    activations.fill(processor, forms, rows, inputs, row);
    let mut target = vec![0.0; rows * outputs];
    let (mut seconds, mut peak, mut bandwidth) = (f64::INFINITY, 0_f64, 0_f64);
    for _ in 0..ROUNDS {
        for (index, weights) in matrices.iter().enumerate() {
            let start = Instant::now();
            processor.multiply(&activations, &mut [Product { weights, target: Target::Set(&mut target) }]);
            seconds = seconds.min(start.elapsed().as_secs_f64());
            // Another matrix is read, lest the product finds its own in a cache.
            bandwidth = bandwidth
                .max(processor.read_bandwidth(matrices[(index + matrices.len() / 2) % matrices.len()].memory()));
            peak = peak.max(processor.peak_of_bytes());
        }
    }
    let operations = 2.0 * (rows * inputs * outputs) as f64 / seconds;
    let bytes = matrices[0].bytes() as f64 / seconds;
    println!(
        "  {rows:3} rows: {:6.0} Gop/s, {:3.0} % of {:.0}; {:5.1} GB/s, {:3.0} % of {:.1}",
        operations / 1e9,
        100.0 * operations / peak,
        peak / 1e9,
        bytes / 1e9,
        100.0 * bytes / bandwidth,
        bandwidth / 1e9,
    );
}
