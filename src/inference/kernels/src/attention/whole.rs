//! Keys and values as the products have written them, for sequences that are computed once and not kept.

use std::ops::Range;

use super::softmax::STEP_TOKENS;
use super::tile::Memory;
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
    fn widen(&self, _: Isa, first: usize, seen: Range<usize>, keys: &mut [f32], values: &mut [f32]) {
        let stride = self.dimension.next_multiple_of(LANES);
        for token in seen {
            let row = (first + token) * self.width + self.start;
            let steps = keys.as_chunks_mut::<STEP_TOKENS>().0;
            for (step, value) in steps.iter_mut().zip(&self.key[row..][..self.dimension]) {
                step[token] = *value;
            }
            values[token * stride..][..self.dimension].copy_from_slice(&self.value[row..][..self.dimension]);
        }
    }
}
