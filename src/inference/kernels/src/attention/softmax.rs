//! The online softmax: scores become weights, one step of tokens after the other, relative to the greatest score so
//! far.

use super::apart::Places;
use super::blocks::BLOCK_TOKENS;
use crate::math;
use crate::simd::{Kernel, LANES, Simd};

/// How many vectors of scores a row has in a step.
pub(super) const STEP_VECTORS: usize = 4;
/// How many tokens a step has: so many that what is done once a step costs little.
pub(super) const STEP_TOKENS: usize = STEP_VECTORS * BLOCK_TOKENS;

/// What some queries have of the tokens that they have seen so far.
pub(super) struct State<'a> {
    /// For each query, its weights times the values, `[queries, vectors]`.
    pub(super) results: &'a mut [[f32; LANES]],
    /// For each query, its weights, summed in each lane.
    pub(super) sums: &'a mut [[f32; LANES]],
    /// For each query, the greatest score: finite, and the least number at first.
    pub(super) greatest: &'a mut [f32],
}

impl<'a> State<'a> {
    /// How much room the state of so many queries takes, with results of so many vectors.
    pub(super) fn length(queries: usize, vectors: usize) -> usize {
        queries * ((vectors + 1) * LANES + 1)
    }

    /// What was put into a room of at least [`State::length`], or is to be.
    pub(super) fn of(room: &'a mut [f32], queries: usize, vectors: usize) -> State<'a> {
        let room = &mut room[..State::length(queries, vectors)];
        let (results, rest) = room.split_at_mut(queries * vectors * LANES);
        let (sums, greatest) = rest.split_at_mut(queries * LANES);
        State { results: results.as_chunks_mut().0, sums: sums.as_chunks_mut().0, greatest }
    }

    /// That of queries that have seen nothing.
    pub(super) fn clear(&mut self) {
        self.results.fill([0.0; LANES]);
        self.sums.fill([0.0; LANES]);
        self.greatest.fill(f32::MIN);
    }
}

/// The scores of one step become weights, and the state of each row that of after the step.
///
/// Scores are exponents of two.  A token that a row does not see has the score of negative infinity.
pub(super) struct Soften<'a> {
    /// `[rows, step]`.
    pub(super) scores: &'a mut [[f32; LANES]],
    /// How many vectors of a step are looked at.  No row sees anything in the others.
    pub(super) vectors: usize,
    /// For each row, the greatest score so far.
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
        match self.vectors {
            1 => self.soften::<S, 1>(simd),
            2 => self.soften::<S, 2>(simd),
            3 => self.soften::<S, 3>(simd),
            _ => self.soften::<S, STEP_VECTORS>(simd),
        }
    }
}

impl Soften<'_> {
    #[inline(always)]
    fn soften<S: Simd, const VECTORS: usize>(self, simd: S) {
        let rows = self.scores.as_chunks_mut::<STEP_VECTORS>().0;
        for ((scores, greatest), factor) in rows.iter().zip(&mut *self.greatest).zip(&mut *self.factors) {
            let mut found = simd.load(&scores[0]);
            for scores in &scores[1..VECTORS] {
                found = simd.max(found, simd.load(scores));
            }
            let found = simd.greatest(found);
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
            let mut sum = simd.mul(simd.load(sums), simd.splat(factor));
            for scores in &mut scores[..VECTORS] {
                let weights = math::exp2(simd, simd.sub(simd.load(scores), greatest));
                simd.store(weights, scores);
                sum = simd.add(sum, weights);
            }
            simd.store(sum, sums);
        }
    }
}

/// The state of queries after some tokens becomes that after more, by what they have of these alone.
pub(super) struct Merge<'a, 'b> {
    pub(super) into: &'b mut State<'a>,
    pub(super) later: &'b State<'a>,
    /// How many vectors a result has.
    pub(super) vectors: usize,
}

impl Kernel for Merge<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let greatest = self.into.greatest.iter_mut().zip(&*self.later.greatest);
        let sums = self.into.sums.iter_mut().zip(&*self.later.sums);
        let results =
            self.into.results.chunks_exact_mut(self.vectors).zip(self.later.results.chunks_exact(self.vectors));
        for (((own, &later), sums), results) in greatest.zip(sums).zip(results) {
            let new = if later > *own { later } else { *own };
            let factor = math::exp2(simd, simd.splat(*own - new));
            let later = math::exp2(simd, simd.splat(later - new));
            *own = new;
            add_scaled(simd, sums.0, factor, sums.1, later);
            for (own, part) in results.0.iter_mut().zip(results.1) {
                add_scaled(simd, own, factor, part, later);
            }
        }
    }
}

#[inline(always)]
fn add_scaled<S: Simd>(simd: S, own: &mut [f32; LANES], factor: S::F, part: &[f32; LANES], part_factor: S::F) {
    simd.store(simd.fma(simd.load(part), part_factor, simd.mul(simd.load(own), factor)), own);
}

/// Queries' results, divided by the sums of their weights, to where they belong.
pub(super) struct Finish<'a> {
    pub(super) state: State<'a>,
    pub(super) into: Places<'a>,
    pub(super) dimension: usize,
}

impl Kernel for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let vectors = self.dimension.div_ceil(LANES);
        let heads = self.into.length() / self.dimension;
        let queries = self.state.results.chunks_exact(heads * vectors).zip(self.state.sums.chunks_exact(heads));
        for (row, (results, sums)) in queries.enumerate() {
            let heads = self.into.row(row).chunks_exact_mut(self.dimension);
            for ((results, sums), into) in results.chunks_exact(vectors).zip(sums).zip(heads) {
                let inverse = simd.splat(1.0 / simd.sum(simd.load(sums)));
                for (result, into) in results.iter().zip(into.chunks_mut(LANES)) {
                    // Zero is added for its sign: a token that is masked may have made a negative zero a positive one.
                    let result = simd.fma(simd.load(result), inverse, simd.splat(0.0));
                    match into.first_chunk_mut() {
                        Some(whole) => simd.store(result, whole),
                        None => {
                            let mut lanes = [0.0; LANES];
                            simd.store(result, &mut lanes);
                            into.copy_from_slice(&lanes[..into.len()]);
                        }
                    }
                }
            }
        }
    }
}
