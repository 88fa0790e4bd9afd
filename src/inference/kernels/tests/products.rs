//! Products against the plain sum over the numbers that the weights stand for, at odd sizes, for every format and every
//! instruction set: within the rounding of the rows' own form, and to the bit the same for any crowd and number of threads.

use std::num::NonZero;

use ampoule_kernels::{Activations, Form, Format, Isa, Packed, Packing, Pool, Processor, Product, Target};
use proptest::prelude::*;

mod decoder;

const FORMATS: [Format; 9] = [
    Format::F32,
    Format::F16,
    Format::BF16,
    Format::Q4_0,
    Format::Q5_0,
    Format::Q8_0,
    Format::Q4_K,
    Format::Q5_K,
    Format::Q6_K,
];

fn processor(isa: Isa, threads: usize) -> Processor {
    Processor { isa, pool: Pool::new(NonZero::new(threads).expect("at least one")).expect("threads start") }
}

/// The bytes of a row with random numbers; scales are small and finite.
fn row_bytes(format: Format, inputs: usize, random: &mut impl FnMut() -> u32) -> Vec<u8> {
    let half = |random: &mut dyn FnMut() -> u32| {
        half::f16::from_f32(((random() % 2000) as f32 - 1000.0) / 50_000.0).to_le_bytes()
    };
    let block_bytes = format.row_bytes(format.block_inputs());
    let mut bytes = Vec::with_capacity(format.row_bytes(inputs));
    for _ in 0..inputs / format.block_inputs() {
        let number = ((random() % 2000) as f32 - 1000.0) / 1000.0;
        match format {
            Format::F32 => bytes.extend(number.to_le_bytes()),
            Format::F16 => bytes.extend(half::f16::from_f32(number).to_le_bytes()),
            Format::BF16 => bytes.extend(half::bf16::from_f32(number).to_le_bytes()),
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => {
                bytes.extend(half(random));
                bytes.extend((2..block_bytes).map(|_| random() as u8));
            }
            Format::Q4_K | Format::Q5_K => {
                bytes.extend(half(random));
                bytes.extend(half(random));
                bytes.extend((4..block_bytes).map(|_| random() as u8));
            }
            Format::Q6_K => {
                bytes.extend((2..block_bytes).map(|_| random() as u8));
                bytes.extend(half(random));
            }
        }
    }
    bytes
}

fn generator(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    }
}

fn matrix(format: Format, outputs: usize, inputs: usize, random: &mut impl FnMut() -> u32) -> Packed {
    let mut packing = Packing::new(format, outputs, inputs);
    for output in (0..outputs).rev() {
        packing.put(output, &row_bytes(format, inputs, random));
    }
    packing.finish()
}

fn product(processor: &Processor, weights: &Packed, rows: &[Vec<f32>]) -> Vec<f32> {
    let mut activations = Activations::default();
    let forms = [weights.format().form()].into_iter().collect();
    let fill = |index: usize, into: &mut [f32]| into.copy_from_slice(&rows[index]);
    activations.fill(processor, forms, rows.len(), weights.inputs(), fill);
    let mut target = vec![f32::NAN; rows.len() * weights.outputs()];
    let mut products = [Product { weights, target: Target::Set(&mut target) }];
    processor.multiply(&activations, &mut products);
    let mut products = [Product { weights, target: Target::Add(&mut target) }];
    processor.multiply(&activations, &mut products);
    target.iter().map(|sum| sum / 2.0).collect()
}

/// How far a product may be off, relative to the sum of the magnitudes of what is summed.
fn tolerance(form: Form) -> f64 {
    match form {
        Form::Single => 1e-6,
        Form::Brain => 1.0 / 256.0,
        Form::Bytes32 | Form::Bytes256 => 1.0 / 127.0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_are_right_and_the_same_in_any_crowd(
        seed: u64,
        format in prop::sample::select(&FORMATS[..]),
        outputs in 1_usize..70,
        blocks in 1_usize..9,
        crowd in 1_usize..150,
    ) {
        let mut random = generator(seed);
        let inputs = match format.block_inputs() {
            1 => 7 * blocks * blocks + 1,
            block => block * blocks,
        };
        let weights = matrix(format, outputs, inputs, &mut random);
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for _ in 0..crowd {
            rows.push((0..inputs).map(|_| ((random() % 2001) as f32 - 1000.0) / 300.0).collect());
        }
        rows[0].fill(0.0);

        let alone = product(&processor(Isa::available()[0], 1), &weights, &rows);
        let mut numbers = vec![0.0; inputs];
        for (row, found) in rows.iter().zip(alone.chunks(outputs)) {
            for (output, found) in found.iter().enumerate() {
                weights.row(output, &mut numbers);
                let terms = || numbers.iter().zip(row).map(|(w, a)| f64::from(*w) * f64::from(*a));
                let (expected, magnitude): (f64, f64) = (terms().sum(), terms().map(f64::abs).sum());
                let allowed = tolerance(format.form()) * magnitude + 1e-6;
                prop_assert!((f64::from(*found) - expected).abs() <= allowed, "{found} for {expected} of {magnitude}");
            }
        }
        for isa in Isa::available() {
            for threads in [1, 3] {
                let processor = processor(isa, threads);
                let crowded = product(&processor, &weights, &rows);
                prop_assert_eq!(bits(&alone), bits(&crowded), "{} with {} threads", isa, threads);
            }
            let single = product(&processor(isa, 1), &weights, &rows[crowd - 1..]);
            prop_assert_eq!(bits(&alone[(crowd - 1) * outputs..]), bits(&single), "{} alone", isa);
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_row_holds_the_numbers_of_the_file_whatever_came_first() {
    for format in FORMATS {
        let mut random = generator(7);
        let (outputs, inputs) = (37, 3 * format.block_inputs());
        let rows: Vec<Vec<u8>> = (0..outputs).map(|_| row_bytes(format, inputs, &mut random)).collect();
        let mut packing = Packing::new(format, outputs, inputs);
        let mut order: Vec<usize> = (0..outputs).collect();
        order.sort_by_key(|output| output * 17 % outputs);
        for output in order {
            packing.put(output, &rows[output]);
        }
        let packed = packing.finish();
        // Rows of single numbers are filled up to whole vectors.
        if format.block_inputs() > 1 {
            assert_eq!(packed.bytes(), outputs.next_multiple_of(16) * format.row_bytes(inputs), "{format:?}");
        }
        let mut found = vec![f32::NAN; inputs];
        for (output, row) in rows.iter().enumerate() {
            packed.row(output, &mut found);
            assert_eq!(bits(&found), bits(&decoder::decode(format, row)), "{format:?}, row {output}");
        }
    }
}
