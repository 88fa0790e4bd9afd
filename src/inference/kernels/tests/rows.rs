//! The functions on single rows against double precision, at every length up to a few vectors and some more, and to the
//! bit the same with every instruction set.

mod common;

use ampoule_kernels::{Isa, rows};
use common::{bits, numbers};

/// Computes a row of each length with every instruction set, and holds each number to what `exact` says of the row.
fn check(greatest: f32, compute: impl Fn(Isa, &[f32]) -> Vec<f32>, exact: impl Fn(&[f32]) -> Vec<f64>) {
    for length in (1..=70).chain([127, 128, 1000, 2048]) {
        let row = numbers(length as u64, length, greatest);
        let expected = exact(&row);
        let portable = compute(Isa::available()[0], &row);
        assert_eq!(portable.len(), expected.len());
        for (place, (found, expected)) in portable.iter().zip(&expected).enumerate() {
            let allowed = 2e-6 * expected.abs().max(1.0);
            let off = (f64::from(*found) - expected).abs();
            assert!(off <= allowed, "number {place} of {length}: {found} for {expected}");
        }
        for isa in Isa::available() {
            assert_eq!(bits(&compute(isa, &row)), bits(&portable), "{isa}, length {length}");
        }
    }
}

/// A function that changes the row itself.
fn changed(row: &[f32], change: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut row = row.to_vec();
    change(&mut row);
    row
}

fn other(row: &[f32]) -> Vec<f32> {
    numbers(1000 + row.len() as u64, row.len(), 2.0)
}

/// A function of each number and the one in its place in [`other`].
fn each(row: &[f32], function: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    row.iter().zip(other(row)).map(|(value, other)| function((*value).into(), other.into())).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[test]
fn norms_are_right() {
    let exact = |row: &[f32]| {
        let inverse = 1.0 / (mean(row.iter().map(|value| f64::from(*value).powi(2))) + 1e-5).sqrt();
        each(row, |value, weight| value * inverse * weight)
    };
    let compute = |isa, row: &[f32]| changed(row, |into| rows::rms_norm(isa, row, &other(row), 1e-5, into));
    check(3.0, compute, exact);
    check(3.0, |isa, row| changed(row, |into| rows::rms_norm_in_place(isa, into, &other(row), 1e-5)), exact);

    let compute = |isa, row: &[f32]| {
        let shifted: Vec<f32> = row.iter().map(|value| value + 1.5).collect();
        changed(row, |into| rows::layer_norm(isa, &shifted, &other(row), row, 1e-3, into))
    };
    check(3.0, compute, |row| {
        let values = || row.iter().map(|value| f64::from(value + 1.5));
        let mean_value = mean(values());
        let inverse = 1.0 / (mean(values().map(|value| (value - mean_value).powi(2))) + 1e-3).sqrt();
        let weighed = each(row, |value, weight| (f64::from((value + 1.5) as f32) - mean_value) * inverse * weight);
        weighed.iter().zip(row).map(|(value, bias)| value + f64::from(*bias)).collect()
    });
}

#[test]
fn sums_and_multiples_are_right() {
    let exact = |row: &[f32]| each(row, |value, other| value + other);
    check(3.0, |isa, row| changed(row, |into| rows::add(isa, into, &other(row))), exact);
    let exact = |row: &[f32]| each(row, |value, _| value * 0.3);
    check(3.0, |isa, row| changed(row, |into| rows::scale(isa, into, 0.3)), exact);
}

#[test]
fn caps_are_right() {
    let exact = |row: &[f32]| each(row, |value, _| 5.0 * (value / 5.0).tanh());
    check(40.0, |isa, row| changed(row, |into| rows::softcap(isa, into, 5.0)), exact);
}

/// By the series around zero; nothing is left of the complement beyond 5.
fn erf(value: f64) -> f64 {
    if value.abs() > 5.0 {
        return value.signum();
    }
    let (mut term, mut sum) = (value, value);
    for step in 1..150 {
        let step = f64::from(step);
        term *= -value * value / step;
        sum += term / (2.0 * step + 1.0);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn exact_gelu(value: f64) -> f64 {
    0.5 * value * (1.0 + erf(value * std::f64::consts::FRAC_1_SQRT_2))
}

#[test]
fn activations_are_right() {
    for greatest in [1.0, 12.0, 200.0] {
        let exact = |row: &[f32]| each(row, |gate, up| gate / (1.0 + (-gate).exp()) * up);
        let compute = |isa, row: &[f32]| changed(row, |into| rows::silu_times(isa, row, &other(row), into));
        check(greatest, compute, exact);
        let exact = |row: &[f32]| each(row, |gate, up| exact_gelu(gate) * up);
        let compute = |isa, row: &[f32]| changed(row, |into| rows::gelu_times(isa, row, &other(row), into));
        check(greatest, compute, exact);
        check(
            greatest,
            |isa, row| changed(row, |into| rows::gelu(isa, into)),
            |row| each(row, |gate, _| exact_gelu(gate)),
        );
        let exact = |row: &[f32]| {
            each(row, |gate, up| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
                0.5 * gate * (1.0 + inner.tanh()) * up
            })
        };
        let compute = |isa, row: &[f32]| changed(row, |into| rows::gelu_tanh_times(isa, row, &other(row), into));
        check(greatest, compute, exact);
    }
}

#[test]
fn heads_are_turned_by_halves() {
    for (dimension, half) in [(2, 1), (4, 2), (10, 4), (32, 16), (80, 40), (96, 32), (64, 32)] {
        let angles = numbers(3, half, 3.0);
        let cosines: Vec<f32> = angles.iter().map(|angle| angle.cos()).collect();
        let sines: Vec<f32> = angles.iter().map(|angle| angle.sin()).collect();
        let row = numbers(5, 3 * dimension, 2.0);
        let turned = |isa| changed(&row, |row| rows::rotate(isa, row, dimension, &cosines, &sines));
        let portable = turned(Isa::available()[0]);
        for (head, found) in row.chunks(dimension).zip(portable.chunks(dimension)) {
            for pair in 0..half {
                let (first, second) = (f64::from(head[pair]), f64::from(head[pair + half]));
                let (cosine, sine) = (f64::from(cosines[pair]), f64::from(sines[pair]));
                assert!((f64::from(found[pair]) - (first * cosine - second * sine)).abs() < 1e-6);
                assert!((f64::from(found[pair + half]) - (second * cosine + first * sine)).abs() < 1e-6);
            }
            assert_eq!(found[2 * half..], head[2 * half..]);
        }
        for isa in Isa::available() {
            assert_eq!(bits(&turned(isa)), bits(&portable), "{isa}");
        }
    }
}
