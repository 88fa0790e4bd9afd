//! `BF16`: numbers in bfloat16, multiplied in pairs and summed in single precision.
//!
//! ```text
//! panel   two inputs of 64 bytes: 16 lanes × 2 × bf16; a last input without another has zeros beside it
//! ```

use super::PanelFormat;
use super::floating::{self, Floating, Weights};
use crate::activations::{BLOCK_PLACES, Form, Tile};
use crate::product::MOST_PANELS;
use crate::simd::{LANES, Simd};

pub(crate) struct Brain;

impl PanelFormat for Brain {
    const BLOCK_INPUTS: usize = 1;
    const BLOCK_BYTES: usize = 2;
    const FORM: Form = Form::Brain;
    const PANELS_AT_ONCE: usize = MOST_PANELS;

    fn panel_bytes(inputs: usize) -> usize {
        inputs.div_ceil(2) * 64
    }

    fn pack_row(panel: &mut [u8], lane: usize, row: &[u8]) {
        for (panel, numbers) in panel.as_chunks_mut::<64>().0.iter_mut().zip(row.chunks(4)) {
            panel[4 * lane..][..numbers.len()].copy_from_slice(numbers);
        }
    }

    fn unpack_row(panel: &[u8], lane: usize, into: &mut [f32]) {
        for (panel, values) in panel.as_chunks::<64>().0.iter().zip(into.chunks_mut(2)) {
            for (value, number) in values.iter_mut().zip(panel[4 * lane..].as_chunks::<2>().0) {
                *value = half::bf16::from_le_bytes(*number).to_f32();
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, panels: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]) {
        let panel_bytes = Brain::panel_bytes(tile.inputs);
        if S::DOTS_BRAIN {
            floating::multiply::<S, Pairs>(simd, panels, panel_bytes, tile, sums);
        } else if tile.rows <= S::TILE_ROWS {
            floating::multiply::<S, Singles>(simd, panels, panel_bytes, tile, sums);
        } else {
            floating::multiply_many::<S, Singles>(simd, panels, panel_bytes, tile, sums);
        }
    }
}

/// What instructions for bfloat16 multiply.
struct Pairs;

impl Weights for Pairs {
    type Block = [[u8; 64]; BLOCK_PLACES];
    type Value = [u16; 2];

    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F {
        simd.of_bits(simd.load_bytes(&block[place]))
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, sums: S::F, weights: S::F, value: [u16; 2]) -> S::F {
        simd.dot_brain(sums, simd.bits(weights), value)
    }
}

impl Floating for Pairs {
    #[inline(always)]
    fn blocks(panel: &[u8]) -> (&[Self::Block], &[u8]) {
        let (places, _) = panel.as_chunks();
        let (blocks, rest) = places.as_chunks();
        (blocks, rest.as_flattened())
    }

    #[inline(always)]
    fn rows(tile: Tile<'_>) -> &[[[u16; 2]; BLOCK_PLACES]] {
        tile.brain
    }
}

/// The same in single precision, the second number of a pair first, as those instructions do it.
struct Singles;

impl Weights for Singles {
    type Block = [[u8; 64]; BLOCK_PLACES / 2];
    type Value = f32;

    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F {
        let pairs = simd.load_bytes(&block[place / 2]);
        if place.is_multiple_of(2) {
            simd.of_bits(simd.and(pairs, simd.splat_int(0xffff_0000_u32 as i32)))
        } else {
            simd.of_bits(simd.shift_left::<16>(pairs))
        }
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, sums: S::F, weights: S::F, value: f32) -> S::F {
        simd.fma(weights, simd.splat(value), sums)
    }
}

impl Floating for Singles {
    #[inline(always)]
    fn blocks(panel: &[u8]) -> (&[Self::Block], &[u8]) {
        let (pairs, _) = panel.as_chunks();
        let (blocks, rest) = pairs.as_chunks();
        (blocks, rest.as_flattened())
    }

    #[inline(always)]
    fn rows(tile: Tile<'_>) -> &[[f32; BLOCK_PLACES]] {
        tile.single
    }
}
