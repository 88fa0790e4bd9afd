//! `Q8_0`: 32 numbers of 8 bits under one scale.
//!
//! ```text
//! file    block of 34 bytes: scale f16 | 32 × i8
//! panel   block of 544 bytes: 16 scales f16 | 8 × (16 lanes × 4 inputs), each byte plus 128
//! ```
//! The product of bytes takes one side as unsigned, so 128 is added here and 128 times the sum of the row's bytes taken off
//! there: that is what a sum begins with.

use super::PanelFormat;
use crate::activations::{Form, Tile};
use crate::simd::{LANES, Simd};

pub(crate) struct Q8_0;

const BLOCK: usize = 34;
const PANEL_BLOCK: usize = BLOCK * LANES;

impl PanelFormat for Q8_0 {
    const BLOCK_INPUTS: usize = 32;
    const BLOCK_BYTES: usize = BLOCK;
    const FORM: Form = Form::Bytes32;

    fn pack_row(panel: &mut [u8], lane: usize, row: &[u8]) {
        for (panel, block) in panel.as_chunks_mut::<PANEL_BLOCK>().0.iter_mut().zip(row.as_chunks::<BLOCK>().0) {
            panel[2 * lane..][..2].copy_from_slice(&block[..2]);
            for (four, bytes) in block[2..].as_chunks::<4>().0.iter().enumerate() {
                panel[32 + 64 * four + 4 * lane..][..4].copy_from_slice(&bytes.map(|byte| byte ^ 0x80));
            }
        }
    }

    fn unpack_row(panel: &[u8], lane: usize, into: &mut [f32]) {
        for (panel, into) in panel.as_chunks::<PANEL_BLOCK>().0.iter().zip(into.as_chunks_mut::<32>().0) {
            let scale = half::f16::from_le_bytes([panel[2 * lane], panel[2 * lane + 1]]).to_f32();
            for (four, values) in into.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                for (value, byte) in values.iter_mut().zip(&panel[32 + 64 * four + 4 * lane..]) {
                    *value = f32::from((byte ^ 0x80) as i8) * scale;
                }
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, panel: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]) {
        sums.fill([0.0; LANES]);
        let rows = tile.rows;
        for (at, block) in panel.as_chunks::<PANEL_BLOCK>().0.iter().enumerate() {
            let (scales, bytes) = block.split_at(32);
            let scales = super::halves(simd, scales);
            let weights: [S::I; 8] = std::array::from_fn(|four| simd.load_bytes(&bytes.as_chunks().0[four]));
            let part = at * rows..(at + 1) * rows;
            let rows = tile.quants[part.clone()].iter().zip(&tile.scales[part.clone()]).zip(&tile.sums[part]);
            for (((quants, &scale), &sum), total) in rows.zip(sums.iter_mut()) {
                let mut products = simd.splat_int(-128 * sum);
                for (&weights, &quants) in weights.iter().zip(quants.as_chunks::<4>().0) {
                    products = simd.dot_bytes(products, weights, quants);
                }
                let scaled = simd.mul(simd.to_float(products), simd.splat(scale));
                simd.store(simd.fma(scaled, scales, simd.load(total)), total);
            }
        }
    }
}
