//! Some rows' queries against all that they see: the loop over steps that every attention shares.

use std::cell::RefCell;
use std::ops::Range;

use super::Attention;
use super::multiply::{Multiply, Near, Start};
use super::softmax::{Finish, STEP_TOKENS, STEP_VECTORS, Soften};
use crate::memory::Buffer;
use crate::pool::Pieces;
use crate::simd::LANES;
use crate::{Isa, math, rows};

/// Where the keys and values of one head and one sequence are.
pub(super) trait Memory {
    /// Sets `[queries, step]` to the products of queries and keys in the places that a tile sees.
    ///
    /// `keys` is room for the keys of a step.
    fn score(&self, isa: Isa, step: &Step, query: &[f32], keys: &mut [f32], scores: &mut [[f32; LANES]]);

    /// Adds to each query's result, multiplied by its factor, the products of weights and values.
    ///
    /// `values` is room for the values of a step.
    fn weigh(
        &self,
        isa: Isa,
        step: &Step,
        weights: &[f32],
        factors: &[f32],
        values: &mut [f32],
        results: &mut [[f32; LANES]],
    );
}

/// A step through a sequence.
pub(super) struct Step {
    /// Its first token.
    pub(super) first: usize,
    /// Which of its tokens a tile sees.
    pub(super) seen: Range<usize>,
}

impl Step {
    /// In which vectors of a row of scores the seen tokens are.
    pub(super) fn places(&self) -> Range<usize> {
        self.seen.start / LANES..self.seen.end.div_ceil(LANES)
    }

    /// [`Memory::score`] with keys `[dimension][64 tokens]`.
    pub(super) fn score(&self, isa: Isa, query: &[f32], dimension: usize, keys: &[f32], scores: &mut [[f32; LANES]]) {
        isa.run(Multiply {
            left: query,
            terms: dimension,
            summed: 0..dimension,
            right: Near { numbers: keys.as_chunks().0, stride: STEP_VECTORS },
            vectors: STEP_VECTORS,
            computed: self.places(),
            into: scores,
            start: Start::Zero,
        });
    }

    /// [`Memory::weigh`] with values `[64 tokens][vectors]`.
    pub(super) fn weigh(
        &self,
        isa: Isa,
        weights: &[f32],
        factors: &[f32],
        values: &[f32],
        vectors: usize,
        results: &mut [[f32; LANES]],
    ) {
        isa.run(Multiply {
            left: weights,
            terms: STEP_TOKENS,
            summed: self.seen.clone(),
            right: Near { numbers: values.as_chunks().0, stride: vectors },
            vectors,
            computed: 0..vectors,
            into: results,
            start: Start::Scaled(factors),
        });
    }
}

/// Which tokens the rows of a tile see.
pub(super) enum Sight {
    /// Themselves and what stands before, so many tokens in all.
    Back { position: usize, window: usize },
    /// A whole sequence.
    All { length: usize },
}

impl Sight {
    /// What a row of the tile sees.
    fn of(&self, row: usize) -> Range<usize> {
        match *self {
            Sight::Back { position, window } => {
                let end = position + row + 1;
                end.saturating_sub(window)..end
            }
            Sight::All { length } => 0..length,
        }
    }
}

/// The rows of one head of keys and values that share a pass.
pub(super) struct Rows<'a> {
    pub(super) attention: &'a Attention,
    /// Which head of keys and values.
    pub(super) head: usize,
    /// Which rows of the batch.
    pub(super) rows: Range<usize>,
    /// `[rows, heads * dimension]`.
    pub(super) query: &'a [f32],
    /// `[rows, heads * dimension]`.
    pub(super) into: &'a Pieces<f32>,
}

pub(super) struct Tile<'a, M> {
    pub(super) rows: Rows<'a>,
    pub(super) sight: Sight,
    pub(super) memory: M,
}

/// What a thread keeps while it computes a tile.  A query is one row of one head.
#[derive(Default)]
struct Scratch {
    /// `[query][dimension]`.
    queries: Buffer<f32>,
    /// `[dimension][64 tokens]`.
    keys: Buffer<f32>,
    /// `[64 tokens][dimension, filled up]`.
    values: Buffer<f32>,
    /// `[query][64 tokens]`.
    scores: Buffer<f32>,
    /// `[query]`.
    greatest: Buffer<f32>,
    /// `[query][16]`.
    sums: Buffer<f32>,
    /// `[query, filled up]`.
    factors: Buffer<f32>,
    /// `[query][dimension, filled up]`.
    results: Buffer<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<M: Memory> Tile<'_, M> {
    /// # Safety
    /// `query` and `into` must hold the rows, and nobody else may use the part of `into` that belongs to the rows and
    /// the heads that share the head of keys and values.
    pub(super) unsafe fn compute(&self, isa: Isa) {
        let Attention { dimension, softcap, .. } = *self.rows.attention;
        let group = self.rows.attention.group();
        let (rows, vectors) = (self.rows.rows.len(), dimension.div_ceil(LANES));
        let queries = rows * group;
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.reserve(queries, dimension);
            let query = &mut scratch.queries[..queries * dimension];
            let keys = &mut scratch.keys[..dimension * STEP_TOKENS];
            let values = &mut scratch.values[..STEP_TOKENS * vectors * LANES];
            let scores = &mut scratch.scores[..queries * STEP_TOKENS];
            let greatest = &mut scratch.greatest[..queries];
            let sums = &mut scratch.sums.as_chunks_mut().0[..queries];
            let factors = &mut scratch.factors[..queries.next_multiple_of(LANES)];
            let results = &mut scratch.results.as_chunks_mut().0[..queries * vectors];
            self.load(isa, query);
            greatest.fill(f32::MIN);
            sums.fill([0.0; LANES]);
            results.fill([0.0; LANES]);

            let tokens = self.sight.of(0).start..self.sight.of(rows - 1).end;
            for step in tokens.start / STEP_TOKENS..tokens.end.div_ceil(STEP_TOKENS) {
                let first = step * STEP_TOKENS;
                let step = Step { first, seen: within(&tokens, first) };
                self.memory.score(isa, &step, query, keys, scores.as_chunks_mut().0);
                if let Some(cap) = softcap {
                    rows::softcap(isa, scores, cap * math::LOG2_E);
                }
                for (row, scores) in scores.chunks_exact_mut(group * STEP_TOKENS).enumerate() {
                    let own = within(&self.sight.of(row), first);
                    if own.len() < STEP_TOKENS {
                        for scores in scores.chunks_exact_mut(STEP_TOKENS) {
                            scores[..own.start].fill(f32::NEG_INFINITY);
                            scores[own.end..].fill(f32::NEG_INFINITY);
                        }
                    }
                }
                isa.run(Soften { scores, greatest, sums, factors });
                self.memory.weigh(isa, &step, scores, factors, values, results);
            }
            isa.run(Finish { rows: results, vectors, sums });
            for (query, result) in results.chunks_exact(vectors).enumerate() {
                let start = self.rows.into.at(self.rows.start(query / group) + query % group * dimension);
                // SAFETY: the caller's.
                let into = unsafe { std::slice::from_raw_parts_mut(start, dimension) };
                into.copy_from_slice(&result.as_flattened()[..dimension]);
            }
        });
    }

    /// Copies the queries, multiplied by what makes their scores exponents of two.
    fn load(&self, isa: Isa, query: &mut [f32]) {
        let attention = self.rows.attention;
        let length = attention.group() * attention.dimension;
        for (row, query) in query.chunks_exact_mut(length).enumerate() {
            query.copy_from_slice(&self.rows.query[self.rows.start(row)..][..length]);
        }
        rows::scale(isa, query, attention.scale * math::LOG2_E);
    }
}

/// What of a range of tokens is in the step that begins at `first`, counted from there.
fn within(tokens: &Range<usize>, first: usize) -> Range<usize> {
    let place = |token: usize| token.saturating_sub(first).min(STEP_TOKENS);
    place(tokens.start)..place(tokens.end)
}

impl Rows<'_> {
    /// Where a row of the tile begins in `query` and `into`, with the first head of the group.
    fn start(&self, row: usize) -> usize {
        let Attention { heads, dimension, .. } = *self.attention;
        ((self.rows.start + row) * heads + self.head * self.attention.group()) * dimension
    }
}

impl Scratch {
    fn reserve(&mut self, queries: usize, dimension: usize) {
        let filled_up = dimension.next_multiple_of(LANES);
        self.queries.reserve_zeroed(queries * dimension);
        self.keys.reserve_zeroed(dimension * STEP_TOKENS);
        self.values.reserve_zeroed(STEP_TOKENS * filled_up);
        self.scores.reserve_zeroed(queries * STEP_TOKENS);
        self.greatest.reserve_zeroed(queries);
        self.sums.reserve_zeroed(queries * LANES);
        self.factors.reserve_zeroed(queries.next_multiple_of(LANES));
        self.results.reserve_zeroed(queries * filled_up);
    }
}
