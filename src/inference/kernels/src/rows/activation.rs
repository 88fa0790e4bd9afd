//! The functions that make a network more than one product: gates, and caps of scores.

use super::map::{Each, map};
use crate::Isa;
use crate::math;
use crate::simd::Simd;

/// `cap · tanh(x / cap)` for each number of a row.
pub fn softcap(isa: Isa, row: &mut [f32], cap: f32) {
    map(isa, Softcap { cap, inverse: 1.0 / cap }, row, []);
}

/// `silu(gate) · up`.
///
/// # Panics
/// When the rows differ in length, as all gates do.
pub fn silu_times(isa: Isa, gate: &[f32], up: &[f32], into: &mut [f32]) {
    map(isa, Times(Silu), into, [gate, up]);
}

/// `gelu(gate) · up` by the error function.
///
/// # Panics
/// As [`silu_times`].
pub fn gelu_times(isa: Isa, gate: &[f32], up: &[f32], into: &mut [f32]) {
    map(isa, Times(Gelu), into, [gate, up]);
}

/// `gelu(gate) · up` by the hyperbolic tangent, which differs from the error function in the fourth digit.
///
/// # Panics
/// As [`silu_times`].
pub fn gelu_tanh_times(isa: Isa, gate: &[f32], up: &[f32], into: &mut [f32]) {
    map(isa, Times(GeluTanh), into, [gate, up]);
}

/// `gelu` of each number of a row, by the error function.
pub fn gelu(isa: Isa, row: &mut [f32]) {
    map(isa, Gelu, row, []);
}

/// `gelu` of each number of a row, by the hyperbolic tangent.
pub fn gelu_tanh(isa: Isa, row: &mut [f32]) {
    map(isa, GeluTanh, row, []);
}

/// A function of one number.
trait Activation: Copy {
    /// Must be `#[inline(always)]`.
    fn of<S: Simd>(self, simd: S, values: S::F) -> S::F;
}

impl<A: Activation> Each<0> for A {
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, own: S::F, []: [S::F; 0]) -> S::F {
        self.of(simd, own)
    }
}

/// A function of the gate times what is gated; what stood in the place is lost.
#[derive(Clone, Copy)]
struct Times<A>(A);

impl<A: Activation> Each<2> for Times<A> {
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, _: S::F, [gate, up]: [S::F; 2]) -> S::F {
        simd.mul(self.0.of(simd, gate), up)
    }
}

#[derive(Clone, Copy)]
struct Softcap {
    cap: f32,
    inverse: f32,
}

impl Activation for Softcap {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, values: S::F) -> S::F {
        let tangents = math::tanh(simd, simd.mul(values, simd.splat(self.inverse)));
        simd.mul(tangents, simd.splat(self.cap))
    }
}

#[derive(Clone, Copy)]
struct Silu;

impl Activation for Silu {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, values: S::F) -> S::F {
        math::times_logistic(simd, values, values)
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Activation for Gelu {
    /// `max(x, 0) - |x|/2 · erfc(|x|/√2)`, in which nothing cancels out far below zero.
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, values: S::F) -> S::F {
        let magnitudes = simd.of_bits(simd.and(simd.bits(values), simd.splat_int(i32::MAX)));
        let rest = math::erfc(simd, simd.mul(magnitudes, simd.splat(std::f32::consts::FRAC_1_SQRT_2)));
        let half = simd.mul(magnitudes, simd.splat(-0.5));
        simd.fma(half, rest, simd.max(values, simd.splat(0.0)))
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl Activation for GeluTanh {
    /// `x/2 · (1 + tanh(y))` is `x / (1 + e^-2y)`.
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, values: S::F) -> S::F {
        const TWICE_SQRT_2_BY_PI: f32 = 1.595_769;
        let square = simd.mul(values, values);
        let inner = simd.fma(square, simd.splat(0.044_715 * TWICE_SQRT_2_BY_PI), simd.splat(TWICE_SQRT_2_BY_PI));
        math::times_logistic(simd, values, simd.mul(values, inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gelu_of_the_row_itself_is_a_gate_of_ones_to_the_bit() {
        let bits = |row: &[f32]| row.iter().map(|number| number.to_bits()).collect::<Vec<u32>>();
        for length in [1, 15, 16, 17, 100, 1000] {
            let row: Vec<f32> = (0..length).map(|place| (place as f32 * 0.7).sin() * 12.0).collect();
            for isa in Isa::available() {
                let (mut into, mut changed) = (vec![0.0; length], row.clone());
                gelu_tanh_times(isa, &row, &vec![1.0; length], &mut into);
                gelu_tanh(isa, &mut changed);
                assert_eq!(bits(&changed), bits(&into), "{isa}, length {length}");
            }
        }
    }
}
