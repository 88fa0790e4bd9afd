//! `F32`: numbers in single precision, as they are.
//!
//! ```text
//! panel   input of 64 bytes: 16 lanes × f32
//! ```

use super::PanelFormat;
use crate::activations::{Form, Tile};
use crate::simd::{LANES, Simd};

pub(crate) struct Single;

impl PanelFormat for Single {
    const BLOCK_INPUTS: usize = 1;
    const BLOCK_BYTES: usize = 4;
    const FORM: Form = Form::Single;

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
    fn multiply<S: Simd>(simd: S, panel: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]) {
        sums.fill([0.0; LANES]);
        for (weights, rows) in panel.as_chunks::<64>().0.iter().zip(tile.single.chunks_exact(tile.rows)) {
            let weights = simd.from_bits(simd.load_bytes(weights));
            for (&value, total) in rows.iter().zip(sums.iter_mut()) {
                simd.store(simd.fma(weights, simd.splat(value), simd.load(total)), total);
            }
        }
    }
}
