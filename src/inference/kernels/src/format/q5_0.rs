//! `Q5_0`: 32 numbers of 5 bits, plus 16, under one scale.
//!
//! ```text
//! file    scale f16 | u32, bit i the fifth of input i | 16 × u8, input i in the lower and input i + 16 in the upper half
//! panel   16 scales f16 | 16 lanes × u32, bit v / 2 + 4 (v % 2) + 8 b the fifth of input 4 v + b
//!         | 4 × (16 lanes × 4 bytes of the file)
//! ```
//! The bits are ordered so that one shift brings those of four inputs, which share a lane, into the right place each.

use super::Weights;
use super::blocks::Block;
use super::q4_0::nibbles;
use crate::simd::{LANES, Simd};

pub(crate) struct Q5_0;

const BITS_BYTES: usize = 4;

impl Block for Q5_0 {
    const BYTES: usize = BITS_BYTES + 16;

    #[inline(always)]
    fn pack(panel: &mut [u8], lane: usize, numbers: &[u8]) {
        let mut bytes: [u8; Self::BYTES] = std::array::from_fn(|byte| numbers[byte]);
        let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        bytes[..BITS_BYTES].copy_from_slice(&interleave(bits).to_le_bytes());
        super::pack_words(panel, lane, &bytes);
    }

    #[inline(always)]
    fn weights<S: Simd>(simd: S, panel: &[u8]) -> Weights<S> {
        let (bits, panel) = panel.split_at(BITS_BYTES * LANES);
        let bits = super::vector(simd, bits, 0);
        let (fifth, offset) = (super::splat_byte(simd, 0x10), super::splat_byte(simd, 128 - 16));
        let mut weights = nibbles(simd, panel);
        for (four, weights) in weights.iter_mut().enumerate() {
            let bits = if four % 2 == 0 { simd.shift_left::<4>(bits) } else { bits };
            let bits = simd.and(simd.shift_right_by(bits, four as u32 / 2), fifth);
            *weights = simd.add_bytes(simd.or(*weights, bits), offset);
        }
        weights
    }
}

/// Moves bit `4 v + b` to `v / 2 + 4 (v % 2) + 8 b`.
fn interleave(bits: u32) -> u32 {
    // Of the five bits that number a place, the lowest is exchanged with the fourth, and the second with the fifth.
    let bits = exchange::<7>(bits, 0x00aa_00aa);
    exchange::<14>(bits, 0x0000_cccc)
}

/// Exchanges each bit of the mask with the one that is so much higher.
fn exchange<const DISTANCE: u32>(bits: u32, mask: u32) -> u32 {
    let differing = (bits ^ (bits >> DISTANCE)) & mask;
    bits ^ differing ^ (differing << DISTANCE)
}
