//! `F16`: numbers in IEEE half precision, multiplied in single precision.
//!
//! ```text
//! panel   input of 32 bytes: 16 lanes × f16
//! ```

use half::f16;

use super::PanelFormat;
use super::floating::{self, Floating, Weights};
use crate::activations::{BLOCK_PLACES, Form, Tile};
use crate::product::MOST_PANELS;
use crate::simd::{LANES, Simd};

pub(crate) struct Half;

impl PanelFormat for Half {
    const BLOCK_INPUTS: usize = 1;
    const BLOCK_BYTES: usize = 2;
    const FORM: Form = Form::Single;
    const PANELS_AT_ONCE: usize = MOST_PANELS;

    fn pack_row(panel: &mut [u8], lane: usize, row: &[u8]) {
        for (panel, number) in panel.as_chunks_mut::<32>().0.iter_mut().zip(row.as_chunks::<2>().0) {
            panel[2 * lane..][..2].copy_from_slice(number);
        }
    }

    fn unpack_row(panel: &[u8], lane: usize, into: &mut [f32]) {
        for (panel, value) in panel.as_chunks::<32>().0.iter().zip(into) {
            *value = f16::from_le_bytes([panel[2 * lane], panel[2 * lane + 1]]).to_f32();
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, panels: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]) {
        let panel_bytes = Half::panel_bytes(tile.inputs);
        if tile.rows <= S::TILE_ROWS {
            floating::multiply::<S, Half>(simd, panels, panel_bytes, tile, sums);
        } else {
            floating::multiply_many::<S, Half>(simd, panels, panel_bytes, tile, sums);
        }
    }
}

impl Weights for Half {
    type Block = [[[u8; 2]; LANES]; BLOCK_PLACES];
    type Value = f32;

    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F {
        simd.load_half(&block[place].map(u16::from_le_bytes))
    }
}

impl Floating for Half {
    #[inline(always)]
    fn blocks(panel: &[u8]) -> (&[Self::Block], &[u8]) {
        let (numbers, _) = panel.as_chunks();
        let (places, _) = numbers.as_chunks::<LANES>();
        let (blocks, rest) = places.as_chunks();
        (blocks, rest.as_flattened().as_flattened())
    }

    #[inline(always)]
    fn rows(tile: Tile<'_>) -> &[[f32; BLOCK_PLACES]] {
        tile.single
    }
}
