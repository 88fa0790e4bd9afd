//! A step through the tokens of a sequence: which of them are seen, and where their keys and values come from.

use std::ops::Range;

use super::multiply::{Multiply, Near, Start};
use super::softmax::{STEP_TOKENS, STEP_VECTORS};
use crate::Isa;
use crate::simd::LANES;

/// Where the keys and values of one head and one sequence are.
pub(super) trait Memory {
    /// Sets `[queries, step]` to the products of queries and keys in the places that a tile sees.
    ///
    /// `keys` is room for the keys of a step.
    fn score(&self, isa: Isa, step: &Step, query: &[f32], keys: &mut [f32], scores: &mut [[f32; LANES]]);

    /// Adds to each query's result, multiplied by its factor, the products of weights `[queries, step]` and values.
    ///
    /// `values` is room for the values of a step.  The weights may be changed.
    fn weigh(
        &self,
        isa: Isa,
        step: &Step,
        weights: &mut [[f32; LANES]],
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
    pub(super) fn of(&self, row: usize) -> Range<usize> {
        match *self {
            Sight::Back { position, window } => {
                let end = position + row + 1;
                end.saturating_sub(window)..end
            }
            Sight::All { length } => 0..length,
        }
    }
}

/// What of a range of tokens is in the step that begins at `first`, counted from there.
pub(super) fn within(tokens: &Range<usize>, first: usize) -> Range<usize> {
    let place = |token: usize| token.saturating_sub(first).min(STEP_TOKENS);
    place(tokens.start)..place(tokens.end)
}
