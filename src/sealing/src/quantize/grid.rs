//! What the searches share: rounding, sums in a fixed order, and how much each number weighs.

use half::f16;

/// Adding and taking off this number rounds to whole ones, to nearest even, below 2^22.
const ROUNDING: f32 = 12_582_912.0;

/// The nearest whole number from `least` to `most`.
#[inline(always)]
pub(super) fn nearest(value: f32, least: f32, most: f32) -> f32 {
    // Each line is one instruction; `f32::clamp` would take more, for NaN, which nothing is here.
    let value = if value < most { value } else { most };
    let value = if value > least { value } else { least };
    (value + ROUNDING) - ROUNDING
}

/// An array of `N` numbers, written so that the loop becomes vectors.
#[inline(always)]
pub(super) fn each<const N: usize>(number: impl Fn(usize) -> f32) -> [f32; N] {
    let mut numbers = [0.0; N];
    for (at, into) in numbers.iter_mut().enumerate() {
        *into = number(at);
    }
    numbers
}

/// The sum of `term` over all numbers of a part: the upper half is added to the lower one until one number is left.
#[inline(always)]
pub(super) fn total<const N: usize>(term: impl Fn(usize) -> f32) -> f32 {
    let mut terms = each::<N>(term);
    let mut half = N / 2;
    while half > 0 {
        let (lower, upper) = terms.split_at_mut(half);
        lower.iter_mut().zip(upper).for_each(|(lower, upper)| *lower += *upper);
        half /= 2;
    }
    terms[0]
}

/// How much each number of a part weighs.
pub(super) fn weights<const N: usize>(values: &[f32; N]) -> [f32; N] {
    let mean_square = total::<N>(|at| values[at] * values[at]) / N as f32;
    let root = mean_square.sqrt();
    values.map(|value| root + value.abs())
}

/// The nearest number of half precision.
pub(super) fn half(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

/// The number of half precision that comes after `half`, away from zero.  Among the smallest ones steps are wide, and
/// the nearest scale may be far too small.
pub(super) fn half_beyond(half: f32) -> f32 {
    f16::from_bits(f16::from_f32(half).to_bits() + 1).to_f32()
}

/// The two bytes of a number of half precision.
pub(super) fn half_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}
