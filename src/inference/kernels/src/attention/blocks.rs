//! Memory for keys and values, in blocks of sixteen tokens that sequences take and give back.
//!
//! ```text
//! all      block × layer × head
//! head     keys [dimension][16 tokens], scales | values [16 tokens][dimension, filled up to whole vectors], scales
//! ```
//! A layer's heads stand together in a block, so that a layer's pass over it reads one stretch.

use std::fmt;
use std::ops::Range;

use super::element::{Element, KvElement};
use super::store::Store;
use super::{Attention, Span};
use crate::memory::Buffer;
use crate::pool::Pieces;
use crate::processor::Processor;
use crate::simd::LANES;

/// How many tokens a block holds.
pub const BLOCK_TOKENS: usize = LANES;

/// What one block takes of memory.
pub const fn bytes_per_block(element: KvElement, layers: usize, heads: usize, dimension: usize) -> usize {
    let (bytes, scale_rows) = match element {
        KvElement::F32 => (size_of::<f32>(), f32::SCALE_ROWS),
        KvElement::F16 => (size_of::<u16>(), u16::SCALE_ROWS),
        KvElement::Q8 => (size_of::<i8>(), i8::SCALE_ROWS),
    };
    layers * heads * head_elements(scale_rows, dimension) * bytes
}

/// How many elements a head's keys and values take in a block, with scales in so many rows.
pub(super) const fn head_elements(scale_rows: usize, dimension: usize) -> usize {
    BLOCK_TOKENS * (dimension + dimension.next_multiple_of(LANES) + 2 * scale_rows)
}

/// The keys and values of all sequences.
pub struct KvBlocks {
    shape: Shape,
    elements: Elements,
}

/// How many there are of what a place is found by.
#[derive(Debug, Clone, Copy)]
struct Shape {
    layers: usize,
    heads: usize,
    dimension: usize,
    blocks: usize,
}

/// `[block][layer][head]` of one kind of number.
pub(super) enum Elements {
    F32(Buffer<f32>),
    F16(Buffer<u16>),
    Q8(Buffer<i8>),
}

/// The blocks of one kind of number, to be read.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a, E> {
    shape: Shape,
    elements: &'a [E],
}

/// One head's keys `[dimension][16 tokens]` and values `[16 tokens][vectors]` in a block, and their scales.
#[derive(Clone, Copy)]
pub(super) struct Head<'a, E> {
    pub(super) keys: &'a [[E; LANES]],
    pub(super) key_scales: &'a [[E; LANES]],
    pub(super) values: &'a [[E; LANES]],
    pub(super) value_scales: &'a [[E; LANES]],
}

impl KvBlocks {
    /// So many blocks for a model of this shape.  Memory is touched when it is first written.
    pub fn new(element: KvElement, layers: usize, heads: usize, dimension: usize, blocks: usize) -> KvBlocks {
        let bytes = blocks * bytes_per_block(element, layers, heads, dimension);
        let elements = match element {
            KvElement::F32 => Elements::F32(Buffer::zeroed(bytes / size_of::<f32>())),
            KvElement::F16 => Elements::F16(Buffer::zeroed(bytes / size_of::<u16>())),
            KvElement::Q8 => Elements::Q8(Buffer::zeroed(bytes)),
        };
        KvBlocks { shape: Shape { layers, heads, dimension, blocks }, elements }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.shape.blocks
    }

    /// What numbers are kept as.
    pub fn element(&self) -> KvElement {
        match self.elements {
            Elements::F32(_) => KvElement::F32,
            Elements::F16(_) => KvElement::F16,
            Elements::Q8(_) => KvElement::Q8,
        }
    }

    /// Puts `[rows, heads * dimension]` to the places of these rows.
    ///
    /// # Panics
    /// When sizes do not match, spans are not in the order of their rows, a sequence has too few blocks, or two
    /// places would be the same.
    pub fn store(&mut self, processor: &Processor, layer: usize, spans: &[Span<'_>], keys: &[f32], values: &[f32]) {
        let width = self.shape.heads * self.shape.dimension;
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(width), "a key and a value for each row");
        self.shape.check_spans(layer, spans, keys.len() / width);
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
        let rows = Stretches { stretches, layer, keys, values };
        match &mut self.elements {
            Elements::F32(elements) => rows.store(processor, &self.shape, elements),
            Elements::F16(elements) => rows.store(processor, &self.shape, elements),
            Elements::Q8(elements) => rows.store(processor, &self.shape, elements),
        }
    }

    /// # Panics
    /// Where [`super::attend`] does.
    pub(super) fn check(&self, layer: usize, attention: &Attention, spans: &[Span<'_>], rows: usize) {
        let shape = (attention.key_value_heads, attention.dimension);
        assert_eq!((self.shape.heads, self.shape.dimension), shape, "the heads of the keys and values");
        self.shape.check_spans(layer, spans, rows);
    }

    pub(super) fn elements(&self) -> &Elements {
        &self.elements
    }

    /// The blocks' own elements with their shape.
    pub(super) fn kept<'a, E>(&self, elements: &'a [E]) -> Kept<'a, E> {
        Kept { shape: self.shape, elements }
    }
}

impl Shape {
    /// How many elements a layer of a block has.
    fn layer_elements<E: Element>(&self) -> usize {
        self.heads * head_elements(E::SCALE_ROWS, self.dimension)
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
}

impl<'a, E: Element> Kept<'a, E> {
    pub(super) fn dimension(&self) -> usize {
        self.shape.dimension
    }

    /// One head in a block, if there is one.
    pub(super) fn head(&self, block: u32, layer: usize, head: usize) -> Option<Head<'a, E>> {
        let Shape { layers, heads, dimension, .. } = self.shape;
        let length = head_elements(E::SCALE_ROWS, dimension);
        let start = ((block as usize * layers + layer) * heads + head) * length;
        let rows = self.elements.get(start..)?.get(..length)?.as_chunks().0;
        let (keys, values) = rows.split_at(dimension + E::SCALE_ROWS);
        let (keys, key_scales) = keys.split_at(dimension);
        let (values, value_scales) = values.split_at(values.len() - E::SCALE_ROWS);
        Some(Head { keys, key_scales, values, value_scales })
    }
}

impl<E> Default for Head<'_, E> {
    fn default() -> Self {
        Self { keys: &[], key_scales: &[], values: &[], value_scales: &[] }
    }
}

impl fmt::Debug for KvBlocks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "KvBlocks<{:?}> {:?}", self.element(), self.shape)
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

/// Rows of a layer that go to blocks, none of which is there twice.
struct Stretches<'a> {
    stretches: Vec<Stretch>,
    layer: usize,
    keys: &'a [f32],
    values: &'a [f32],
}

impl Stretches<'_> {
    /// The layer and the blocks must be some of the shape's.
    fn store<E: Element>(&self, processor: &Processor, shape: &Shape, elements: &mut [E]) {
        let Shape { layers, heads, dimension, blocks } = *shape;
        let (width, length) = (heads * dimension, shape.layer_elements::<E>());
        assert_eq!(elements.len(), blocks * layers * length, "the elements of the shape");
        let elements = Pieces(elements.as_mut_ptr());
        processor.pool.for_each(self.stretches.len(), |index| {
            let Stretch { block, row, tokens } = self.stretches[index].clone();
            assert!(self.layer < layers && (block as usize) < blocks, "a place that there is");
            let start = elements.at((block as usize * layers + self.layer) * length);
            // SAFETY: the place is one of the elements', and no block is handed out twice.
            let into = unsafe { std::slice::from_raw_parts_mut(start, length) };
            let rows = row * width..(row + tokens.len()) * width;
            let (keys, values) = (&self.keys[rows.clone()], &self.values[rows]);
            processor.isa.run(Store { dimension, width, token: tokens.start % BLOCK_TOKENS, keys, values, into });
        });
    }
}
