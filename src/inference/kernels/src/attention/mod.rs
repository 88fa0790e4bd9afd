//! Attention: what each token takes of the tokens that it sees, by scores that an online softmax weighs.
//!
//! Keys and values are read in steps of 64 tokens that begin at multiples of 64 of the sequence.  A row's state after a
//! step is a function of its state before and of the scores in the step, and a step in which it sees nothing leaves it
//! as it was: so its bits depend neither on the rows beside it nor on how the prompt was cut.  Every 1024 tokens a new
//! state begins, and the states are merged in the order of the tokens, whichever threads have computed them.

mod apart;
mod blocks;
mod element;
mod multiply;
mod paged;
mod share;
mod softmax;
mod step;
mod store;
mod tile;
mod whole;

pub use blocks::{BLOCK_TOKENS, KvBlocks, bytes_per_block};
pub use element::KvElement;

use std::ops::Range;

use crate::pool::Pieces;
use crate::processor::Processor;
use blocks::{Elements, Kept};
use element::Element;
use paged::Paged;
use step::Sight;
use tile::{Rows, Tile};
use whole::Whole;

/// The shape of an attention, and how its scores become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Heads of the query.
    pub heads: usize,
    /// Heads of keys and values; each serves as many heads of the query as every other.
    pub key_value_heads: usize,
    /// How many numbers a head has.
    pub dimension: usize,
    /// What the products of query and key are multiplied by.
    pub scale: f32,
    /// What the scores stay below, if they do: `cap · tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// How many tokens a token sees, itself included; `usize::MAX` where it sees all.
    pub window: usize,
}

/// Rows of a batch that are consecutive tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span<'a> {
    /// Which rows.
    pub rows: Range<usize>,
    /// Where the first one stands in its sequence.
    pub position: usize,
    /// The sequence's blocks, the first one of its tokens 0 to 15.
    pub blocks: &'a [u32],
}

/// How many rows of queries share a pass over keys and values: enough that widening these costs little beside
/// multiplying them, and few enough that causal rows have little in common that they must not see.  A multiple of the
/// six rows that are multiplied at a time, for groups of 1, 2, 3, 4 and 7 heads.
const TILE_QUERIES: usize = 132;

/// Sets each row of `into` to the attention of its query over the tokens from its sequence's beginning to itself.
///
/// `query` and `into` are `[rows, heads * dimension]`.  The rows' own keys and values must have been stored before.
/// Rows of no span stay as they are.
///
/// # Panics
/// When sizes do not match, spans are not in the order of their rows, or a sequence has too few blocks.
pub fn attend(
    processor: &Processor,
    attention: &Attention,
    layer: usize,
    blocks: &KvBlocks,
    query: &[f32],
    spans: &[Span<'_>],
    into: &mut [f32],
) {
    attention.check(query.len(), into.len());
    blocks.check(layer, attention, spans, query.len() / attention.width());
    match blocks.elements() {
        Elements::F32(elements) => attend_kept(processor, attention, layer, blocks.kept(elements), query, spans, into),
        Elements::F16(elements) => attend_kept(processor, attention, layer, blocks.kept(elements), query, spans, into),
        Elements::Q8(elements) => attend_kept(processor, attention, layer, blocks.kept(elements), query, spans, into),
    }
}

/// [`attend`], once everything has been checked.
fn attend_kept<E: Element>(
    processor: &Processor,
    attention: &Attention,
    layer: usize,
    kept: Kept<'_, E>,
    query: &[f32],
    spans: &[Span<'_>],
    into: &mut [f32],
) {
    let tile_rows = attention.tile_rows();
    let into = Pieces(into.as_mut_ptr());
    let mut tiles = Vec::new();
    for span in spans {
        for head in 0..attention.key_value_heads {
            // The last rows see the most: they come first, so that no thread is left alone with them at the end.
            for first in span.rows.clone().step_by(tile_rows).rev() {
                let rows = first..(first + tile_rows).min(span.rows.end);
                let position = span.position + (first - span.rows.start);
                tiles.push(Tile {
                    rows: Rows { attention, head, rows, query, into: &into },
                    sight: Sight::Back { position, window: attention.window },
                    memory: Paged { kept, layer, head, table: span.blocks },
                });
            }
        }
    }
    // SAFETY: the sizes were checked, the spans do not overlap, and no two tiles of a span have a head and a row in
    // common.
    unsafe { share::compute(processor, &tiles) };
}

/// Sets each row of `into` to the attention of its query over all tokens of its own sequence.
///
/// The sequences stand one after the other.  `query` and `into` are `[rows, heads * dimension]`, `key` and `value`
/// `[rows, key_value_heads * dimension]`.  The window is not looked at.
///
/// # Panics
/// When sizes do not match.
pub fn attend_whole(
    processor: &Processor,
    attention: &Attention,
    query: &[f32],
    key: &[f32],
    value: &[f32],
    lengths: &[usize],
    into: &mut [f32],
) {
    attention.check(query.len(), into.len());
    let rows: usize = lengths.iter().sum();
    assert_eq!(rows * attention.width(), query.len(), "the rows of the sequences");
    let width = attention.key_value_heads * attention.dimension;
    assert!(key.len() == rows * width && value.len() == rows * width, "a key and a value for each row");
    let (tile_rows, dimension) = (attention.tile_rows(), attention.dimension);
    let into = Pieces(into.as_mut_ptr());
    let mut tiles = Vec::new();
    let mut start = 0;
    for &length in lengths {
        let sequence = start..start + length;
        let of_sequence = sequence.start * width..sequence.end * width;
        let (key, value) = (&key[of_sequence.clone()], &value[of_sequence]);
        for head in 0..attention.key_value_heads {
            for first in sequence.clone().step_by(tile_rows) {
                let rows = first..(first + tile_rows).min(sequence.end);
                tiles.push(Tile {
                    rows: Rows { attention, head, rows, query, into: &into },
                    sight: Sight::All { length },
                    memory: Whole { key, value, width, start: head * dimension, dimension },
                });
            }
        }
        start += length;
    }
    // SAFETY: the sizes were checked, the sequences do not overlap, and no two tiles of a sequence have a head and a
    // row in common.
    unsafe { share::compute(processor, &tiles) };
}

impl Attention {
    /// How many heads of the query share a head of keys and values.
    fn group(&self) -> usize {
        self.heads / self.key_value_heads
    }

    /// How many numbers a row of queries has.
    fn width(&self) -> usize {
        self.heads * self.dimension
    }

    fn tile_rows(&self) -> usize {
        (TILE_QUERIES / self.group()).max(1)
    }

    fn check(&self, query: usize, into: usize) {
        assert!(self.dimension > 0 && self.key_value_heads > 0 && self.heads > 0, "heads of no dimension");
        assert!(self.heads.is_multiple_of(self.key_value_heads), "heads of keys that serve as many as every other");
        assert!(self.window > 0, "a token sees itself");
        assert!(query == into && query.is_multiple_of(self.width()), "a result for each row");
    }
}
