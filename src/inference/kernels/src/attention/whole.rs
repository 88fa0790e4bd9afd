//! Keys and values as the products have written them, for sequences that are computed once and not kept.

use super::softmax::STEP_TOKENS;
use super::step::{Memory, Step};
use crate::Isa;
use crate::rows::load_part;
use crate::simd::{Kernel, LANES, Simd};

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
        isa.run(Transpose {
            rows: self.part(self.key, step),
            width: self.width,
            dimension: self.dimension,
            into: keys,
        });
        step.score(isa, query, self.dimension, keys, scores);
    }

    fn weigh(
        &self,
        isa: Isa,
        step: &Step,
        weights: &mut [[f32; LANES]],
        factors: &[f32],
        values: &mut [f32],
        results: &mut [[f32; LANES]],
    ) {
        let vectors = self.dimension.div_ceil(LANES);
        isa.run(FillUp {
            rows: self.part(self.value, step),
            width: self.width,
            dimension: self.dimension,
            into: values,
        });
        step.weigh(isa, weights.as_flattened(), factors, values, vectors, results);
    }
}

impl<'a> Whole<'a> {
    /// The rows of a step from where the head begins in the first.  A sequence is seen from its beginning on.
    fn part(&self, rows: &'a [f32], step: &Step) -> &'a [f32] {
        let rows = &rows[step.first * self.width..(step.first + step.seen.end) * self.width];
        &rows[self.start..]
    }
}

/// A head's numbers from rows of all heads, to columns.
struct Transpose<'a> {
    /// `[tokens, width]` without what stands before the head in the first row.
    rows: &'a [f32],
    width: usize,
    dimension: usize,
    /// `[dimension][64 tokens]`.
    into: &'a mut [f32],
}

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (place, rows) in self.rows.chunks(LANES * self.width).enumerate() {
            for first in (0..self.dimension).step_by(LANES) {
                let numbers = first..self.dimension.min(first + LANES);
                let mut vectors = [simd.splat(0.0); LANES];
                for (vector, row) in vectors.iter_mut().zip(rows.chunks(self.width)) {
                    *vector = load_part(simd, &row[numbers.clone()]);
                }
                let columns = self.into.as_chunks_mut::<STEP_TOKENS>().0[numbers].iter_mut();
                for (column, vector) in columns.zip(simd.transpose(vectors)) {
                    simd.store(vector, &mut column.as_chunks_mut().0[place]);
                }
            }
        }
    }
}

/// A head's numbers from rows of all heads, each filled up to whole vectors.
struct FillUp<'a> {
    /// `[tokens, width]` without what stands before the head in the first row.
    rows: &'a [f32],
    width: usize,
    dimension: usize,
    /// `[64 tokens][dimension, filled up]`.
    into: &'a mut [f32],
}

impl Kernel for FillUp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let vectors = self.dimension.div_ceil(LANES);
        let into = self.into.as_chunks_mut::<LANES>().0;
        // One vector of all rows after the other: what a row has is too little to call for a copy of it.
        for place in 0..vectors {
            let numbers = place * LANES..self.dimension.min((place + 1) * LANES);
            for (row, into) in self.rows.chunks(self.width).zip(into.chunks_exact_mut(vectors)) {
                simd.store(load_part(simd, &row[numbers.clone()]), &mut into[place]);
            }
        }
    }
}
