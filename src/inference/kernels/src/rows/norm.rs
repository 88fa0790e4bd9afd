//! Norms: a row is brought to one size, then weighed.

use super::map::{Each, map, padded};
use crate::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// How many vectors sum at once, so that no addition waits for the one before it.
const SUMS: usize = 4;

/// The row divided by the root of its mean square, times the weight.
///
/// # Panics
/// When the slices differ in length, as all norms do.
pub fn rms_norm(isa: Isa, row: &[f32], weight: &[f32], epsilon: f32, into: &mut [f32]) {
    map(isa, Normalized { mean: 0.0, inverse: inverse_root(isa, row, 0.0, epsilon) }, into, [row, weight]);
}

/// As [`rms_norm`], to the row itself.
///
/// # Panics
/// As [`rms_norm`].
pub fn rms_norm_in_place(isa: Isa, row: &mut [f32], weight: &[f32], epsilon: f32) {
    let inverse = inverse_root(isa, row, 0.0, epsilon);
    map(isa, Normalized { mean: 0.0, inverse }, row, [weight]);
}

/// The row less its mean, divided by its standard deviation, times the weight, plus the bias.
///
/// # Panics
/// As [`rms_norm`].
pub fn layer_norm(isa: Isa, row: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, into: &mut [f32]) {
    map(isa, Normalized::around_mean(isa, row, epsilon), into, [row, weight, bias]);
}

/// As [`layer_norm`], to the row itself.
///
/// # Panics
/// As [`rms_norm`].
pub fn layer_norm_in_place(isa: Isa, row: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let normalized = Normalized::around_mean(isa, row, epsilon);
    map(isa, InPlace(normalized), row, [weight, bias]);
}

/// One divided by the root of the mean square of the distances from `mean`.
fn inverse_root(isa: Isa, row: &[f32], mean: f32, epsilon: f32) -> f32 {
    let squares = isa.run(Sum { row, pad: mean, term: Square(mean) });
    1.0 / (squares / row.len() as f32 + epsilon).sqrt()
}

#[derive(Clone, Copy)]
struct Normalized {
    mean: f32,
    inverse: f32,
}

impl Normalized {
    /// What brings a row to the mean 0 and the standard deviation 1.
    fn around_mean(isa: Isa, row: &[f32], epsilon: f32) -> Normalized {
        let mean = isa.run(Sum { row, pad: 0.0, term: Itself }) / row.len() as f32;
        Normalized { mean, inverse: inverse_root(isa, row, mean, epsilon) }
    }
}

impl Each<1> for Normalized {
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, own: S::F, [weight]: [S::F; 1]) -> S::F {
        self.each(simd, own, [own, weight])
    }
}

impl Each<2> for Normalized {
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, _: S::F, [row, weight]: [S::F; 2]) -> S::F {
        simd.mul(simd.mul(row, simd.splat(self.inverse)), weight)
    }
}

impl Each<3> for Normalized {
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, _: S::F, [row, weight, bias]: [S::F; 3]) -> S::F {
        let distance = simd.sub(row, simd.splat(self.mean));
        simd.fma(simd.mul(distance, simd.splat(self.inverse)), weight, bias)
    }
}

/// The same where the row is what is changed.
#[derive(Clone, Copy)]
struct InPlace(Normalized);

impl Each<2> for InPlace {
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, own: S::F, [weight, bias]: [S::F; 2]) -> S::F {
        self.0.each(simd, own, [own, weight, bias])
    }
}

/// What is summed of each number.
trait Term: Copy {
    /// The sum and one term more.  Must be `#[inline(always)]`.
    fn add<S: Simd>(self, simd: S, sum: S::F, values: S::F) -> S::F;
}

#[derive(Clone, Copy)]
struct Itself;

impl Term for Itself {
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, sum: S::F, values: S::F) -> S::F {
        simd.add(sum, values)
    }
}

/// The square of the distance from a number.
#[derive(Clone, Copy)]
struct Square(f32);

impl Term for Square {
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, sum: S::F, values: S::F) -> S::F {
        let distance = simd.sub(values, simd.splat(self.0));
        simd.fma(distance, distance, sum)
    }
}

/// The sum over a row that is filled up with numbers that add nothing.
struct Sum<'a, T> {
    row: &'a [f32],
    pad: f32,
    term: T,
}

impl<T: Term> Kernel for Sum<'_, T> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let mut sums = [simd.splat(0.0); SUMS];
        let (vectors, rest) = self.row.as_chunks::<LANES>();
        let (groups, last) = vectors.as_chunks::<SUMS>();
        for group in groups {
            for (sum, values) in sums.iter_mut().zip(group) {
                *sum = self.term.add(simd, *sum, simd.load(values));
            }
        }
        for (sum, values) in sums.iter_mut().zip(last) {
            *sum = self.term.add(simd, *sum, simd.load(values));
        }
        sums[0] = self.term.add(simd, sums[0], simd.load(&padded(rest, self.pad)));
        simd.sum(simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_in_place_is_the_same_to_the_bit() {
        let bits = |row: &[f32]| row.iter().map(|number| number.to_bits()).collect::<Vec<u32>>();
        for length in [1, 15, 16, 17, 100, 1000] {
            let numbers = |step: f32| (0..length).map(|place| (place as f32 * step).sin()).collect::<Vec<f32>>();
            let (row, weight, bias) = (numbers(0.7), numbers(1.3), numbers(2.1));
            for isa in Isa::available() {
                let (mut into, mut changed) = (vec![0.0; length], row.clone());
                layer_norm(isa, &row, &weight, &bias, 1e-3, &mut into);
                layer_norm_in_place(isa, &mut changed, &weight, &bias, 1e-3);
                assert_eq!(bits(&changed), bits(&into), "{isa}, length {length}");
            }
        }
    }
}
