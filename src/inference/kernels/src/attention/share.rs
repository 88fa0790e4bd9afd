//! Tiles to threads: each to whoever is free, and those that one thread would be left alone with in parts.

use std::cell::RefCell;

use super::step::Memory;
use super::tile::Tile;
use crate::Processor;
use crate::memory::Buffer;
use crate::pool::Pieces;

/// A tile is computed whole if it is less work than this part of what each thread has.
const SHARES: usize = 8;
/// The most queries of a tile that is computed in parts, whose states take memory for each part.  Rows of prompts are
/// more, and there are many such tiles.
const PARTED_QUERIES: usize = 32;

thread_local! {
    /// The states of parts, kept because whoever attends does so in each layer.
    static STATES: RefCell<Buffer<f32>> = RefCell::default();
}

/// What one thread computes at a time.
enum Piece<'a, M> {
    Whole(&'a Tile<'a, M>),
    /// A part, whose state begins at a place of the states.
    Part(&'a Tile<'a, M>, usize, usize),
}

/// Computes tiles.
///
/// # Safety
/// As for [`Tile::compute`], for each of them.
pub(super) unsafe fn compute<M: Memory + Sync>(processor: &Processor, tiles: &[Tile<'_, M>]) {
    let threads = processor.pool.threads();
    let work = |tile: &Tile<'_, M>| tile.queries() * tile.tokens().len();
    let all: usize = tiles.iter().map(work).sum();
    let (mut pieces, mut merged, mut length) = (Vec::with_capacity(tiles.len()), Vec::new(), 0);
    for tile in tiles {
        let is_large = threads > 1 && work(tile) * threads * SHARES > all;
        if is_large && tile.queries() <= PARTED_QUERIES && tile.parts().len() > 1 {
            merged.push((tile, length));
            for part in tile.parts() {
                pieces.push(Piece::Part(tile, part, length));
                length += tile.state_length();
            }
        } else {
            pieces.push(Piece::Whole(tile));
        }
    }
    STATES.with_borrow_mut(|states| {
        states.reserve_zeroed(length);
        let states = Pieces(states.as_mut_ptr());
        processor.pool.for_each(pieces.len(), |index| match pieces[index] {
            // SAFETY: the caller's, and each tile is handed out once.
            Piece::Whole(tile) => unsafe { tile.compute(processor.isa) },
            Piece::Part(tile, part, start) => {
                // SAFETY: the places of the parts follow one another in the room that was made for all.
                let state = unsafe { std::slice::from_raw_parts_mut(states.at(start), tile.state_length()) };
                tile.compute_part(processor.isa, part, state);
            }
        });
        processor.pool.for_each(merged.len(), |index| {
            let (tile, start) = merged[index];
            let length = tile.parts().len() * tile.state_length();
            // SAFETY: the caller's, and each tile's states are its own, which all parts have been put into.
            unsafe { tile.compute_merged(processor.isa, std::slice::from_raw_parts_mut(states.at(start), length)) };
        });
    });
}
