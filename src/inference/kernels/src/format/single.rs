//! `F32`: numbers in single precision, as they are.
//!
//! ```text
//! panel   input of 64 bytes: 16 lanes × f32
//! ```

use super::PanelFormat;
use super::floating::{self, Floating, Weights};
use crate::activations::{BLOCK_PLACES, Form, Tile};
use crate::product::MOST_PANELS;
use crate::simd::{LANES, Simd};

pub(crate) struct Single;

impl PanelFormat for Single {
    const BLOCK_INPUTS: usize = 1;
    const BLOCK_BYTES: usize = 4;
    const FORM: Form = Form::Single;
    const PANELS_AT_ONCE: usize = MOST_PANELS;

    fn pack_row(panel: &mut [u8], lane: usize, row: &[u8]) {
        for (panel, number) in panel.as_chunks_mut::<64>().0.iter_mut().zip(row.as_chunks::<4>().0) {
            panel[4 * lane..][..4].copy_from_slice(number);
        }
    }

    fn unpack_row(panel: &[u8], lane: usize, into: &mut [f32]) {
        for (panel, value) in panel.as_chunks::<64>().0.iter().zip(into) {
            *value = f32::from_le_bytes(std::array::from_fn(|byte| panel[4 * lane + byte]));
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, panels: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]) {
        floating::multiply::<S, Single>(simd, panels, Single::panel_bytes(tile.inputs), tile, sums);
    }
}

impl Weights for Single {
    type Block = [[u8; 64]; BLOCK_PLACES];
    type Value = f32;

    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F {
        simd.of_bits(simd.load_bytes(&block[place]))
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, sums: S::F, weights: S::F, value: f32) -> S::F {
        simd.fma(weights, simd.splat(value), sums)
    }
}

impl Floating for Single {
    #[inline(always)]
    fn blocks(panel: &[u8]) -> (&[Self::Block], &[u8]) {
        let (places, _) = panel.as_chunks();
        let (blocks, rest) = places.as_chunks();
        (blocks, rest.as_flattened())
    }

    #[inline(always)]
    fn rows(tile: Tile<'_>) -> &[[f32; BLOCK_PLACES]] {
        tile.single
    }
}
