//! Rows become bfloat16.

use crate::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// Sets `brains` to the values, rounded to the nearest bfloat16.
pub(crate) fn narrow<const COUNT: usize>(isa: Isa, values: &[f32; COUNT], brains: &mut [u16; COUNT]) {
    const { assert!(COUNT.is_multiple_of(LANES), "whole vectors") };
    isa.run(Narrow { values, brains });
}

struct Narrow<'a> {
    values: &'a [f32],
    brains: &'a mut [u16],
}

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (values, brains) in self.values.as_chunks().0.iter().zip(self.brains.as_chunks_mut().0) {
            simd.store_brain(simd.load(values), brains);
        }
    }
}

/// Rounds the values to the nearest bfloat16 and swaps the two of each pair.
pub(crate) fn round_and_swap<const COUNT: usize>(isa: Isa, values: &[f32; COUNT], swapped: &mut [f32; COUNT]) {
    const { assert!(COUNT.is_multiple_of(LANES), "whole vectors") };
    isa.run(RoundAndSwap { values, swapped });
}

struct RoundAndSwap<'a> {
    values: &'a [f32],
    swapped: &'a mut [f32],
}

impl Kernel for RoundAndSwap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (values, swapped) in self.values.as_chunks().0.iter().zip(self.swapped.as_chunks_mut().0) {
            let mut brains = [0; LANES];
            simd.store_brain(simd.load(values), &mut brains);
            simd.store(simd.load_brain(&brains), swapped);
            swapped.as_chunks_mut::<2>().0.iter_mut().for_each(|pair| pair.swap(0, 1));
        }
    }
}
