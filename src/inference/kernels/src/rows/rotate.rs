//! Rotary positions: pairs of a head's numbers are turned by angles that grow with the token's position.

use super::map::padded;
use crate::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// Turns each head of a row: number `i` of the first half of the turned dimensions and number `i` of the second are a
/// pair, as in Transformers, and the dimensions after the first `2 * cosines.len()` stay as they are.
///
/// # Panics
/// When a head has fewer dimensions, the row holds no whole heads, or there are not as many sines as cosines.
pub fn rotate(isa: Isa, row: &mut [f32], dimension: usize, cosines: &[f32], sines: &[f32]) {
    assert!(cosines.len() == sines.len() && 2 * cosines.len() <= dimension, "an angle for each pair");
    assert!(row.len().is_multiple_of(dimension), "a row of whole heads");
    isa.run(Rotate { row, dimension, cosines, sines });
}

struct Rotate<'a> {
    row: &'a mut [f32],
    dimension: usize,
    cosines: &'a [f32],
    sines: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.cosines.len();
        let (cosines, last_cosines) = self.cosines.as_chunks::<LANES>();
        let (sines, last_sines) = self.sines.as_chunks::<LANES>();
        let (last_cosines, last_sines) = (padded(last_cosines, 0.0), padded(last_sines, 0.0));
        for head in self.row.chunks_exact_mut(self.dimension) {
            let (first, rest) = head.split_at_mut(half);
            let (first, last_first) = first.as_chunks_mut::<LANES>();
            let (second, last_second) = rest[..half].as_chunks_mut::<LANES>();
            for (((first, second), cosines), sines) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                turn(simd, first, second, cosines, sines);
            }
            let (mut own_first, mut own_second) = (padded(last_first, 0.0), padded(last_second, 0.0));
            turn(simd, &mut own_first, &mut own_second, &last_cosines, &last_sines);
            last_first.copy_from_slice(&own_first[..last_first.len()]);
            last_second.copy_from_slice(&own_second[..last_second.len()]);
        }
    }
}

#[inline(always)]
fn turn<S: Simd>(
    simd: S,
    first: &mut [f32; LANES],
    second: &mut [f32; LANES],
    cosines: &[f32; LANES],
    sines: &[f32; LANES],
) {
    let (cosines, sines) = (simd.load(cosines), simd.load(sines));
    let (own_first, own_second) = (simd.load(first), simd.load(second));
    let against = simd.mul(own_second, simd.sub(simd.splat(0.0), sines));
    simd.store(simd.fma(own_first, cosines, against), first);
    simd.store(simd.fma(own_second, cosines, simd.mul(own_first, sines)), second);
}
