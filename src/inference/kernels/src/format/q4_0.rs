//! `Q4_0`: 32 numbers of 4 bits, plus 8, under one scale.
//!
//! ```text
//! file    scale f16 | 16 × u8, input i in the lower and input i + 16 in the upper half
//! panel   16 scales f16 | 4 × (16 lanes × 4 bytes of the file)
//! ```

use super::Weights;
use super::blocks::Block;
use crate::simd::Simd;

pub(crate) struct Q4_0;

impl Block for Q4_0 {
    const BYTES: usize = 16;

    #[inline(always)]
    fn pack(panel: &mut [u8], lane: usize, numbers: &[u8]) {
        super::pack_words(panel, lane, numbers);
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, panel: &[u8]) -> Weights<S> {
        let mut weights = nibbles(simd, panel);
        for weights in &mut weights {
            *weights = simd.add_bytes(*weights, super::splat_byte(simd, 128 - 8));
        }
        weights
    }
}

/// The 4 bits of each of 32 inputs.
#[inline(always)]
pub(super) fn nibbles<S: Simd>(simd: S, panel: &[u8]) -> Weights<S> {
    let mask = super::splat_byte(simd, 0x0f);
    let mut nibbles = [mask; 8];
    for four in 0..4 {
        let both = super::vector(simd, panel, four);
        nibbles[four] = simd.and(both, mask);
        nibbles[four + 4] = simd.and(simd.shift_right::<4>(both), mask);
    }
    nibbles
}
