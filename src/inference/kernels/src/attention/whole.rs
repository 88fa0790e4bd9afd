//! Keys and values as the products have written them, for sequences that are computed once and not kept.

use super::softmax::STEP_TOKENS;
use super::tile::{Memory, Step};
use crate::Isa;
use crate::simd::LANES;

/// One head's keys and values of a sequence.
pub(super) struct Whole<'a> {
    /// `[tokens, width]`.
    pub(super) key: &'a [f32],
    /// `[tokens, width]`.
    pub(super) value: &'a [f32],
    pub(super) width: usize,
    /// Where the head begins in a row.
    pub(super) start: usize,
    pub(super) dimension: usize,
}

impl Memory for Whole<'_> {
    fn score(&self, isa: Isa, step: &Step, query: &[f32], keys: &mut [f32], scores: &mut [[f32; LANES]]) {
        for token in step.seen.clone() {
            let steps = keys.as_chunks_mut::<STEP_TOKENS>().0;
            for (step, value) in steps.iter_mut().zip(self.part(self.key, step.first + token)) {
                step[token] = *value;
            }
        }
        step.score(isa, query, self.dimension, keys, scores);
    }

    fn weigh(
        &self,
        isa: Isa,
        step: &Step,
        weights: &[f32],
        factors: &[f32],
        values: &mut [f32],
        results: &mut [[f32; LANES]],
    ) {
        let vectors = self.dimension.div_ceil(LANES);
        for token in step.seen.clone() {
            let into = &mut values[token * vectors * LANES..][..self.dimension];
            into.copy_from_slice(self.part(self.value, step.first + token));
        }
        step.weigh(isa, weights, factors, values, vectors, results);
    }
}

impl<'a> Whole<'a> {
    /// The head's part of a token's row.
    fn part(&self, rows: &'a [f32], token: usize) -> &'a [f32] {
        &rows[token * self.width + self.start..][..self.dimension]
    }
}
