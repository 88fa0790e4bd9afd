//! `Q4_K`: 256 numbers of 4 bits under 8 scales, less 8 minima, of 6 bits each.
//!
//! ```text
//! file    scale f16 | scale of minima f16 | 12 × u8 | 4 × 32 × u8, a part of 32 inputs in the lower halves, the next
//!         in the upper ones
//! panel   16 scales f16 | 16 scales of minima f16 | 3 × (16 lanes × 4 bytes of the file) | 32 × (the same)
//! ```
//! Of the twelve bytes, as three words, the lower 6 bits of the first are the scales of the first four parts, those of the
//! second word their minima.  The third word holds the lower 4 bits of the other four, scales in the lower halves and
//! minima in the upper ones, whose upper 2 bits are those of the first and of the second word.

use super::Weights;
use super::super_blocks::{Minima, SuperBlock};
use crate::simd::{LANES, Simd};

pub(crate) struct Q4K;

const HALF_BYTES: usize = 2;
const SCALES_START: usize = 2 * HALF_BYTES * LANES;
const SCALES_BYTES: usize = 12;

/// Where the numbers begin in a panel, after all scales.
pub(super) const NUMBERS_START: usize = SCALES_START + SCALES_BYTES * LANES;

impl SuperBlock for Q4K {
    const BYTES: usize = 144;
    const SIXTEENS: bool = false;

    #[inline(always)]
    fn pack(panel: &mut [u8], lane: usize, block: &[u8]) {
        pack(panel, lane, block);
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, panel: &[u8], part: usize) -> Weights<S> {
        nibbles(simd, &panel[NUMBERS_START..], part)
    }

    #[inline(always)]
    fn scales<S: Simd>(simd: S, panel: &[u8], part: usize) -> [S::F; 2] {
        scales(simd, panel, part)
    }

    #[inline(always)]
    fn minima<S: Simd>(simd: S, panel: &[u8]) -> Option<Minima<S>> {
        Some(minima(simd, panel))
    }
}

/// Puts a block, whose scales are followed by whole words alone, into a lane.
#[inline(always)]
pub(super) fn pack(panel: &mut [u8], lane: usize, block: &[u8]) {
    for (half, panel) in block.as_chunks::<HALF_BYTES>().0.iter().zip(panel.as_chunks_mut::<{ 2 * LANES }>().0).take(2)
    {
        panel[HALF_BYTES * lane..][..HALF_BYTES].copy_from_slice(half);
    }
    super::pack_words(&mut panel[SCALES_START..], lane, &block[2 * HALF_BYTES..]);
}

/// The 4 bits of each of a part's inputs.
#[inline(always)]
pub(super) fn nibbles<S: Simd>(simd: S, numbers: &[u8], part: usize) -> Weights<S> {
    let numbers = &numbers[part / 2 * 32 * LANES..][..32 * LANES];
    let mask = super::splat_byte(simd, 0x0f);
    let mut nibbles = [mask; 8];
    for (four, nibbles) in nibbles.iter_mut().enumerate() {
        let both = super::vector(simd, numbers, four);
        *nibbles = simd.and(simd.shift_right_by(both, 4 * (part as u32 % 2)), mask);
    }
    nibbles
}

/// The scale of a part, twice.
#[inline(always)]
pub(super) fn scales<S: Simd>(simd: S, panel: &[u8], part: usize) -> [S::F; 2] {
    let [first, _, third] = words(simd, panel);
    let four = if part < 4 { simd.and(first, super::splat_byte(simd, 0x3f)) } else { upper_four(simd, third, first) };
    let scale = simd.and(simd.shift_right_by(four, 8 * (part as u32 % 4)), simd.splat_int(0x3f));
    [simd.mul(simd.to_float(scale), super::halves(simd, panel)); 2]
}

#[inline(always)]
pub(super) fn minima<S: Simd>(simd: S, panel: &[u8]) -> Minima<S> {
    let [_, second, third] = words(simd, panel);
    let lower_four = simd.and(second, super::splat_byte(simd, 0x3f));
    let upper_four = upper_four(simd, simd.shift_right::<4>(third), second);
    let even = simd.splat_int(0x00ff_00ff);
    let pairs = [
        simd.and(lower_four, even),
        simd.and(simd.shift_right::<8>(lower_four), even),
        simd.and(upper_four, even),
        simd.and(simd.shift_right::<8>(upper_four), even),
    ];
    Minima { scale: super::halves(simd, &panel[HALF_BYTES * LANES..]), pairs }
}

#[inline(always)]
fn words<S: Simd>(simd: S, panel: &[u8]) -> [S::I; 3] {
    let panel = &panel[SCALES_START..];
    [super::vector(simd, panel, 0), super::vector(simd, panel, 1), super::vector(simd, panel, 2)]
}

/// The scales or the minima of the last four parts.
#[inline(always)]
fn upper_four<S: Simd>(simd: S, lower_bits: S::I, upper_bits: S::I) -> S::I {
    let lower_bits = simd.and(lower_bits, super::splat_byte(simd, 0x0f));
    let upper_bits = simd.and(simd.shift_right::<2>(upper_bits), super::splat_byte(simd, 0x30));
    simd.or(lower_bits, upper_bits)
}
