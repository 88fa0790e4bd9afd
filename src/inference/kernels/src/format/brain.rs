//! `BF16`: numbers in bfloat16, multiplied in pairs and summed in single precision.
//!
//! ```text
//! panel   two inputs of 64 bytes: 16 lanes × 2 × bf16; a last input without another has zeros beside it
//! ```

use super::PanelFormat;
use super::floating::{self, Floating};
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
        floating::multiply::<S, Brain>(simd, panels, Brain::panel_bytes(tile.inputs), tile, sums);
    }
}

impl Floating for Brain {
    const PLACE_BYTES: usize = 64;
    type Value = [u16; 2];

    #[inline(always)]
    fn rows(tile: Tile<'_>) -> &[[[u16; 2]; BLOCK_PLACES]] {
        tile.brain
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::F {
        simd.from_bits(simd.load_bytes(&bytes.as_chunks().0[0]))
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, sums: S::F, weights: S::F, value: [u16; 2]) -> S::F {
        simd.dot_brain(sums, simd.bits(weights), value)
    }
}
