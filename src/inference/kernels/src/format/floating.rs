//! What the floating-point formats share: sums that stay in registers while weights and rows pass.
//!
//! A panel of these formats holds, for each place of the summed dimension, what sixteen lanes have there.  A register tile
//! is a few rows times one, two or four panels: the weights of a place are loaded once, and each row's value is spread to
//! all lanes.  A lane's sum takes one place after the other from the first to the last, in a register or put aside in
//! between, so that how the work is cut changes no bit of it.

use std::ops::Range;

use crate::activations::{BLOCK_PLACES, Tile};
use crate::simd::{LANES, Simd};

/// How many blocks of places are summed before other rows have their turn: meanwhile the weights of two panels stay in the
/// first cache and the rows of a tile in the second.
const STRETCH_BLOCKS: usize = 16;
/// How far ahead weights are fetched that are read once.
const PREFETCH_BYTES: isize = 4096;
/// The most panels of a register tile.
const MOST_PANELS: usize = 4;
/// The most panels of one that is among several for the same panels.
const MANY_PANELS: usize = 2;
/// How many lines of each block are fetched ahead with each of several register tiles.
const LINES_AHEAD: usize = 4;
/// The most bytes of a block.
const MOST_BYTES: usize = size_of::<[[f32; LANES]; BLOCK_PLACES]>();
/// What memory is fetched in.
const LINE_BYTES: usize = 64;

/// Sixteen lanes' weights.
pub(super) trait Weights {
    /// What the lanes have at the places of a block.
    type Block;
    /// What a row has at one place.
    type Value: Value;

    /// What the lanes have at one place.
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F;
}

/// A number, or a pair of bfloat16.  Its function must be `#[inline(always)]`.
pub(super) trait Value: Copy {
    /// Adds to each lane the product of its weight with a row's value.
    fn add<S: Simd>(self, simd: S, sums: S::F, weights: S::F) -> S::F;
}

impl Value for f32 {
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, sums: S::F, weights: S::F) -> S::F {
        simd.fma(weights, simd.splat(self), sums)
    }
}

impl Value for [u16; 2] {
    #[inline(always)]
    fn add<S: Simd>(self, simd: S, sums: S::F, weights: S::F) -> S::F {
        simd.dot_brain(sums, simd.bits(weights), self)
    }
}

/// Weights as they stand in the panels of a format.
pub(super) trait Floating: Weights {
    /// The whole blocks of a panel, and the bytes of a last one that is not.
    fn blocks(panel: &[u8]) -> (&[Self::Block], &[u8]);

    /// The rows of a tile, `[block][row]`.
    fn rows(tile: Tile<'_>) -> &[[Self::Value; BLOCK_PLACES]];
}

/// Some panels' weights at some blocks, and what the rows of a tile have there.
struct Part<'a, W: Weights> {
    panels: &'a [&'a [W::Block]],
    rows: &'a [[W::Value; BLOCK_PLACES]],
    tile_rows: usize,
    /// What is fetched meanwhile.
    ahead: Ahead<'a>,
}

/// What will be read after a part: for each block of each of its panels another, as they stand in memory.
#[derive(Clone, Copy)]
struct Ahead<'a> {
    /// Where the part's first block stands.
    from: &'a u8,
    /// How far from there the other is.
    distance: isize,
    panel_bytes: usize,
    block_bytes: usize,
}

/// Sets `sums[panel][row]` to the product of each panel with each row.
#[inline(always)]
pub(super) fn multiply<S: Simd, F: Floating>(
    simd: S,
    panels: &[u8],
    panel_bytes: usize,
    tile: Tile<'_>,
    sums: &mut [[f32; LANES]],
) {
    sums.fill([0.0; LANES]);
    for (stretch, group) in cut::<S, F>(panels.len(), panel_bytes, tile.rows) {
        let rows = &F::rows(tile)[stretch.start * tile.rows..stretch.end * tile.rows];
        let ahead = Ahead::new::<F>(panels, panel_bytes, &stretch, &group);
        let sums = &mut sums[group.start * tile.rows..group.end * tile.rows];
        let mut blocks: [&[F::Block]; MOST_PANELS] = [&[]; MOST_PANELS];
        for (blocks, panel) in blocks.iter_mut().zip(group.clone()) {
            *blocks = &F::blocks(&panels[panel * panel_bytes..][..panel_bytes]).0[stretch.clone()];
        }
        let part = Part { panels: &blocks[..group.len()], rows, tile_rows: tile.rows, ahead };
        if tile.rows <= S::TILE_ROWS {
            add_part::<S, F, false>(simd, &part, sums);
        } else {
            add_part::<S, F, true>(simd, &part, sums);
        }
    }
    add_rest::<S, F>(simd, panels, panel_bytes, tile, sums);
}

/// Does the same for more rows than a register tile has: each weight is brought to single precision once for all.
#[inline(always)]
pub(super) fn multiply_many<S: Simd, F: Floating<Value = f32>>(
    simd: S,
    panels: &[u8],
    panel_bytes: usize,
    tile: Tile<'_>,
    sums: &mut [[f32; LANES]],
) {
    let mut expanded = Expanded([[[[0.0; LANES]; BLOCK_PLACES]; STRETCH_BLOCKS]; MANY_PANELS]);
    sums.fill([0.0; LANES]);
    for (stretch, group) in cut::<S, F>(panels.len(), panel_bytes, tile.rows) {
        let rows = &F::rows(tile)[stretch.start * tile.rows..stretch.end * tile.rows];
        let ahead = Ahead::new::<F>(panels, panel_bytes, &stretch, &group);
        let sums = &mut sums[group.start * tile.rows..group.end * tile.rows];
        for (panel, expanded) in group.clone().zip(&mut expanded.0) {
            let blocks = &F::blocks(&panels[panel * panel_bytes..][..panel_bytes]).0[stretch.clone()];
            for (block, expanded) in blocks.iter().zip(expanded) {
                for (place, expanded) in expanded.iter_mut().enumerate() {
                    simd.store(F::load(simd, block, place), expanded);
                }
            }
        }
        let blocks = expanded.0.each_ref().map(|blocks| &blocks[..stretch.len()]);
        let part = Part { panels: &blocks[..group.len()], rows, tile_rows: tile.rows, ahead };
        add_part::<S, Expanded, true>(simd, &part, sums);
    }
    add_rest::<S, F>(simd, panels, panel_bytes, tile, sums);
}

/// Stretches of weights in single precision.
#[repr(align(64))]
struct Expanded([[[[f32; LANES]; BLOCK_PLACES]; STRETCH_BLOCKS]; MANY_PANELS]);

impl Weights for Expanded {
    type Block = [[f32; LANES]; BLOCK_PLACES];
    type Value = f32;

    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F {
        simd.load(&block[place])
    }
}

/// In which stretches of blocks and groups of panels the work is done, one stretch after the other.
#[inline(always)]
fn cut<S: Simd, F: Floating>(
    bytes: usize,
    panel_bytes: usize,
    tile_rows: usize,
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let (panels, blocks) = (bytes / panel_bytes, panel_bytes / size_of::<F::Block>());
    // Weights that pass once are read from one end to the other.
    let stretch = if row_cuts::<S>(tile_rows) == 1 { blocks } else { STRETCH_BLOCKS };
    let group = group_panels::<S>(tile_rows);
    (0..blocks).step_by(stretch.max(1)).flat_map(move |start| {
        let stretch = start..blocks.min(start + stretch);
        (0..panels).step_by(group).map(move |first| (stretch.clone(), first..panels.min(first + group)))
    })
}

/// How many register tiles the rows make.
#[inline(always)]
fn row_cuts<S: Simd>(tile_rows: usize) -> usize {
    tile_rows.div_ceil(S::TILE_ROWS)
}

/// How many panels are multiplied at a time.
#[inline(always)]
fn group_panels<S: Simd>(tile_rows: usize) -> usize {
    tile_panels::<S>(tile_rows.min(S::TILE_ROWS))
}

/// How many panels a register tile of so many rows has: as many as there are registers for, beside those for the weights
/// and a row's value.
const fn tile_panels<S: Simd>(rows: usize) -> usize {
    if 4 * (rows + 1) < S::REGISTERS {
        4
    } else if 2 * (rows + 1) < S::REGISTERS {
        2
    } else {
        1
    }
}

/// Whether a register tile ever has so many rows.
const fn occurs<S: Simd, const MANY: bool>(rows: usize) -> bool {
    rows <= S::TILE_ROWS && (!MANY || S::TILE_ROWS / 2 <= rows)
}

impl<'a> Ahead<'a> {
    #[inline(always)]
    fn new<F: Floating>(
        panels: &'a [u8],
        panel_bytes: usize,
        stretch: &Range<usize>,
        group: &Range<usize>,
    ) -> Ahead<'a> {
        let block_bytes = size_of::<F::Block>();
        let from = group.start * panel_bytes + stretch.start * block_bytes;
        let next = if group.end * panel_bytes < panels.len() {
            group.end * panel_bytes + stretch.start * block_bytes
        } else {
            stretch.end * block_bytes
        };
        Ahead { from: &panels[from], distance: next as isize - from as isize, panel_bytes, block_bytes }
    }

    /// Fetches some lines of each panel's block: the register tiles share them.
    #[inline(always)]
    fn fetch<S: Simd, const PANELS: usize>(&self, simd: S, block: usize, cut: usize) {
        let start = self.distance.wrapping_add(self.block_bytes.wrapping_mul(block) as isize);
        let share = (LINES_AHEAD * LINE_BYTES).wrapping_mul(cut) % self.block_bytes;
        for panel in 0..PANELS {
            for line in 0..LINES_AHEAD {
                let at = self.panel_bytes.wrapping_mul(panel).wrapping_add(share + line * LINE_BYTES);
                simd.prefetch(self.from, start.wrapping_add(at as isize));
            }
        }
    }
}

/// Adds a part to the sums of all rows.
#[inline(always)]
fn add_part<S: Simd, W: Weights, const MANY: bool>(simd: S, part: &Part<'_, W>, sums: &mut [[f32; LANES]]) {
    /// One arm for each number of rows that may come.
    macro_rules! by_number {
        ($rows:ident, $cut:ident: $($count:literal)+) => {
            match $rows.len() {
                $($count if const { occurs::<S, MANY>($count) } => {
                    if const { tile_panels::<S>($count) == 4 } {
                        add_tile::<S, W, $count, 4, MANY>(simd, part, $rows.start, $cut, sums);
                    } else if const { tile_panels::<S>($count) == 2 } {
                        add_tile::<S, W, $count, 2, MANY>(simd, part, $rows.start, $cut, sums);
                    } else {
                        add_tile::<S, W, $count, 1, MANY>(simd, part, $rows.start, $cut, sums);
                    }
                })+
                count => unreachable!("a register tile of {count} rows"),
            }
        };
    }
    let (rows, cuts) = (part.tile_rows, row_cuts::<S>(part.tile_rows));
    for cut in 0..cuts {
        let rows = rows * cut / cuts..rows * (cut + 1) / cuts;
        by_number!(rows, cut: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// Adds a part to the sums of a few rows.  Where there are fewer panels than a tile has, the last one stands for more.
#[inline(always)]
fn add_tile<S: Simd, W: Weights, const ROWS: usize, const PANELS: usize, const MANY: bool>(
    simd: S,
    part: &Part<'_, W>,
    first_row: usize,
    cut: usize,
    sums: &mut [[f32; LANES]],
) {
    let last = part.panels.len() - 1;
    let mut panels = [part.panels[last]; PANELS];
    panels[..=last].copy_from_slice(part.panels);
    let mut totals = [[simd.splat(0.0); PANELS]; ROWS];
    for panel in 0..PANELS {
        let sums = &sums[panel.min(last) * part.tile_rows + first_row..][..ROWS];
        for (totals, sums) in totals.iter_mut().zip(sums) {
            totals[panel] = simd.load(sums);
        }
    }
    for (at, rows) in part.rows.chunks_exact(part.tile_rows).enumerate() {
        let rows: &[_; ROWS] = rows[first_row..].first_chunk().expect("the rows are some of the tile's");
        let blocks = panels.map(|panel| &panel[at]);
        if MANY {
            part.ahead.fetch::<S, PANELS>(simd, at, cut);
        }
        // Two places at a time, for pairs of them may stand together.
        for pair in 0..BLOCK_PLACES / 2 {
            add_place::<S, W, ROWS, PANELS, MANY>(simd, blocks, rows, 2 * pair, &mut totals);
            add_place::<S, W, ROWS, PANELS, MANY>(simd, blocks, rows, 2 * pair + 1, &mut totals);
        }
    }
    for panel in 0..PANELS {
        let sums = &mut sums[panel.min(last) * part.tile_rows + first_row..][..ROWS];
        for (totals, sums) in totals.iter().zip(sums) {
            simd.store(totals[panel], sums);
        }
    }
}

#[inline(always)]
fn add_place<S: Simd, W: Weights, const ROWS: usize, const PANELS: usize, const MANY: bool>(
    simd: S,
    blocks: [&W::Block; PANELS],
    rows: &[[W::Value; BLOCK_PLACES]; ROWS],
    place: usize,
    totals: &mut [[S::F; PANELS]; ROWS],
) {
    let mut weights = [simd.splat(0.0); PANELS];
    for (weights, block) in weights.iter_mut().zip(blocks) {
        let at = place * (size_of::<W::Block>() / BLOCK_PLACES);
        if !MANY && at.is_multiple_of(LINE_BYTES) {
            simd.prefetch(block, PREFETCH_BYTES + at as isize);
        }
        *weights = W::load(simd, block, place);
    }
    for (row, totals) in rows.iter().zip(totals) {
        for (total, &weights) in totals.iter_mut().zip(&weights) {
            *total = row[place].add(simd, *total, weights);
        }
    }
}

/// Adds the places after the last whole block.
#[inline(always)]
fn add_rest<S: Simd, F: Floating>(
    simd: S,
    panels: &[u8],
    panel_bytes: usize,
    tile: Tile<'_>,
    sums: &mut [[f32; LANES]],
) {
    for (panel, sums) in panels.chunks_exact(panel_bytes).zip(sums.chunks_exact_mut(tile.rows)) {
        let (blocks, rest) = F::blocks(panel);
        let mut padded = [0; MOST_BYTES];
        padded[..rest.len()].copy_from_slice(rest);
        let block = &F::blocks(&padded).0[0];
        let places = rest.len() * BLOCK_PLACES / size_of::<F::Block>();
        let rows = F::rows(tile)[blocks.len() * tile.rows..].iter();
        for (row, sums) in rows.zip(sums) {
            let mut total = simd.load(sums);
            for (place, &value) in row[..places].iter().enumerate() {
                total = value.add(simd, total, F::load(simd, block, place));
            }
            simd.store(total, sums);
        }
    }
}
