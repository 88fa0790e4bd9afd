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
const PREFETCH_BYTES: usize = 4096;
/// The most panels of a register tile.
const MOST_PANELS: usize = 4;
/// How many panels' weights are expanded at a time.
const EXPANDED_PANELS: usize = 2;
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
    /// Whether they come from memory, and so are better fetched ahead, and not from where they were expanded.
    const STREAMED: bool = true;

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
    /// How far behind what is multiplied something stands that will be read soon.
    prefetch_bytes: usize,
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
    let (rows, tile_rows) = (F::rows(tile), tile.rows);
    let blocks = panel_bytes / size_of::<F::Block>();
    let at_once = panels_at_once::<S>(most_rows::<S>(tile_rows));
    let group_bytes = at_once * panel_bytes;
    let (stretch_blocks, prefetch_bytes) =
        if tile_rows <= S::TILE_ROWS { (blocks, PREFETCH_BYTES) } else { (STRETCH_BLOCKS, group_bytes) };
    sums.fill([0.0; LANES]);
    for stretch in stretches(blocks, stretch_blocks) {
        let rows = &rows[stretch.start * tile_rows..stretch.end * tile_rows];
        for (panels, sums) in panels.chunks(group_bytes).zip(sums.chunks_mut(at_once * tile_rows)) {
            let mut group: [&[F::Block]; MOST_PANELS] = [&[]; MOST_PANELS];
            for (blocks, panel) in group.iter_mut().zip(panels.chunks_exact(panel_bytes)) {
                *blocks = &F::blocks(panel).0[stretch.clone()];
            }
            let panels = &group[..panels.len() / panel_bytes];
            add_part::<S, F>(simd, &Part { panels, rows, tile_rows, prefetch_bytes }, sums);
        }
    }
    add_rest::<S, F>(simd, panels, panel_bytes, tile, sums);
}

/// Does the same for more rows than registers hold sums of: each weight is brought to single precision once for all.
#[inline(always)]
pub(super) fn multiply_many<S: Simd, F: Floating<Value = f32>>(
    simd: S,
    panels: &[u8],
    panel_bytes: usize,
    tile: Tile<'_>,
    sums: &mut [[f32; LANES]],
) {
    let (rows, tile_rows) = (F::rows(tile), tile.rows);
    let blocks = panel_bytes / size_of::<F::Block>();
    let at_once = panels_at_once::<S>(most_rows::<S>(tile_rows)).min(EXPANDED_PANELS);
    let group_bytes = at_once * panel_bytes;
    let mut expanded = Expanded([[[[0.0; LANES]; BLOCK_PLACES]; STRETCH_BLOCKS]; EXPANDED_PANELS]);
    sums.fill([0.0; LANES]);
    for stretch in stretches(blocks, STRETCH_BLOCKS) {
        let rows = &rows[stretch.start * tile_rows..stretch.end * tile_rows];
        for (panels, sums) in panels.chunks(group_bytes).zip(sums.chunks_mut(at_once * tile_rows)) {
            for (panel, expanded) in panels.chunks_exact(panel_bytes).zip(&mut expanded.0) {
                for (block, expanded) in F::blocks(panel).0[stretch.clone()].iter().zip(expanded) {
                    for (place, expanded) in expanded.iter_mut().enumerate() {
                        fetch_ahead::<S, F>(simd, block, place, group_bytes);
                        simd.store(F::load(simd, block, place), expanded);
                    }
                }
            }
            let group = expanded.0.each_ref().map(|blocks| &blocks[..stretch.len()]);
            let panels = &group[..panels.len() / panel_bytes];
            add_part::<S, Expanded>(simd, &Part { panels, rows, tile_rows, prefetch_bytes: 0 }, sums);
        }
    }
    add_rest::<S, F>(simd, panels, panel_bytes, tile, sums);
}

/// Stretches of weights in single precision.
#[repr(align(64))]
struct Expanded([[[[f32; LANES]; BLOCK_PLACES]; STRETCH_BLOCKS]; EXPANDED_PANELS]);

impl Weights for Expanded {
    type Block = [[f32; LANES]; BLOCK_PLACES];
    type Value = f32;
    const STREAMED: bool = false;

    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &Self::Block, place: usize) -> S::F {
        simd.load(&block[place])
    }

    #[inline(always)]
    fn add<S: Simd>(simd: S, sums: S::F, weights: S::F, value: f32) -> S::F {
        simd.fma(weights, simd.splat(value), sums)
    }
}

/// The numbers below `count` in stretches of so many.
#[inline(always)]
fn stretches(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(most.max(1)).map(move |start| start..count.min(start + most))
}

/// How many rows the largest register tile has: the rows are cut as evenly as possible.
#[inline(always)]
fn most_rows<S: Simd>(tile_rows: usize) -> usize {
    tile_rows.div_ceil(tile_rows.div_ceil(S::TILE_ROWS))
}

/// How many rows a register tile has at least: weights are expanded where they are more than one tile has.
const fn fewest_rows<S: Simd, W: Weights>() -> usize {
    if W::STREAMED { 1 } else { S::TILE_ROWS.div_ceil(2) }
}

/// How many panels a register tile of so many rows has: with few rows several, whose sums do not wait for one another.
#[inline(always)]
const fn panels_at_once<S: Simd>(rows: usize) -> usize {
    if rows <= 3 && 4 * rows <= S::TILE_SUMS {
        4
    } else if 2 * rows <= S::TILE_SUMS {
        2
    } else {
        1
    }
}

/// Adds a part to the sums of all rows.
#[inline(always)]
fn add_part<S: Simd, W: Weights>(simd: S, part: &Part<'_, W>, sums: &mut [[f32; LANES]]) {
    /// One arm for each number of rows that may come.
    macro_rules! by_number {
        ($rows:ident: $($count:literal)+) => {
            match $rows.len() {
                $($count if const { fewest_rows::<S, W>() <= $count && $count <= S::TILE_ROWS } => {
                    if const { panels_at_once::<S>($count) == 4 } {
                        add_tile::<S, W, $count, 4>(simd, part, $rows.start, sums);
                    } else if const { panels_at_once::<S>($count) == 2 } {
                        add_tile::<S, W, $count, 2>(simd, part, $rows.start, sums);
                    } else {
                        add_tile::<S, W, $count, 1>(simd, part, $rows.start, sums);
                    }
                })+
                count => unreachable!("a register tile of {count} rows"),
            }
        };
    }
    let (rows, cuts) = (part.tile_rows, part.tile_rows.div_ceil(S::TILE_ROWS));
    for cut in 0..cuts {
        let rows = rows * cut / cuts..rows * (cut + 1) / cuts;
        by_number!(rows: 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// Adds a part to the sums of a few rows.  Where there are fewer panels than a tile has, the last one stands for more.
#[inline(always)]
fn add_tile<S: Simd, W: Weights, const ROWS: usize, const PANELS: usize>(
    simd: S,
    part: &Part<'_, W>,
    first_row: usize,
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
        // Two places at a time, for pairs of them may stand together.
        for pair in 0..BLOCK_PLACES / 2 {
            add_place::<S, W, ROWS, PANELS>(simd, blocks, rows, 2 * pair, part.prefetch_bytes, &mut totals);
            add_place::<S, W, ROWS, PANELS>(simd, blocks, rows, 2 * pair + 1, part.prefetch_bytes, &mut totals);
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
    prefetch_bytes: usize,
    totals: &mut [[S::F; PANELS]; ROWS],
) {
    let mut weights = [simd.splat(0.0); PANELS];
    for (weights, block) in weights.iter_mut().zip(blocks) {
        fetch_ahead::<S, W>(simd, block, place, prefetch_bytes);
        *weights = W::load(simd, block, place);
    }
    for (row, totals) in rows.iter().zip(totals) {
        for (total, &weights) in totals.iter_mut().zip(&weights) {
            *total = W::add(simd, *total, weights, row[place]);
        }
    }
}

/// Lets the second cache fetch what stands so far behind a place, once for each line.
#[inline(always)]
fn fetch_ahead<S: Simd, W: Weights>(simd: S, block: &W::Block, place: usize, bytes: usize) {
    let place_bytes = size_of::<W::Block>() / BLOCK_PLACES;
    if W::STREAMED && (place * place_bytes).is_multiple_of(LINE_BYTES) {
        simd.prefetch(block, place * place_bytes + bytes);
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
