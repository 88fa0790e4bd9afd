//! `Q8_0`: 32 numbers of 8 bits under one scale.
//!
//! ```text
//! file    scale f16 | 32 × i8
//! panel   16 scales f16 | 8 × (16 lanes × 4 inputs), each byte plus 128
//! ```

use super::Weights;
use super::blocks::Block;
use crate::simd::Simd;

pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const BYTES: usize = 32;

    #[inline(always)]
    fn pack(panel: &mut [u8], lane: usize, numbers: &[u8]) {
        let mut unsigned = [0; 32];
        for (unsigned, number) in unsigned.iter_mut().zip(numbers) {
            *unsigned = number ^ 0x80;
        }
        super::pack_words(panel, lane, &unsigned);
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, panel: &[u8]) -> Weights<S> {
        let mut weights = [simd.splat_int(0); 8];
        for (four, weights) in weights.iter_mut().enumerate() {
            *weights = super::vector(simd, panel, four);
        }
        weights
    }
}
