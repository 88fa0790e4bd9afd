//! What the floating-point formats share: sums that stay in registers while weights and rows pass.
//!
//! A panel of these formats holds, for each place of the summed dimension, what sixteen lanes have there.  A register tile
//! is a few rows times one, two or four panels: the weights of a place are loaded once, and each row's value is spread to
//! all lanes.  A lane's sum takes one place after the other from the first to the last, in a register or put aside in
//! between, so that how the work is cut changes no bit of it.

use std::ops::Range;

use crate::activations::{BLOCK_PLACES, Tile};
use crate::simd::{LANES, Simd};

/// How many places are summed before other rows have their turn: meanwhile the weights of two panels stay in the first
/// cache and the rows of a tile in the second.
const STRETCH_PLACES: usize = 256;
/// How far ahead weights are fetched that are read once.
const PREFETCH_BYTES: usize = 4096;

/// A format whose lanes have one number, or a pair, at each place.
pub(super) trait Floating {
    /// How many bytes sixteen lanes have at one place.
    const PLACE_BYTES: usize;
    /// What a row has at one place.
    type Value: Copy;

    /// The rows of a tile, `[block of places][row]`.
    fn rows(tile: Tile<'_>) -> &[[Self::Value; BLOCK_PLACES]];

    /// What sixteen lanes have at one place; `bytes` are those of a place.
    fn load<S: Simd>(simd: S, bytes: &[u8]) -> S::F;

    /// Adds to each lane the product of its weight with a row's value.
    fn add<S: Simd>(simd: S, sums: S::F, weights: S::F, value: Self::Value) -> S::F;
}

/// Panels, one after the other, and the rows that they are multiplied with, both at some places alone.
struct Work<'a, V> {
    panels: &'a [u8],
    panel_bytes: usize,
    rows: &'a [[V; BLOCK_PLACES]],
    tile_rows: usize,
    places: Range<usize>,
    prefetch: usize,
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
    let (rows, tile_rows) = (F::rows(tile), tile.rows);
    let places = panel_bytes / F::PLACE_BYTES;
    let whole = places - places % BLOCK_PLACES;
    let row_blocks = tile_rows.div_ceil(S::TILE_ROWS);
    let at_once = panels_at_once::<S>(tile_rows.div_ceil(row_blocks));
    let group_bytes = at_once * panel_bytes;
    let (stretch, prefetch) = if row_blocks == 1 { (whole, PREFETCH_BYTES) } else { (STRETCH_PLACES, group_bytes) };
    for start in (0..whole).step_by(stretch.max(1)) {
        let places = start..whole.min(start + stretch);
        for (panels, sums) in panels.chunks(group_bytes).zip(sums.chunks_mut(at_once * tile_rows)) {
            let work = Work { panels, panel_bytes, rows, tile_rows, places: places.clone(), prefetch };
            for block in 0..row_blocks {
                let start = tile_rows * block / row_blocks;
                let rows = start..tile_rows * (block + 1) / row_blocks;
                add_rows::<S, F>(simd, &work, rows, sums);
            }
        }
    }
    for (panel, sums) in panels.chunks_exact(panel_bytes).zip(sums.chunks_exact_mut(tile_rows)) {
        let rows = &rows[whole / BLOCK_PLACES * tile_rows..];
        for (row, sums) in rows.iter().zip(sums) {
            let mut total = simd.load(sums);
            for (weights, &value) in panel[whole * F::PLACE_BYTES..].chunks_exact(F::PLACE_BYTES).zip(row) {
                total = F::add(simd, total, F::load(simd, weights), value);
            }
            simd.store(total, sums);
        }
    }
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

/// Adds the work's places to the sums of a few rows.
#[inline(always)]
fn add_rows<S: Simd, F: Floating>(simd: S, work: &Work<'_, F::Value>, rows: Range<usize>, sums: &mut [[f32; LANES]]) {
    /// One arm for each number of rows; those that the instruction set has too few registers for are empty.
    macro_rules! by_number {
        ($($count:literal)+) => {
            match rows.len() {
                $($count if $count <= S::TILE_ROWS => match panels_at_once::<S>($count) {
                    4 if work.panels.len() == 4 * work.panel_bytes => {
                        register_tile::<S, F, $count, 4>(simd, work, 0, rows.start, sums)
                    }
                    2 if work.panels.len() == 2 * work.panel_bytes => {
                        register_tile::<S, F, $count, 2>(simd, work, 0, rows.start, sums)
                    }
                    _ => {
                        for panel in 0..work.panels.len() / work.panel_bytes {
                            register_tile::<S, F, $count, 1>(simd, work, panel, rows.start, sums);
                        }
                    }
                },)+
                count => unreachable!("a register tile of {count} rows"),
            }
        };
    }
    by_number!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

#[inline(always)]
fn register_tile<S: Simd, F: Floating, const ROWS: usize, const PANELS: usize>(
    simd: S,
    work: &Work<'_, F::Value>,
    first_panel: usize,
    first_row: usize,
    sums: &mut [[f32; LANES]],
) {
    let Work { panel_bytes, tile_rows, ref places, prefetch, .. } = *work;
    let block_bytes = BLOCK_PLACES * F::PLACE_BYTES;
    let mut panels: [_; PANELS] = std::array::from_fn(|panel| {
        let panel = &work.panels[(first_panel + panel) * panel_bytes..][..panel_bytes];
        panel[places.start * F::PLACE_BYTES..places.end * F::PLACE_BYTES].chunks_exact(block_bytes)
    });
    let rows = work.rows[places.start / BLOCK_PLACES * tile_rows..].chunks_exact(tile_rows);
    let mut totals = [[simd.splat(0.0); PANELS]; ROWS];
    if places.start > 0 {
        for (row, totals) in totals.iter_mut().enumerate() {
            for (panel, total) in totals.iter_mut().enumerate() {
                *total = simd.load(&sums[(first_panel + panel) * tile_rows + first_row + row]);
            }
        }
    }
    for rows in rows.take(places.len() / BLOCK_PLACES) {
        let rows: &[_; ROWS] = rows[first_row..].first_chunk().expect("the rows are some of the tile's");
        let panels: [&[u8]; PANELS] =
            std::array::from_fn(|panel| panels[panel].next().expect("a panel has as many places as a row"));
        for place in 0..BLOCK_PLACES {
            let mut weights = [simd.splat(0.0); PANELS];
            for (weights, panel) in weights.iter_mut().zip(panels) {
                let bytes = &panel[place * F::PLACE_BYTES..][..F::PLACE_BYTES];
                simd.prefetch(bytes, prefetch);
                *weights = F::load(simd, bytes);
            }
            for (row, totals) in rows.iter().zip(&mut totals) {
                for (total, &weights) in totals.iter_mut().zip(&weights) {
                    *total = F::add(simd, *total, weights, row[place]);
                }
            }
        }
    }
    for (row, totals) in totals.into_iter().enumerate() {
        for (panel, total) in totals.into_iter().enumerate() {
            simd.store(total, &mut sums[(first_panel + panel) * tile_rows + first_row + row]);
        }
    }
}
