//! How fast products with floating-point weights are, beside what the processor could do: the peak of its arithmetic in
//! single precision, from registers alone, and the rate at which it reads memory, both measured in between.
//!
//! `cargo bench -p ampoule-kernels --bench float_products -- [threads] [format]`

use std::hint::black_box;
use std::num::NonZero;
use std::time::Instant;

use ampoule_kernels::{Activations, Buffer, Format, Packed, Packing, Processor, Product, Target};

/// More than any cache holds.
const WEIGHT_BYTES: usize = 640 << 20;
/// How long a round is at least.
const ROUND_SECONDS: f64 = 0.002;
/// The fastest of so many rounds is told: whatever else a machine does makes a round slower, and nothing makes it faster.
const ROUNDS: usize = 48;
/// Unless they take longer than this together.
const MOST_SECONDS: f64 = 1.5;
/// After how many rounds the rate of reading is measured anew.
const ROUNDS_PER_READ: usize = 12;

/// Inputs, outputs, and how many rows.
type Shape = (usize, usize, &'static [usize]);

/// Layers of a decoder: the weights come from memory.
const DECODER: [Shape; 2] = [(2048, 8192, &[1, 2, 4, 8, 16, 64, 512]), (8192, 8192, &[1, 2, 4, 8, 16, 64, 512])];
/// Layers of MiniLM: the weights of one matrix stay in a cache.
const ENCODER: [Shape; 4] = [
    (384, 1152, &[1, 4, 16, 128, 4096]),
    (384, 384, &[1, 4, 16, 128, 4096]),
    (384, 1536, &[1, 4, 16, 128, 4096]),
    (1536, 384, &[1, 4, 16, 128, 4096]),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let chosen = |name: &str, numeric: bool| {
        arguments
            .iter()
            .filter(|argument| argument.parse::<usize>().is_ok() == numeric)
            .all(|argument| argument == name)
    };
    let mut memory = Buffer::zeroed(WEIGHT_BYTES);
    memory.fill(1);
    for threads in [1, 2].into_iter().filter(|threads: &usize| chosen(&threads.to_string(), true)) {
        let processor = Processor::new(NonZero::new(threads).expect("at least one")).expect("threads start");
        println!("{threads} threads, {}: {:.0} GFLOP/s", processor.isa, processor.peak_of_floats() / 1e9);
        println!("format   inputs outputs   rows   GFLOP/s  of peak      GB/s  of read   filling");
        for format in [Format::F32, Format::F16, Format::BF16] {
            if !chosen(&format!("{format:?}"), false) {
                continue;
            }
            for (inputs, outputs, rows) in DECODER {
                let count = WEIGHT_BYTES.div_ceil(format.row_bytes(inputs) * outputs);
                let weights: Vec<Packed> = (0..count).map(|_| matrix(format, inputs, outputs)).collect();
                rows.iter().for_each(|&rows| report(&processor, &memory, &weights, rows));
            }
            for (inputs, outputs, rows) in ENCODER {
                let weights = [matrix(format, inputs, outputs)];
                rows.iter().for_each(|&rows| report(&processor, &memory, &weights, rows));
            }
        }
    }
}

/// Weights whose values change no speed; some rows stand for all.
fn matrix(format: Format, inputs: usize, outputs: usize) -> Packed {
    let mut packing = Packing::new(format, outputs, inputs);
    let number = |index: usize| ((index * 7919) % 2003) as f32 / 1000.0 - 1.0;
    let rows: Vec<Vec<u8>> = (0..7)
        .map(|row| {
            let numbers = (0..inputs).map(|input| number(row * inputs + input));
            match format {
                Format::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
                Format::F16 => numbers.flat_map(|number| half::f16::from_f32(number).to_le_bytes()).collect(),
                _ => numbers.flat_map(|number| half::bf16::from_f32(number).to_le_bytes()).collect(),
            }
        })
        .collect();
    (0..outputs).for_each(|output| packing.put(output, &rows[output % rows.len()]));
    packing.finish()
}

fn report(processor: &Processor, memory: &[u8], weights: &[Packed], rows: usize) {
    let (format, inputs, outputs) = (weights[0].format(), weights[0].inputs(), weights[0].outputs());
    let forms = [format.form()].into_iter().collect();
    let mut activations = Activations::default();
    let values: Vec<f32> = (0..inputs).map(|input| (input % 13) as f32 - 6.0).collect();
    let mut target = vec![0.0; rows * outputs];
    let (mut peak, mut read, mut rate, mut filling): (f64, f64, f64, f64) = (0.0, 0.0, 0.0, 0.0);
    let mut next = weights.iter().cycle();
    let mut spent = 0.0;
    for round in 0..ROUNDS {
        if spent > MOST_SECONDS {
            break;
        }
        peak = peak.max(processor.peak_of_floats());
        if round % ROUNDS_PER_READ == 0 {
            read = read.max(processor.read_bandwidth(memory));
        }
        let (mut fills, mut products, mut count) = (0.0, 0.0, 0.0);
        while products < ROUND_SECONDS {
            let start = Instant::now();
            activations.fill(processor, forms, rows, inputs, |_, row| row.copy_from_slice(&values));
            let filled = Instant::now();
            let weights = next.next().expect("there are weights");
            let target = Target::Set(&mut target);
            processor.multiply(&activations, &mut [Product { weights, target }]);
            products += filled.elapsed().as_secs_f64();
            fills += (filled - start).as_secs_f64();
            count += 1.0;
        }
        black_box(&target);
        spent += fills + products;
        if count / products > rate {
            (rate, filling) = (count / products, fills / products);
        }
    }
    let flops = rate * (2 * rows * inputs * outputs) as f64;
    let bytes = rate * weights[0].bytes() as f64;
    println!(
        "{:<8} {inputs:>6} {outputs:>7} {rows:>6} {:>9.1} {:>7.1}% {:>9.1} {:>7.1}% {:>8.1}%",
        format!("{format:?}"),
        flops / 1e9,
        100.0 * flops / peak,
        bytes / 1e9,
        100.0 * bytes / read,
        100.0 * filling
    );
}
