//! `Q5_K`: 256 numbers of 5 bits under 8 scales, less 8 minima, of 6 bits each.
//!
//! ```text
//! file    as Q4_K to the scales | 32 × u8, bit p of byte i the fifth of input i of part p | as Q4_K from the numbers
//! panel   the same, with 8 × (16 lanes × 4 bytes of the file) between
//! ```

use super::Weights;
use super::q4_k::{self, NUMBERS_START};
use super::super_blocks::{Minima, SuperBlock};
use crate::simd::{LANES, Simd};

pub(crate) struct Q5K;

const BITS_BYTES: usize = 32;

impl SuperBlock for Q5K {
    const BYTES: usize = 176;
    const SIXTEENS: bool = false;

    #[inline(always)]
    fn pack(panel: &mut [u8], lane: usize, block: &[u8]) {
        q4_k::pack(panel, lane, block);
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, panel: &[u8], part: usize) -> Weights<S> {
        let (bits, numbers) = panel[NUMBERS_START..].split_at(BITS_BYTES * LANES);
        let mut weights = q4_k::nibbles(simd, numbers, part);
        for (four, weights) in weights.iter_mut().enumerate() {
            let bits = simd.shift_right_by(super::vector(simd, bits, four), part as u32);
            let fifth = simd.shift_left::<4>(simd.and(bits, super::splat_byte(simd, 1)));
            *weights = simd.or(*weights, fifth);
        }
        weights
    }

    #[inline(always)]
    fn scales<S: Simd>(simd: S, panel: &[u8], part: usize) -> [S::F; 2] {
        q4_k::scales(simd, panel, part)
    }

    #[inline(always)]
    fn minima<S: Simd>(simd: S, panel: &[u8]) -> Option<Minima<S>> {
        Some(q4_k::minima(simd, panel))
    }
}
