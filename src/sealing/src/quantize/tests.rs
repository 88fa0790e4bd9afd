//! The quantisers beside llama.cpp's (`tests/fixtures/quantize/judge.py`), beside plain rounding, and at the ends of
//! what numbers can be.
#![allow(clippy::unwrap_used)]

use ampoule_bundle::Digest;
use proptest::prelude::*;
use serde::Deserialize;

use super::decode::decode;
use super::{BlockFormat, NotQuantizable};

const FORMATS: [BlockFormat; 5] =
    [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4K, BlockFormat::Q5K, BlockFormat::Q6K];

fn quantize(format: BlockFormat, values: &[f32]) -> Vec<u8> {
    let mut blocks = vec![0; values.len() / format.block_elements() * format.block_bytes()];
    format.quantize(values, &mut blocks).unwrap();
    blocks
}

fn round_trip(format: BlockFormat, values: &[f32]) -> Vec<f32> {
    decode(format, &quantize(format, values))
}

/// The mean of the squared errors, where each number weighs by a function of itself and the mean square of its 32.
fn error(values: &[f32], decoded: &[f32], weight: impl Fn(f64, f64) -> f64) -> f64 {
    let (mut errors, mut weights) = (0.0, 0.0);
    for (values, decoded) in values.chunks(32).zip(decoded.chunks(32)) {
        let values: Vec<f64> = values.iter().map(|&value| value.into()).collect();
        let mean_square = values.iter().map(|value| value * value).sum::<f64>() / 32.0;
        for (value, &decoded) in values.iter().zip(decoded) {
            let weight = weight(*value, mean_square);
            errors += weight * (value - f64::from(decoded)).powi(2);
            weights += weight;
        }
    }
    errors / weights
}

#[derive(Deserialize)]
struct Table {
    rows: usize,
    width: usize,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    format: String,
    distribution: String,
    ggml: Errors,
    ours: Errors,
    blocks: String,
    decoded: String,
}

#[derive(Deserialize)]
struct Errors {
    mean_squared: f64,
    weighted: f64,
}

/// The numbers that `judge.py` makes.
fn numbers(distribution: &str, count: usize) -> Vec<f32> {
    const DISTRIBUTIONS: [&str; 5] = ["normal", "heavy_tailed", "outliers", "positive", "small"];
    let mut state = DISTRIBUTIONS.iter().position(|known| *known == distribution).unwrap() as u64 + 1;
    let mut word = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let mut number = |at: usize| {
        let parts = [word(), word(), word()];
        let sum: i64 =
            parts.iter().flat_map(|word| (0..4).map(move |part| (word >> (16 * part) & 0xffff) as i64)).sum();
        let normal = (sum - 6 * 65_535) as f32 / 65_536.0;
        match distribution {
            "normal" => normal * 0.02,
            "heavy_tailed" => normal * normal * normal * 0.02,
            "outliers" => normal * if at % 61 == 7 { 0.4 } else { 0.02 },
            "positive" => normal.abs() * 0.02 + 0.01,
            _ => normal * 0.0002,
        }
    };
    (0..count).map(&mut number).collect()
}

#[test]
fn no_error_is_above_that_of_ggml_and_ggml_reads_the_blocks_alike() {
    let table: Table = serde_json::from_str(include_str!("../../tests/fixtures/quantize/ggml.json")).unwrap();
    assert_eq!(table.cases.len(), FORMATS.len() * 5);
    for case in &table.cases {
        let what = format!("{} {}", case.format, case.distribution);
        let format = <BlockFormat as clap::ValueEnum>::from_str(&case.format, false).unwrap();
        let values = numbers(&case.distribution, table.rows * table.width);
        let blocks = quantize(format, &values);
        assert_eq!(
            Digest::of(&blocks).to_string(),
            format!("sha256:{}", case.blocks),
            "{what}: judge these blocks anew"
        );
        let decoded = decode(format, &blocks);
        let bytes: Vec<u8> = decoded.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(Digest::of(&bytes).to_string(), format!("sha256:{}", case.decoded), "{what}: what ggml decodes");
        let plain = error(&values, &decoded, |_, _| 1.0);
        let weighted = match format {
            BlockFormat::Q8_0 | BlockFormat::Q4_0 => plain,
            BlockFormat::Q4K | BlockFormat::Q5K => error(&values, &decoded, |value, mean| mean.sqrt() + value.abs()),
            BlockFormat::Q6K => error(&values, &decoded, |value, _| value * value),
        };
        assert!(plain <= case.ggml.mean_squared && weighted <= case.ggml.weighted, "{what}: {plain} {weighted}");
        let near = |ours: f64, judged: f64| (ours / judged - 1.0).abs() < 1e-9;
        assert!(
            near(plain, case.ours.mean_squared) && near(weighted, case.ours.weighted),
            "{what}: {plain} {weighted}"
        );
    }
}

/// Plain rounding: the scale follows from the extreme numbers, and nothing is searched.
fn rounded_plainly(format: BlockFormat, values: &[f32]) -> Vec<f32> {
    let half = |value: f32| half::f16::from_f32(value).to_f32();
    let divide = |value: f32, by: f32| if by == 0.0 { 0.0 } else { value / by };
    let furthest = |values: &[f32]| values.iter().fold(0.0_f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let symmetric = |values: &[f32], scale: f32, most: f32| -> Vec<f32> {
        values.iter().map(|&v| scale * divide(v, scale).round_ties_even().clamp(-most, most - 1.0)).collect()
    };
    let affine = |most: f32| -> Vec<f32> {
        let grids: Vec<(f32, f32)> = values
            .chunks(32)
            .map(|part| {
                let least = part.iter().fold(0.0_f32, |least, &v| least.min(v));
                ((part.iter().fold(0.0_f32, |greatest, &v| greatest.max(v)) - least) / most, -least)
            })
            .collect();
        let scale = half(grids.iter().fold(0.0_f32, |most, grid| most.max(grid.0)) / 63.0);
        let minimum = half(grids.iter().fold(0.0_f32, |most, grid| most.max(grid.1)) / 63.0);
        let decoded = values.chunks(32).zip(grids).flat_map(|(part, grid)| {
            let scale = scale * divide(grid.0, scale).round_ties_even().clamp(0.0, 63.0);
            let minimum = minimum * divide(grid.1, minimum).round_ties_even().clamp(0.0, 63.0);
            part.iter().map(move |v| scale * divide(v + minimum, scale).round_ties_even().clamp(0.0, most) - minimum)
        });
        decoded.collect()
    };
    match format {
        BlockFormat::Q8_0 => unreachable!("it is rounding itself"),
        BlockFormat::Q4_0 => symmetric(values, half(furthest(values) / -8.0), 8.0),
        BlockFormat::Q4K => affine(15.0),
        BlockFormat::Q5K => affine(31.0),
        BlockFormat::Q6K => {
            let scales: Vec<f32> = values.chunks(16).map(|part| furthest(part) / -32.0).collect();
            let common = half(furthest(&scales) / -128.0);
            let decoded = values.chunks(16).zip(scales).flat_map(|(part, scale)| {
                symmetric(part, common * divide(scale, common).round_ties_even().clamp(-128.0, 127.0), 32.0)
            });
            decoded.collect()
        }
    }
}

/// A block's numbers: of any size that half precision can scale, with zeros and numbers of their own size among them.
fn block(elements: usize) -> impl Strategy<Value = Vec<f32>> {
    let number = prop_oneof![6 => -1.0_f32..1.0, 1 => Just(0.0), 1 => -30.0_f32..30.0];
    (proptest::collection::vec(number, elements), -20_i32..11, any::<bool>()).prop_map(|(values, power, positive)| {
        let sign = |value: f32| if positive { value.abs() } else { value };
        values.into_iter().map(|value| sign(value) * 2.0_f32.powi(power)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_block_is_worse_than_plain_rounding(values in block(256)) {
        // Q8_0 has one answer, and no search.
        for format in FORMATS.into_iter().filter(|format| *format != BlockFormat::Q8_0) {
            // By what the searches minimise; a part of Q6_K has 16 numbers.
            let part = if format == BlockFormat::Q6K { 16 } else { 32 };
            let weighted = |decoded: &[f32]| -> f64 {
                let parts = values.chunks(part).zip(decoded.chunks(part));
                parts.map(|(values, decoded)| {
                    let root = (values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / part as f64).sqrt();
                    let error = |(v, d): (&f32, &f32)| (root + f64::from(v.abs())) * f64::from(v - d).powi(2);
                    values.iter().zip(decoded).map(error).sum::<f64>()
                }).sum()
            };
            let (ours, plain) = (weighted(&round_trip(format, &values)), weighted(&rounded_plainly(format, &values)));
            prop_assert!(ours <= plain * (1.0 + 1e-4), "{format:?}: {ours} after {plain}");
        }
    }

    #[test]
    fn q8_0_is_off_by_half_a_step_at_most(values in block(32), smaller in -130_i32..1) {
        let values: Vec<f32> = values.iter().map(|value| value * 2.0_f32.powi(smaller)).collect();
        let blocks = quantize(BlockFormat::Q8_0, &values);
        let step = f64::from(half::f16::from_le_bytes([blocks[0], blocks[1]]).to_f32());
        // Below half the smallest scale's last step all numbers are zero.
        let least = f64::from(2.0_f32.powi(-25)) * 127.5;
        for (value, decoded) in values.iter().zip(decode(BlockFormat::Q8_0, &blocks)) {
            let off = (f64::from(*value) - f64::from(decoded)).abs();
            prop_assert!(off <= step * 0.500_01 || step == 0.0 && off <= least, "{value} as {decoded}, step {step}");
        }
    }

    #[test]
    fn numbers_of_a_grid_stay_what_they_are(
        quants in proptest::collection::vec(-8_i8..8, 32),
        scale in 0.001_f32..1.0,
    ) {
        let scale = half::f16::from_f32(scale).to_f32();
        prop_assume!(quants.contains(&-8));
        let values: Vec<f32> = quants.iter().map(|&quant| f32::from(quant) * scale).collect();
        prop_assert_eq!(round_trip(BlockFormat::Q4_0, &values), values);
    }
}

#[test]
fn zeros_stay_zeros_and_a_row_of_one_number_keeps_it() {
    for format in FORMATS {
        for zero in [0.0, -0.0, f32::from_bits(1), f32::MIN_POSITIVE, -1e-12] {
            let decoded = round_trip(format, &[zero; 512]);
            assert!(decoded.iter().all(|value| *value == 0.0), "{format:?}: {zero} as {:?}", &decoded[..4]);
        }
        for number in [1.0, -0.75, 60_000.0, -65_504.0, 0.001] {
            let decoded = round_trip(format, &[number; 256]);
            let off = |value: &f32| (value / number - 1.0).abs();
            assert!(decoded.iter().all(|value| off(value) < 0.01), "{format:?}: {number} as {:?}", &decoded[..4]);
        }
    }
}

#[test]
fn no_scale_overflows_and_what_would_spoil_a_block_is_refused() {
    let mut values: Vec<f32> = (0..256).map(|at| at as f32 - 128.0).collect();
    for format in FORMATS {
        for (greatest, refusal) in [
            (65_504.0, None),
            (-65_504.0, None),
            (65_505.0, Some(NotQuantizable::TooGreat)),
            (f32::MAX, Some(NotQuantizable::TooGreat)),
            (f32::INFINITY, Some(NotQuantizable::NotFinite)),
            (f32::NEG_INFINITY, Some(NotQuantizable::NotFinite)),
            (f32::NAN, Some(NotQuantizable::NotFinite)),
        ] {
            values[77] = greatest;
            let mut blocks = vec![0; 256 / format.block_elements() * format.block_bytes()];
            assert_eq!(format.quantize(&values, &mut blocks).err(), refusal, "{format:?} {greatest}");
            if refusal.is_none() {
                let decoded = decode(format, &blocks);
                assert!((decoded[77] / greatest - 1.0).abs() < 0.05, "{format:?}: {greatest} as {}", decoded[77]);
            }
        }
    }
}

#[test]
fn a_block_is_a_function_of_its_numbers_alone() {
    let values = numbers("heavy_tailed", 1024);
    for format in FORMATS {
        let whole = quantize(format, &values);
        let apart: Vec<u8> = values.chunks(256).flat_map(|block| quantize(format, block)).collect();
        assert_eq!(whole, apart, "{format:?}");
    }
}
