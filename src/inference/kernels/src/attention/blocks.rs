//! Memory for keys and values, in blocks of sixteen tokens that sequences take and give back.
//!
//! ```text
//! all      block × layer × head
//! head     keys [dimension][16 tokens] | values [16 tokens][dimension, filled up to whole vectors]
//! ```
//! A block's layers stand together, so that a block is copied in one piece, and so do a layer's heads, so that a
//! layer's pass over a block reads one stretch.

use std::fmt;
use std::ops::Range;

use super::{Attention, Span};
use crate::memory::Buffer;
use crate::pool::Pieces;
use crate::processor::Processor;
use crate::simd::{Kernel, LANES, Simd};

/// How many tokens a block holds.
pub const BLOCK_TOKENS: usize = LANES;

/// How a number is kept: IEEE half precision.
pub(super) type Element = u16;

/// The greatest magnitude that an element holds.
const GREATEST: f32 = 65504.0;

/// Keys `[dimension][16 tokens]`, and values `[16 tokens][vectors]`.
pub(super) type KeysValues<'a> = (&'a [[Element; LANES]], &'a [[Element; LANES]]);

#[inline(always)]
pub(super) fn widen<S: Simd>(simd: S, elements: &[Element; LANES]) -> S::F {
    simd.load_half(elements)
}

/// What is greater than an element can be becomes the greatest: a masked token's value is multiplied by zero, which
/// must be zero.
#[inline(always)]
fn narrow<S: Simd>(simd: S, values: &[f32; LANES], into: &mut [Element; LANES]) {
    let capped = simd.max(simd.min(simd.load(values), simd.splat(GREATEST)), simd.splat(-GREATEST));
    simd.store_half(capped, into);
}

/// What one block takes of memory.
pub const fn bytes_per_block(layers: usize, heads: usize, dimension: usize) -> usize {
    layers * heads * head_elements(dimension) * size_of::<Element>()
}

/// How many elements a head's keys and values take in a block.
const fn head_elements(dimension: usize) -> usize {
    BLOCK_TOKENS * (dimension + dimension.next_multiple_of(LANES))
}

/// The keys and values of all sequences.
pub struct KvBlocks {
    layers: usize,
    heads: usize,
    dimension: usize,
    blocks: usize,
    elements: Buffer<Element>,
}

impl KvBlocks {
    /// So many blocks for a model of this shape.  Memory is touched when it is first written.
    pub fn new(layers: usize, heads: usize, dimension: usize, blocks: usize) -> KvBlocks {
        let elements = Buffer::zeroed(blocks * layers * heads * head_elements(dimension));
        KvBlocks { layers, heads, dimension, blocks, elements }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Puts `[rows, heads * dimension]` to the places of these rows.
    ///
    /// # Panics
    /// When sizes do not match, spans are not in the order of their rows, a sequence has too few blocks, or two
    /// places would be the same.
    pub fn store(&mut self, processor: &Processor, layer: usize, spans: &[Span<'_>], keys: &[f32], values: &[f32]) {
        let width = self.heads * self.dimension;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "a key and a value for each row");
        self.check_spans(layer, spans, keys.len() / width);
        let mut stretches = Vec::new();
        for span in spans.iter().filter(|span| !span.rows.is_empty()) {
            let end = span.position + span.rows.len();
            for block in span.position / BLOCK_TOKENS..end.div_ceil(BLOCK_TOKENS) {
                let first = span.position.max(block * BLOCK_TOKENS);
                let tokens = first..end.min((block + 1) * BLOCK_TOKENS);
                let rows = span.rows.start + (first - span.position);
                stretches.push(Stretch { block: span.blocks[block], row: rows, tokens });
            }
        }
        stretches.sort_unstable_by_key(|stretch| stretch.block);
        assert!(stretches.is_sorted_by(|one, next| one.block < next.block), "a block is written from two places");
        let layer_elements = self.heads * head_elements(self.dimension);
        let (dimension, layers) = (self.dimension, self.layers);
        let elements = Pieces(self.elements.as_mut_ptr());
        processor.pool.for_each(stretches.len(), |index| {
            let Stretch { block, row, tokens } = stretches[index].clone();
            let start = elements.at((block as usize * layers + layer) * layer_elements);
            // SAFETY: `check_spans` has found the layer and the block to exist, and no block is handed out twice.
            let into = unsafe { std::slice::from_raw_parts_mut(start, layer_elements) };
            let rows = row * width..(row + tokens.len()) * width;
            let (keys, values) = (&keys[rows.clone()], &values[rows]);
            processor.isa.run(Store { dimension, width, token: tokens.start % BLOCK_TOKENS, keys, values, into });
        });
    }

    /// Makes one block hold what another does, in all layers.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn copy(&mut self, from: u32, to: u32) {
        let length = self.layers * self.heads * head_elements(self.dimension);
        let (from, to) = (from as usize * length, to as usize * length);
        assert!(to < self.elements.len(), "a block that there is");
        self.elements.copy_within(from..from + length, to);
    }

    /// # Panics
    /// Where [`super::attend`] does.
    pub(super) fn check(&self, layer: usize, attention: &Attention, spans: &[Span<'_>], rows: usize) {
        let shape = (attention.key_value_heads, attention.dimension);
        assert_eq!((self.heads, self.dimension), shape, "the heads of the keys and values");
        self.check_spans(layer, spans, rows);
    }

    fn check_spans(&self, layer: usize, spans: &[Span<'_>], rows: usize) {
        assert!(layer < self.layers, "a layer that there is");
        let mut end = 0;
        for span in spans {
            assert!(end <= span.rows.start && span.rows.start <= span.rows.end, "spans in the order of their rows");
            end = span.rows.end;
            let blocks = (span.position + span.rows.len()).div_ceil(BLOCK_TOKENS);
            assert!(blocks <= span.blocks.len(), "a block for each token");
            assert!(span.blocks[..blocks].iter().all(|&block| (block as usize) < self.blocks), "a block that there is");
        }
        assert!(end <= rows, "a row for each token");
    }

    /// One head's keys and values in a block, if there is one.
    pub(super) fn head(&self, block: u32, layer: usize, head: usize) -> Option<KeysValues<'_>> {
        let length = head_elements(self.dimension);
        let start = ((block as usize * self.layers + layer) * self.heads + head) * length;
        Some(self.elements.get(start..)?.get(..length)?.as_chunks().0.split_at(self.dimension))
    }

    pub(super) fn dimension(&self) -> usize {
        self.dimension
    }
}

impl fmt::Debug for KvBlocks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KvBlocks { layers, heads, dimension, blocks, .. } = self;
        write!(formatter, "KvBlocks[{blocks}, {layers}, {heads}, {dimension}]")
    }
}

/// Rows that go to one block.
#[derive(Clone)]
struct Stretch {
    block: u32,
    row: usize,
    /// Where they stand in the sequence.
    tokens: Range<usize>,
}

/// Rows into one layer of a block.
struct Store<'a> {
    dimension: usize,
    width: usize,
    /// Where the first row stands in the block.
    token: usize,
    keys: &'a [f32],
    values: &'a [f32],
    into: &'a mut [Element],
}

impl Kernel for Store<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.keys.chunks_exact(self.width).zip(self.values.chunks_exact(self.width));
        for (token, (keys, values)) in (self.token..).zip(rows) {
            let heads = self.into.chunks_exact_mut(head_elements(self.dimension));
            let rows = keys.chunks_exact(self.dimension).zip(values.chunks_exact(self.dimension));
            for ((key, value), head) in rows.zip(heads) {
                let (keys, values) = head.split_at_mut(self.dimension * BLOCK_TOKENS);
                let mut places = keys.as_chunks_mut::<BLOCK_TOKENS>().0.iter_mut();
                for part in key.chunks(LANES) {
                    for (element, place) in narrowed(simd, part).into_iter().zip(places.by_ref().take(part.len())) {
                        place[token] = element;
                    }
                }
                let stride = self.dimension.next_multiple_of(LANES);
                let places = values[token * stride..][..stride].as_chunks_mut::<LANES>().0;
                for (part, place) in value.chunks(LANES).zip(places) {
                    *place = narrowed(simd, part);
                }
            }
        }
    }
}

/// Up to a vector of numbers, filled up with zeros.
#[inline(always)]
fn narrowed<S: Simd>(simd: S, part: &[f32]) -> [Element; LANES] {
    let mut elements = [0; LANES];
    match part.first_chunk() {
        Some(whole) => narrow(simd, whole, &mut elements),
        None => narrow(simd, &crate::rows::padded(part, 0.0), &mut elements),
    }
    elements
}
