//! Formats whose block is 256 numbers with scales and a scale of the scales: one kernel for all of them.
//!
//! A number of the file is a whole number times the scale of its 16 or 32 inputs, less a minimum where the format has one.
//! Products of bytes are summed as whole numbers while the scale is the same, in single precision over the block, and only
//! then multiplied with the row's scale.  Minima are multiplied with what the row's bytes add up to.

use std::marker::PhantomData;

use super::{GROUP, Grouped, PanelFormat, Weights};
use crate::activations::{Form, PAIR, TILE_ROWS, Tile};
use crate::simd::{LANES, Portable, Simd};

/// What a format with such blocks says about itself.  All functions that take vectors must be `#[inline(always)]`.
pub(crate) trait SuperBlock {
    /// How many bytes a block has in the file.
    const BYTES: usize;
    /// Whether each 16 inputs have a scale, and not each 32.  The whole numbers are signed then, and the bytes 128 more.
    const SIXTEENS: bool;

    /// Puts a block into a lane.
    fn pack(panel: &mut [u8], lane: usize, block: &[u8]);

    /// All lanes' bytes of 32 inputs, `part` of eight.
    fn weights<S: Simd>(simd: S, panel: &[u8], part: usize) -> Weights<S>;

    /// The scales of the two halves of a part, the same where it has but one.
    fn scales<S: Simd>(simd: S, panel: &[u8], part: usize) -> [S::F; 2];

    /// The minima, where the format has some.
    fn minima<S: Simd>(simd: S, panel: &[u8]) -> Option<Minima<S>>;
}

/// What is taken off the numbers of a block.
pub(crate) struct Minima<S: Simd> {
    /// The scale of all of them.
    pub(super) scale: S::F,
    /// Two numbers of 16 bits in each lane, in the order of [`Tile::pairs`].
    pub(super) pairs: [S::I; 4],
}

/// The panels of a format.
pub(crate) struct SuperBlocks<B>(PhantomData<B>);

impl<B: SuperBlock> PanelFormat for SuperBlocks<B> {
    const BLOCK_INPUTS: usize = 256;
    const BLOCK_BYTES: usize = B::BYTES;
    const FORM: Form = Form::Bytes256;

    const PANELS_AT_ONCE: usize = 2;

    fn pack_row(panel: &mut [u8], lane: usize, row: &[u8]) {
        for (panel, block) in panel.chunks_exact_mut(B::BYTES * LANES).zip(row.chunks_exact(B::BYTES)) {
            B::pack(panel, lane, block);
        }
    }

    fn unpack_row(panel: &[u8], lane: usize, into: &mut [f32]) {
        let offset = if B::SIXTEENS { 128.0 } else { 0.0 };
        for (panel, into) in panel.chunks_exact(B::BYTES * LANES).zip(into.as_chunks_mut::<256>().0) {
            let minima = B::minima(Portable, panel);
            for (part, into) in into.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let [pair, place] = PAIR[part];
                let minimum = minima.as_ref().map_or(0.0, |minima| {
                    minima.scale[lane] * (minima.pairs[pair][lane] >> (16 * place) & 0xffff) as f32
                });
                let scales = B::scales(Portable, panel, part);
                let weights = B::weights(Portable, panel, part);
                for (four, (weights, values)) in weights.iter().zip(into.as_chunks_mut::<4>().0).enumerate() {
                    let scale = scales[four / 4][lane];
                    *values = weights[lane].to_le_bytes().map(|byte| (f32::from(byte) - offset) * scale - minimum);
                }
            }
        }
    }

    #[inline(always)]
    fn multiply<S: Simd>(simd: S, panels: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]) {
        super::multiply_one_or_two::<Self, S>(simd, panels, tile, sums);
    }
}

impl<B: SuperBlock> Grouped for SuperBlocks<B> {
    #[inline(always)]
    fn multiply_group<S: Simd, const PANELS: usize>(
        simd: S,
        panels: [&[u8]; PANELS],
        tile: Tile<'_>,
        mut sums: [&mut [[f32; LANES]]; PANELS],
    ) {
        for sums in &mut sums {
            sums.fill([0.0; LANES]);
        }
        let rows = tile.rows;
        let mut block_sums = Sums::<PANELS>::new();
        let mut block_sums = block_sums.rows(rows);
        let panel_block = B::BYTES * LANES;
        for at in 0..tile.inputs / 256 {
            let blocks = panels.map(|panel| &panel[at * panel_block..][..panel_block]);
            for (block, sums) in blocks.iter().zip(&mut block_sums) {
                begin::<B, S>(simd, block, &tile.pairs[4 * at * rows..][..4 * rows], sums);
            }
            for part in 0..8 {
                let at = 8 * at + part;
                let quants = &tile.quants[at * rows..][..rows];
                let starts = &tile.starts[2 * at * rows..][..2 * rows];
                add_part::<B, S, PANELS>(
                    simd,
                    blocks,
                    part,
                    quants,
                    [&starts[..rows], &starts[rows..]],
                    &mut block_sums,
                );
            }
            let scales = &tile.scales[at * rows..][..rows];
            for (sums, block_sums) in sums.iter_mut().zip(&block_sums) {
                for ((total, sum), &scale) in sums.iter_mut().zip(&**block_sums).zip(scales) {
                    simd.store(simd.fma(simd.load(sum), simd.splat(scale), simd.load(total)), total);
                }
            }
        }
    }
}

/// Sums of some panels and a tile, each in one cache line.
///
/// A panel's begin half a page from the next one's: the processor takes a load for dependent on an earlier store whose
/// address ends in the same twelve bits.
#[repr(align(64))]
struct Sums<const PANELS: usize>([[[f32; LANES]; TILE_ROWS + TILE_ROWS / 2]; PANELS]);

impl<const PANELS: usize> Sums<PANELS> {
    #[inline(always)]
    fn new() -> Sums<PANELS> {
        Sums([[[0.0; LANES]; TILE_ROWS + TILE_ROWS / 2]; PANELS])
    }

    /// Those of so many rows, for each panel.
    #[inline(always)]
    fn rows(&mut self, rows: usize) -> [&mut [[f32; LANES]]; PANELS] {
        self.0.each_mut().map(|sums| &mut sums[..rows])
    }
}

/// Sets the sums of a block to what its minima take off.
#[inline(always)]
fn begin<B: SuperBlock, S: Simd>(simd: S, block: &[u8], pairs: &[[i16; 2]], sums: &mut [[f32; LANES]]) {
    let Some(minima) = B::minima(simd, block) else { return sums.fill([0.0; LANES]) };
    let scale = simd.sub(simd.splat(0.0), minima.scale);
    let rows = sums.len();
    let [first, second, third, fourth] = std::array::from_fn(|pair| &pairs[pair * rows..][..rows]);
    for (row, sum) in sums.iter_mut().enumerate() {
        let mut products = simd.splat_int(0);
        for (minima, pair) in minima.pairs.iter().zip([first[row], second[row], third[row], fourth[row]]) {
            products = simd.dot_pairs(products, *minima, pair);
        }
        simd.store(simd.mul(simd.to_float(products), scale), sum);
    }
}

/// Adds the products of 32 inputs.
#[inline(always)]
fn add_part<B: SuperBlock, S: Simd, const PANELS: usize>(
    simd: S,
    blocks: [&[u8]; PANELS],
    part: usize,
    quants: &[[i8; 32]],
    starts: [&[i32]; 2],
    sums: &mut [&mut [[f32; LANES]]; PANELS],
) {
    let rows = quants.len();
    let mut scales = [[simd.splat(0.0); 2]; PANELS];
    let mut weights = [[simd.splat_int(0); 8]; PANELS];
    for ((block, scales), weights) in blocks.iter().zip(&mut scales).zip(&mut weights) {
        super::prefetch_after(simd, &block[part * block.len() / 8..][..block.len() / 8]);
        *scales = B::scales(simd, block, part);
        *weights = B::weights(simd, block, part);
    }
    let mut row = 0;
    while row + GROUP <= rows {
        add_rows::<B, S, PANELS, GROUP>(simd, row, &weights, &scales, (quants, starts), sums);
        row += GROUP;
    }
    for row in row..rows {
        add_rows::<B, S, PANELS, 1>(simd, row, &weights, &scales, (quants, starts), sums);
    }
}

/// Adds the products of 32 inputs to the sums of some rows.
#[inline(always)]
fn add_rows<B: SuperBlock, S: Simd, const PANELS: usize, const ROWS: usize>(
    simd: S,
    row: usize,
    weights: &[Weights<S>; PANELS],
    scales: &[[S::F; 2]; PANELS],
    (quants, starts): (&[[i8; 32]], [&[i32]; 2]),
    sums: &mut [&mut [[f32; LANES]]; PANELS],
) {
    let quants = &quants[row..];
    if B::SIXTEENS {
        let start = super::splat_rows::<S, PANELS, ROWS>(simd, &starts[0][row..]);
        add(simd, row, super::dots(simd, quants, 0, weights, start), scales, 0, sums);
        let start = super::splat_rows::<S, PANELS, ROWS>(simd, &starts[1][row..]);
        add(simd, row, super::dots(simd, quants, 1, weights, start), scales, 1, sums);
    } else {
        let start = [[simd.splat_int(0); PANELS]; ROWS];
        add(simd, row, super::dots_of_both_halves(simd, quants, weights, start), scales, 0, sums);
    }
}

/// Adds products under their scales.
#[inline(always)]
fn add<S: Simd, const PANELS: usize, const ROWS: usize>(
    simd: S,
    row: usize,
    products: [[S::I; PANELS]; ROWS],
    scales: &[[S::F; 2]; PANELS],
    half: usize,
    sums: &mut [&mut [[f32; LANES]]; PANELS],
) {
    for (panel, sums) in sums.iter_mut().enumerate() {
        for (sum, products) in sums[row..][..ROWS].iter_mut().zip(&products) {
            simd.store(simd.fma(simd.to_float(products[panel]), scales[panel][half], simd.load(sum)), sum);
        }
    }
}
