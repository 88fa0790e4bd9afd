//! What the floating-point formats share: sums that stay in registers while weights and rows pass.
//!
//! A panel of these formats holds, for each place of the summed dimension, what sixteen lanes have there.  A register tile
//! is a few rows times one, two or four panels: the weights of a place are loaded once, and each row's value is spread to
//! all lanes.  A lane's sum takes one place after the other from the first to the last, in a register or put aside in
//! between, so that how the work is cut changes no bit of it.

use std::ops::Range;

use crate::activations::{BLOCK_PLACES, Tile};
use crate::simd::{LANES, Simd};

/// How many blocks of places are summed before other rows have their turn: meanwhile the weights of four panels stay in the
/// first cache and the rows of a tile in the second.
const STRETCH_BLOCKS: usize = 6;
/// How far ahead weights are fetched that are read once.
const PREFETCH_BYTES: usize = 4096;
/// The most panels of a register tile.
const MOST_PANELS: usize = 4;
/// The most bytes of a block.
const MOST_BYTES: usize = size_of::<[[f32; LANES]; BLOCK_PLACES]>();
/// What memory is fetched in.
const LINE_BYTES: usize = 64;

/// Sixteen lanes' weights, and how they are multiplied.
pub(super) trait Weights {
    /// What the lanes have at the places of a block.
    type Block;
    /// What a row has at one place: a number or a pair.
    type Value: Copy;
    /// Whether they are multiplied with more rows than a register tile has, and never with fewer.
    const FOR_MANY: bool = false;

    /// What the lanes have at one place.
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F;

    /// Adds to each lane the product of its weight with a row's value.
    fn add<S: Simd>(simd: S, sums: S::F, weights: S::F, value: Self::Value) -> S::F;
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

/// What will be read soon: for each block of each panel of a part, as much as it takes where it stands in memory.
#[derive(Clone, Copy)]
struct Ahead<'a> {
    /// Where the part's first panel begins, the first of its blocks.
    from: &'a u8,
    panel_bytes: usize,
    block_bytes: usize,
    /// How far from there.
    distance: isize,
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
        let ahead = Ahead::new::<S, F>(panels, panel_bytes, tile.rows, &stretch, &group);
        let sums = &mut sums[group.start * tile.rows..group.end * tile.rows];
        let mut blocks: [&[F::Block]; MOST_PANELS] = [&[]; MOST_PANELS];
        for (blocks, panel) in blocks.iter_mut().zip(group.clone()) {
            *blocks = &F::blocks(&panels[panel * panel_bytes..][..panel_bytes]).0[stretch.clone()];
        }
        add_part::<S, F>(simd, &Part { panels: &blocks[..group.len()], rows, tile_rows: tile.rows, ahead }, sums);
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
    let mut expanded = Expanded([[[[0.0; LANES]; BLOCK_PLACES]; STRETCH_BLOCKS]; MOST_PANELS]);
    sums.fill([0.0; LANES]);
    for (stretch, group) in cut::<S, F>(panels.len(), panel_bytes, tile.rows) {
        let rows = &F::rows(tile)[stretch.start * tile.rows..stretch.end * tile.rows];
        let ahead = Ahead::new::<S, F>(panels, panel_bytes, tile.rows, &stretch, &group);
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
        add_part::<S, Expanded>(simd, &part, sums);
    }
    add_rest::<S, F>(simd, panels, panel_bytes, tile, sums);
}

/// Stretches of weights in single precision.
#[repr(align(64))]
struct Expanded([[[[f32; LANES]; BLOCK_PLACES]; STRETCH_BLOCKS]; MOST_PANELS]);

impl Weights for Expanded {
    type Block = [[f32; LANES]; BLOCK_PLACES];
    type Value = f32;
    const FOR_MANY: bool = true;

    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F {
        simd.load(&block[place])
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, sums: S::F, weights: S::F, value: f32) -> S::F {
        simd.fma(weights, simd.splat(value), sums)
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
    if tile_rows <= S::TILE_ROWS { 1 } else { tile_rows.div_ceil(S::MANY_ROWS) }
}

/// How many panels are multiplied at a time.
#[inline(always)]
fn group_panels<S: Simd>(tile_rows: usize) -> usize {
    tile_panels::<S>(if tile_rows <= S::TILE_ROWS { tile_rows } else { S::MANY_ROWS })
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

/// Whether weights are ever multiplied with so many rows at a time.
const fn occurs<S: Simd, W: Weights>(rows: usize) -> bool {
    if W::FOR_MANY { S::MANY_ROWS / 2 <= rows && rows <= S::MANY_ROWS } else { rows <= S::TILE_ROWS }
}

impl<'a> Ahead<'a> {
    #[inline(always)]
    fn new<S: Simd, F: Floating>(
        panels: &'a [u8],
        panel_bytes: usize,
        tile_rows: usize,
        stretch: &Range<usize>,
        group: &Range<usize>,
    ) -> Ahead<'a> {
        let block_bytes = size_of::<F::Block>();
        let from = group.start * panel_bytes + stretch.start * block_bytes;
        let next = if row_cuts::<S>(tile_rows) == 1 {
            from + PREFETCH_BYTES
        } else if group.end * panel_bytes < panels.len() {
            group.end * panel_bytes + stretch.start * block_bytes
        } else {
            stretch.end * block_bytes
        };
        Ahead { from: &panels[from], panel_bytes, block_bytes, distance: next as isize - from as isize }
    }

    /// Fetches a share of what stands for one block.
    #[inline(always)]
    fn fetch<S: Simd>(&self, simd: S, panels: usize, block: usize, share: Range<usize>) {
        for panel in 0..panels {
            for line in share.clone() {
                let at = panel * self.panel_bytes + block * self.block_bytes + line * LINE_BYTES;
                simd.prefetch(self.from, self.distance + at as isize);
            }
        }
    }
}

/// Adds a part to the sums of all rows.
#[inline(always)]
fn add_part<S: Simd, W: Weights>(simd: S, part: &Part<'_, W>, sums: &mut [[f32; LANES]]) {
    /// One arm for each number of rows that may come.
    macro_rules! by_number {
        ($rows:ident, $lines:ident: $($count:literal)+) => {
            match $rows.len() {
                $($count if const { occurs::<S, W>($count) } => {
                    if const { tile_panels::<S>($count) == 4 } {
                        add_tile::<S, W, $count, 4>(simd, part, $rows.start, $lines, sums);
                    } else if const { tile_panels::<S>($count) == 2 } {
                        add_tile::<S, W, $count, 2>(simd, part, $rows.start, $lines, sums);
                    } else {
                        add_tile::<S, W, $count, 1>(simd, part, $rows.start, $lines, sums);
                    }
                })+
                count => unreachable!("a register tile of {count} rows"),
            }
        };
    }
    let (rows, cuts) = (part.tile_rows, row_cuts::<S>(part.tile_rows));
    let lines = part.ahead.block_bytes / LINE_BYTES;
    for cut in 0..cuts {
        let rows = rows * cut / cuts..rows * (cut + 1) / cuts;
        let lines = lines * cut / cuts..lines * (cut + 1) / cuts;
        by_number!(rows, lines: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// Adds a part to the sums of a few rows.  Where there are fewer panels than a tile has, the last one stands for more.
#[inline(always)]
fn add_tile<S: Simd, W: Weights, const ROWS: usize, const PANELS: usize>(
    simd: S,
    part: &Part<'_, W>,
    first_row: usize,
    lines: Range<usize>,
    sums: &mut [[f32; LANES]],
) {
    let last = part.panels.len() - 1;
    let mut totals = [[simd.splat(0.0); PANELS]; ROWS];
    for panel in 0..PANELS {
        let sums = &sums[panel.min(last) * part.tile_rows + first_row..][..ROWS];
        for (totals, sums) in totals.iter_mut().zip(sums) {
            totals[panel] = simd.load(sums);
        }
    }
    for (at, rows) in part.rows.chunks_exact(part.tile_rows).enumerate() {
        let rows: &[_; ROWS] = rows[first_row..].first_chunk().expect("the rows are some of the tile's");
        let mut blocks = [&part.panels[last][at]; PANELS];
        for (block, panel) in blocks.iter_mut().zip(part.panels) {
            *block = &panel[at];
        }
        part.ahead.fetch(simd, PANELS, at, lines.clone());
        // Two places at a time, for pairs of them may stand together.
        for pair in 0..BLOCK_PLACES / 2 {
            add_place::<S, W, ROWS, PANELS>(simd, blocks, rows, 2 * pair, &mut totals);
            add_place::<S, W, ROWS, PANELS>(simd, blocks, rows, 2 * pair + 1, &mut totals);
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
fn add_place<S: Simd, W: Weights, const ROWS: usize, const PANELS: usize>(
    simd: S,
    blocks: [&W::Block; PANELS],
    rows: &[[W::Value; BLOCK_PLACES]; ROWS],
    place: usize,
    totals: &mut [[S::F; PANELS]; ROWS],
) {
    let mut weights = [simd.splat(0.0); PANELS];
    for (weights, block) in weights.iter_mut().zip(blocks) {
        *weights = W::load(simd, block, place);
    }
    for (row, totals) in rows.iter().zip(totals) {
        for (total, &weights) in totals.iter_mut().zip(&weights) {
            *total = W::add(simd, *total, weights, row[place]);
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
                total = F::add(simd, total, F::load(simd, block, place), value);
            }
            simd.store(total, sums);
        }
    }
}
