//! `Q6_K`: 256 numbers of 6 bits, plus 32, under 16 scales of 8 bits.
//!
//! ```text
//! file    2 × 64 × u8, lower bits | 2 × 32 × u8, upper bits | 16 × i8, scales | scale f16
//! panel   16 scales f16 | 16 × (16 lanes × i8) | 32 × (16 lanes × 4 bytes of lower bits) | 16 × (the same of upper bits)
//! ```
//! Of the four parts in a half of the block, the lower 4 bits of the first two stand in the lower halves of 64 bytes, those
//! of the other two in the upper halves; the upper 2 bits of all four share 32 bytes, the first part's lowest.

use super::Weights;
use super::super_blocks::{Minima, SuperBlock};
use crate::simd::{LANES, Simd};

pub(crate) struct Q6K;

const LOWER_BYTES: usize = 128;
const UPPER_BYTES: usize = 64;
const SCALES: usize = 16;
const SCALE_BYTES: usize = 2;

impl SuperBlock for Q6K {
    const BYTES: usize = LOWER_BYTES + UPPER_BYTES + SCALES + SCALE_BYTES;
    const SIXTEENS: bool = true;

    #[inline(always)]
    fn pack(panel: &mut [u8], lane: usize, block: &[u8]) {
        let (numbers, block) = block.split_at(LOWER_BYTES + UPPER_BYTES);
        let (scales, scale) = block.split_at(SCALES);
        let (scale_panel, panel) = panel.split_at_mut(SCALE_BYTES * LANES);
        scale_panel[SCALE_BYTES * lane..][..SCALE_BYTES].copy_from_slice(scale);
        let (scales_panel, panel) = panel.split_at_mut(SCALES * LANES);
        for (panel, scale) in scales_panel.as_chunks_mut::<LANES>().0.iter_mut().zip(scales) {
            panel[lane] = *scale;
        }
        super::pack_words(panel, lane, numbers);
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, panel: &[u8], part: usize) -> Weights<S> {
        let panel = &panel[(SCALE_BYTES + SCALES) * LANES..];
        let (lower, upper) = panel.split_at(LOWER_BYTES * LANES);
        let (half, quarter) = (part / 4, part % 4);
        let lower = &lower[(64 * half + 32 * (quarter % 2)) * LANES..][..32 * LANES];
        let upper = &upper[32 * half * LANES..][..32 * LANES];
        let (mask, upper_mask) = (super::splat_byte(simd, 0x0f), super::splat_byte(simd, 0x03));
        let mut weights = [mask; 8];
        for (four, weights) in weights.iter_mut().enumerate() {
            let lower = simd.shift_right_by(super::vector(simd, lower, four), 4 * (quarter as u32 / 2));
            let upper = simd.shift_right_by(super::vector(simd, upper, four), 2 * quarter as u32);
            let number = simd.or(simd.and(lower, mask), simd.shift_left::<4>(simd.and(upper, upper_mask)));
            *weights = simd.add_bytes(number, super::splat_byte(simd, 128 - 32));
        }
        weights
    }

    #[inline(always)]
    fn scales<S: Simd>(simd: S, panel: &[u8], part: usize) -> [S::F; 2] {
        let scale = super::halves(simd, panel);
        let parts = &panel[SCALE_BYTES * LANES..].as_chunks::<LANES>().0[2 * part..][..2];
        let mut scales = [scale; 2];
        for (scales, bytes) in scales.iter_mut().zip(parts) {
            *scales = simd.mul(*scales, simd.to_float(simd.widen_i8(&bytes.map(u8::cast_signed))));
        }
        scales
    }

    #[inline(always)]
    fn minima<S: Simd>(_: S, _: &[u8]) -> Option<Minima<S>> {
        None
    }
}
