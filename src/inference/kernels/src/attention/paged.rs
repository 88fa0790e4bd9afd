//! One head of a sequence, read from the blocks that it lies in.

use std::ops::Range;

use super::blocks::{BLOCK_TOKENS, Head, Kept};
use super::element::Element;
use super::multiply::{Multiply, Right, Start, line_vectors};
use super::softmax::{STEP_TOKENS, STEP_VECTORS};
use super::step::{Memory, Step};
use crate::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// One head's keys and values of a sequence.
pub(super) struct Paged<'a, E> {
    pub(super) kept: Kept<'a, E>,
    pub(super) layer: usize,
    pub(super) head: usize,
    pub(super) table: &'a [u32],
}

/// Up to how many queries read keys and values as they are kept.  More of them have these widened once for all.
const DIRECT_QUERIES: usize = 8;

impl<E: Element> Memory for Paged<'_, E> {
    fn score(&self, isa: Isa, step: &Step, query: &[f32], keys: &mut [f32], scores: &mut [[f32; LANES]]) {
        let dimension = self.kept.dimension();
        if scores.len() > DIRECT_QUERIES * STEP_VECTORS {
            for place in step.places() {
                isa.run(WidenKeys { keys: self.head(step, place).keys, place, into: keys });
            }
            step.score(isa, query, dimension, keys, scores);
        } else {
            isa.run(Multiply {
                left: query,
                terms: dimension,
                summed: 0..dimension,
                right: Keys {
                    blocks: std::array::from_fn(|place| self.head(step, place).keys),
                    ahead: std::array::from_fn(|place| self.ahead(step, place).keys),
                },
                vectors: STEP_VECTORS,
                computed: step.places(),
                into: scores,
                start: Start::Zero,
            });
        }
        if E::SCALE_ROWS > 0 {
            let scales = std::array::from_fn(|place| self.head(step, place).key_scales);
            isa.run(Scale { rows: scores, places: step.places(), scales });
        }
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
        if E::SCALE_ROWS > 0 {
            let scales = std::array::from_fn(|place| self.head(step, place).value_scales);
            isa.run(Scale { rows: weights, places: step.places(), scales });
        }
        let weights = weights.as_flattened();
        let vectors = self.kept.dimension().div_ceil(LANES);
        if weights.len() > DIRECT_QUERIES * STEP_TOKENS {
            let parts = values.chunks_exact_mut(BLOCK_TOKENS * vectors * LANES).enumerate();
            for (place, into) in parts.skip(step.places().start).take(step.places().len()) {
                isa.run(WidenValues { values: self.head(step, place).values, into });
            }
            return step.weigh(isa, weights, factors, values, vectors, results);
        }
        let mut start = Start::Scaled(factors);
        for place in step.places() {
            let first = place * BLOCK_TOKENS;
            let within = |token: usize| token.clamp(first, first + BLOCK_TOKENS) - first;
            isa.run(Multiply {
                left: &weights[first..],
                terms: STEP_TOKENS,
                summed: within(step.seen.start)..within(step.seen.end),
                right: Values { vectors, block: self.head(step, place).values, ahead: self.ahead(step, place).values },
                vectors,
                computed: 0..vectors,
                into: results,
                start,
            });
            start = Start::Kept;
        }
    }
}

impl<'a, E: Element> Paged<'a, E> {
    /// The block in a place of a step; nothing where there is no block.
    fn head(&self, step: &Step, place: usize) -> Head<'a, E> {
        self.block(step, place).unwrap_or_default()
    }

    /// The block in the same place of the next step; where there is none, the one of this step.
    fn ahead(&self, step: &Step, place: usize) -> Head<'a, E> {
        self.block(step, place + STEP_VECTORS).unwrap_or_else(|| self.head(step, place))
    }

    fn block(&self, step: &Step, place: usize) -> Option<Head<'a, E>> {
        let block = *self.table.get(step.first / BLOCK_TOKENS + place)?;
        self.kept.head(block, self.layer, self.head)
    }
}

/// The keys of a step and of the next one, one block to a vector.
struct Keys<'a, E> {
    blocks: [&'a [[E; LANES]]; STEP_VECTORS],
    ahead: [&'a [[E; LANES]]; STEP_VECTORS],
}

impl<E: Element> Right for Keys<'_, E> {
    type Number = E;

    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[E; LANES]) -> S::F {
        E::widen(simd, numbers)
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        1
    }

    #[inline(always)]
    fn vectors(&self, number: usize) -> &[[E; LANES]] {
        self.blocks[number]
    }

    #[inline(always)]
    fn ahead(&self, number: usize) -> &[[E; LANES]] {
        self.ahead[number]
    }

    /// A vector's terms lie one after the other.
    #[inline(always)]
    fn asks(term: usize, _: usize) -> bool {
        term.is_multiple_of(line_vectors::<E>())
    }
}

/// The values of one block of a step, and those in its place in the next one.
struct Values<'a, E> {
    vectors: usize,
    block: &'a [[E; LANES]],
    ahead: &'a [[E; LANES]],
}

impl<E: Element> Right for Values<'_, E> {
    type Number = E;

    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[E; LANES]) -> S::F {
        E::widen(simd, numbers)
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.vectors
    }

    #[inline(always)]
    fn vectors(&self, number: usize) -> &[[E; LANES]] {
        &self.block[number..]
    }

    #[inline(always)]
    fn ahead(&self, number: usize) -> &[[E; LANES]] {
        &self.ahead[number..]
    }

    /// A term's vectors lie one after the other.
    #[inline(always)]
    fn asks(_: usize, place: usize) -> bool {
        place.is_multiple_of(line_vectors::<E>())
    }
}

/// One block's keys into their place in a step.
struct WidenKeys<'a, E> {
    keys: &'a [[E; LANES]],
    place: usize,
    into: &'a mut [f32],
}

impl<E: Element> Kernel for WidenKeys<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (elements, step) in self.keys.iter().zip(self.into.as_chunks_mut::<STEP_TOKENS>().0) {
            simd.store(E::widen(simd, elements), &mut step.as_chunks_mut::<LANES>().0[self.place]);
        }
    }
}

/// One block's values.
struct WidenValues<'a, E> {
    values: &'a [[E; LANES]],
    into: &'a mut [f32],
}

impl<E: Element> Kernel for WidenValues<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (elements, into) in self.values.iter().zip(self.into.as_chunks_mut::<LANES>().0) {
            simd.store(E::widen(simd, elements), into);
        }
    }
}

/// Scores times the scales of their keys, or weights times those of their values.
struct Scale<'a, E> {
    /// `[rows, step]`.
    rows: &'a mut [[f32; LANES]],
    /// Which vectors of a row.
    places: Range<usize>,
    scales: [&'a [[E; LANES]]; STEP_VECTORS],
}

impl<E: Element> Kernel for Scale<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for place in self.places {
            let scales = E::scales(simd, self.scales[place]);
            for row in self.rows.chunks_exact_mut(STEP_VECTORS) {
                simd.store(simd.mul(simd.load(&row[place]), scales), &mut row[place]);
            }
        }
    }
}
