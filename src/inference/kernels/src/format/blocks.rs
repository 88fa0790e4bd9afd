//! Formats whose block is 32 numbers under one scale: one kernel for all of them.
//!
//! ```text
//! file    block: scale f16 | the numbers
//! panel   block: 16 scales f16 | 16 times the bytes of the numbers, as the format wants them
//! ```
//! A number of the file is a whole number times the scale.  The kernel multiplies bytes, of which one side is unsigned, so
//! a format makes its whole numbers bytes plus 128.

use std::marker::PhantomData;

use super::{GROUP, Grouped, PanelFormat, Weights};
use crate::activations::{Form, Tile};
use crate::simd::{LANES, Portable, Simd};

/// What a format with such blocks says about itself.
pub(crate) trait Block {
    /// How many bytes the numbers of a block have in the file, without the scale.
    const BYTES: usize;

    /// Puts the numbers of a block into a lane.
    fn pack(panel: &mut [u8], lane: usize, numbers: &[u8]);

    /// All lanes' whole numbers plus 128.  Must be `#[inline(always)]`.
    fn weights<S: Simd>(simd: S, panel: &[u8]) -> Weights<S>;
}

/// The panels of a format.
pub(crate) struct Blocks<B>(PhantomData<B>);

const SCALE_BYTES: usize = 2;
const SCALES_BYTES: usize = SCALE_BYTES * LANES;

impl<B: Block> PanelFormat for Blocks<B> {
    const BLOCK_INPUTS: usize = 32;
    const BLOCK_BYTES: usize = SCALE_BYTES + B::BYTES;
    const FORM: Form = Form::Bytes32;

    const PANELS_AT_ONCE: usize = 2;

    fn pack_row(panel: &mut [u8], lane: usize, row: &[u8]) {
        let panels = panel.chunks_exact_mut(Self::BLOCK_BYTES * LANES);
        for (panel, block) in panels.zip(row.chunks_exact(Self::BLOCK_BYTES)) {
            let (scales, panel) = panel.split_at_mut(SCALES_BYTES);
            let (scale, numbers) = block.split_at(SCALE_BYTES);
            scales[SCALE_BYTES * lane..][..SCALE_BYTES].copy_from_slice(scale);
            B::pack(panel, lane, numbers);
        }
    }

    fn unpack_row(panel: &[u8], lane: usize, into: &mut [f32]) {
        let panels = panel.chunks_exact(Self::BLOCK_BYTES * LANES);
        for (panel, into) in panels.zip(into.as_chunks_mut::<32>().0) {
            let (scales, panel) = panel.split_at(SCALES_BYTES);
            let scale = super::halves(Portable, scales)[lane];
            for (weights, values) in B::weights(Portable, panel).iter().zip(into.as_chunks_mut::<4>().0) {
                *values = weights[lane].to_le_bytes().map(|byte| (f32::from(byte) - 128.0) * scale);
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, panels: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]) {
        super::multiply_one_or_two::<Self, S>(simd, panels, tile, sums);
    }
}

impl<B: Block> Grouped for Blocks<B> {
    #[inline(always)]
    fn multiply_group<S: Simd, const PANELS: usize>(
        simd: S,
        panels: [&[u8]; PANELS],
        tile: Tile<'_>,
        mut sums: [&mut [[f32; LANES]]; PANELS],
    ) {
        let rows = tile.rows;
        for sums in &mut sums {
            sums.fill([0.0; LANES]);
        }
        let panel_block = Self::BLOCK_BYTES * LANES;
        for at in 0..tile.inputs / 32 {
            let mut scales = [simd.splat(0.0); PANELS];
            let mut weights = [[simd.splat_int(0); 8]; PANELS];
            for ((panel, scales), weights) in panels.iter().zip(&mut scales).zip(&mut weights) {
                let block = &panel[at * panel_block..][..panel_block];
                super::prefetch_after(simd, block);
                *scales = super::halves(simd, &block[..SCALES_BYTES]);
                *weights = B::weights(simd, &block[SCALES_BYTES..]);
            }
            let quants = &tile.quants[at * rows..][..rows];
            let row_scales = &tile.scales[at * rows..][..rows];
            let starts = &tile.starts[at * rows..][..rows];
            let mut row = 0;
            while row + GROUP <= rows {
                add_rows::<S, PANELS, GROUP>(simd, row, &weights, &scales, (quants, row_scales, starts), &mut sums);
                row += GROUP;
            }
            for row in row..rows {
                add_rows::<S, PANELS, 1>(simd, row, &weights, &scales, (quants, row_scales, starts), &mut sums);
            }
        }
    }
}

/// Adds the products of 32 inputs to the sums of some rows.
#[inline(always)]
fn add_rows<S: Simd, const PANELS: usize, const ROWS: usize>(
    simd: S,
    row: usize,
    weights: &[Weights<S>; PANELS],
    scales: &[S::F; PANELS],
    (quants, row_scales, starts): (&[[i8; 32]], &[f32], &[i32]),
    sums: &mut [&mut [[f32; LANES]]; PANELS],
) {
    let (quants, start) = (&quants[row..], super::splat_rows::<S, PANELS, ROWS>(simd, &starts[row..]));
    let products = super::dots_of_both_halves(simd, quants, weights, start);
    let row_scales = &row_scales[row..][..ROWS];
    for (panel, sums) in sums.iter_mut().enumerate() {
        for ((total, products), row_scale) in sums[row..][..ROWS].iter_mut().zip(&products).zip(row_scales) {
            let scaled = simd.mul(simd.to_float(products[panel]), simd.splat(*row_scale));
            simd.store(simd.fma(scaled, scales[panel], simd.load(total)), total);
        }
    }
}
