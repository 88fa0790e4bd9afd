//! Loops over rows of numbers, compiled for whatever vectors the processor has.
//!
//! A sum runs in [`LANES`] lanes that are folded in a fixed order at the end: wide enough for the widest vectors, and the
//! same numbers on the narrowest.

use pulp::Arch;
#[cfg(target_arch = "x86_64")]
use pulp::x86::V3;

/// Sums that run beside each other; two vectors of the widest kind.
const LANES: usize = 32;

/// Runs `work` with the processor's widest vectors. Only what is inlined into it gains by that, so the closure itself must
/// be `#[inline(always)]`.
pub(super) fn wide<R>(work: impl FnOnce() -> R) -> R {
    let arch = Arch::new();
    // gemm switches on the widest kind of vectors alone; processors without it have those of half the width.
    #[cfg(target_arch = "x86_64")]
    if let (Arch::Scalar, Some(narrower)) = (arch, V3::try_new()) {
        return narrower.vectorize(work);
    }
    arch.dispatch(work)
}

/// The sum of `term(a, b)` over two rows.
#[inline(always)]
fn fold(left: &[f32], right: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (left_blocks, right_blocks) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
    let (left_rest, right_rest) = (left_blocks.remainder(), right_blocks.remainder());
    for (left, right) in left_blocks.zip(right_blocks) {
        for lane in 0..LANES {
            sums[lane] += term(left[lane], right[lane]);
        }
    }
    for (lane, (&left, &right)) in left_rest.iter().zip(right_rest).enumerate() {
        sums[lane] += term(left, right);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// The inner product.
#[inline(always)]
pub(super) fn dot(left: &[f32], right: &[f32]) -> f32 {
    fold(left, right, |left, right| left * right)
}

/// The sum of a row.
#[inline(always)]
pub(super) fn sum(row: &[f32]) -> f32 {
    fold(row, row, |value, _| value)
}

/// The largest value; minus infinity of an empty row.
#[inline(always)]
pub(super) fn max(row: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let blocks = row.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for lane in 0..LANES {
            largest[lane] = if block[lane] > largest[lane] { block[lane] } else { largest[lane] };
        }
    }
    largest.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &value| largest.max(value))
}

/// `target += factor * row`
#[inline(always)]
pub(super) fn add_scaled(target: &mut [f32], factor: f32, row: &[f32]) {
    for (target, &value) in target.iter_mut().zip(row) {
        *target += factor * value;
    }
}

/// Each value becomes `exp(value - shift)`; returns the sum.
#[inline(always)]
pub(super) fn exponentiate(row: &mut [f32], shift: f32) -> f32 {
    for value in row.iter_mut() {
        *value = exp(*value - shift);
    }
    sum(row)
}

/// The exponential function to about one unit in the last place (Cephes' polynomial), without a branch or a call, so that
/// a loop over it becomes vectors. Below -87 it stays at the smallest normal number instead of falling to zero.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5 · 2^23 rounds to an integer, which then stands in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let power = shifted - ROUNDER;
    let rest = x - power * LN_2_HIGH - power * LN_2_LOW;
    let mut series = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        series = series * rest + coefficient;
    }
    let fraction = series * rest * rest + rest + 1.0;
    fraction * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_exact_to_single_precision() {
        let mut largest = 0.0_f64;
        for step in -87_000..88_000 {
            let x = step as f32 * 1e-3;
            let expected = f64::from(x).exp();
            largest = largest.max((f64::from(exp(x)) - expected).abs() / expected);
        }
        assert!(largest < 2.0 * f64::from(f32::EPSILON), "{largest:e}");
        assert!(exp(f32::NEG_INFINITY) < 2e-38);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn sums_and_maxima_count_every_value_of_odd_rows() {
        for length in [0, 1, 31, 32, 33, 100] {
            let row: Vec<f32> = (0..length).map(|value| value as f32).collect();
            let expected: f32 = row.iter().sum();
            assert_eq!(
                wide(
                    #[inline(always)]
                    || sum(&row)
                ),
                expected
            );
            assert_eq!(
                wide(
                    #[inline(always)]
                    || dot(&row, &vec![2.0; length])
                ),
                2.0 * expected
            );
            assert_eq!(max(&row), row.last().copied().unwrap_or(f32::NEG_INFINITY));
        }
    }
}
