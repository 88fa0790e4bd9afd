//! The online softmax: scores become weights, one step of tokens after the other, relative to the greatest score so
//! far.

use super::blocks::BLOCK_TOKENS;
use crate::math;
use crate::simd::{Kernel, LANES, Simd};

/// How many vectors of scores a row has in a step.
pub(super) const STEP_VECTORS: usize = 4;
/// How many tokens a step has: so many that what is done once a step costs little.
pub(super) const STEP_TOKENS: usize = STEP_VECTORS * BLOCK_TOKENS;

/// The scores of one step become weights, and the state of each row that of after the step.
///
/// Scores are exponents of two.  A token that a row does not see has the score of negative infinity.
pub(super) struct Soften<'a> {
    /// `[rows, step]`.
    pub(super) scores: &'a mut [f32],
    /// For each row, the greatest score so far: finite, and the least number at first.
    pub(super) greatest: &'a mut [f32],
    /// For each row, the weights so far, summed in each lane.
    pub(super) sums: &'a mut [[f32; LANES]],
    /// For each row, what all that was summed before is to be multiplied by; filled up to whole vectors.
    pub(super) factors: &'a mut [f32],
}

impl Kernel for Soften<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.scores.as_chunks_mut::<STEP_TOKENS>().0;
        for ((scores, greatest), factor) in rows.iter().zip(&mut *self.greatest).zip(&mut *self.factors) {
            let [one, two, three, four] = vectors(simd, scores);
            let found = simd.greatest(simd.max(simd.max(one, two), simd.max(three, four)));
            let new = if found > *greatest { found } else { *greatest };
            *factor = *greatest - new;
            *greatest = new;
        }
        for factors in self.factors.as_chunks_mut::<LANES>().0 {
            simd.store(math::exp2(simd, simd.load(factors)), factors);
        }
        let state = self.greatest.iter().zip(self.sums).zip(&*self.factors);
        for (scores, ((&greatest, sums), &factor)) in rows.iter_mut().zip(state) {
            let greatest = simd.splat(greatest);
            let mut weights = vectors(simd, scores);
            for (weights, into) in weights.iter_mut().zip(scores.as_chunks_mut::<LANES>().0) {
                *weights = math::exp2(simd, simd.sub(*weights, greatest));
                simd.store(*weights, into);
            }
            let [one, two, three, four] = weights;
            let sum = simd.add(simd.add(one, two), simd.add(three, four));
            simd.store(simd.fma(simd.load(sums), simd.splat(factor), sum), sums);
        }
    }
}

#[inline(always)]
fn vectors<S: Simd>(simd: S, scores: &[f32; STEP_TOKENS]) -> [S::F; STEP_VECTORS] {
    let mut vectors = [simd.splat(0.0); STEP_VECTORS];
    for (vector, scores) in vectors.iter_mut().zip(scores.as_chunks().0) {
        *vector = simd.load(scores);
    }
    vectors
}

/// Rows of sums divided by the sums of their weights.
pub(super) struct Finish<'a> {
    /// `[rows, vectors]`.
    pub(super) rows: &'a mut [[f32; LANES]],
    /// How many vectors a row has.
    pub(super) vectors: usize,
    /// For each row, its weights, summed in each lane.
    pub(super) sums: &'a [[f32; LANES]],
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (row, sums) in self.rows.chunks_exact_mut(self.vectors).zip(self.sums) {
            let inverse = simd.splat(1.0 / simd.sum(simd.load(sums)));
            for values in row {
                // Zero is added for its sign: a token that is masked may have made a negative zero a positive one.
                simd.store(simd.fma(simd.load(values), inverse, simd.splat(0.0)), values);
            }
        }
    }
}
