//! Rows become bytes: the greatest magnitude of a block is 127.

use crate::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// Sets `bytes` to the values divided by the scale that it returns.  A block of zeros has the scale zero.
///
/// # Panics
/// When the slices differ in length or are no whole vectors.
pub(crate) fn quantize(isa: Isa, values: &[f32], bytes: &mut [i8]) -> f32 {
    assert!(values.len() == bytes.len() && values.len().is_multiple_of(LANES), "whole vectors of one length");
    isa.run(Quantize { values, bytes })
}

struct Quantize<'a> {
    values: &'a [f32],
    bytes: &'a mut [i8],
}

impl Kernel for Quantize<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let magnitude = simd.splat_int(i32::MAX);
        let vectors = self.values.as_chunks::<LANES>().0;
        let mut greatest = simd.splat(0.0);
        for values in vectors {
            greatest = simd.max(simd.of_bits(simd.and(simd.bits(simd.load(values)), magnitude)), greatest);
        }
        let (scale, factor) = scale_of_bytes(simd.greatest(greatest));
        let factor = simd.splat(factor);
        for (values, bytes) in vectors.iter().zip(self.bytes.as_chunks_mut::<LANES>().0) {
            simd.narrow_to_bytes(simd.round_to_int(simd.mul(simd.load(values), factor)), bytes);
        }
        scale
    }
}

/// The scale of numbers with this greatest magnitude, and what they are multiplied by to become bytes.
#[inline(always)]
pub(crate) fn scale_of_bytes(greatest: f32) -> (f32, f32) {
    // Numbers too small for the quotient are zero.
    let factor = if greatest < f32::MIN_POSITIVE * 127.0 { 0.0 } else { 127.0 / greatest };
    (greatest / 127.0, factor)
}
