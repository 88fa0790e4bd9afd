//! One head of a sequence, read from the blocks that it lies in.

use super::blocks::{BLOCK_TOKENS, Element, KeysValues, KvBlocks, widen};
use super::multiply::{Multiply, Right, Start};
use super::softmax::{STEP_TOKENS, STEP_VECTORS};
use super::tile::{Memory, Step};
use crate::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// One head's keys and values of a sequence.
pub(super) struct Paged<'a> {
    pub(super) blocks: &'a KvBlocks,
    pub(super) layer: usize,
    pub(super) head: usize,
    pub(super) table: &'a [u32],
}

/// Up to how many queries read keys and values as they are kept.  More of them have these widened once for all.
const DIRECT_QUERIES: usize = 8;

impl Memory for Paged<'_> {
    fn score(&self, isa: Isa, step: &Step, query: &[f32], keys: &mut [f32], scores: &mut [[f32; LANES]]) {
        let dimension = self.blocks.dimension();
        if scores.len() > DIRECT_QUERIES * STEP_VECTORS {
            for place in step.places() {
                isa.run(WidenKeys { keys: self.head(step, place).0, place, into: keys });
            }
            return step.score(isa, query, dimension, keys, scores);
        }
        isa.run(Multiply {
            left: query,
            terms: dimension,
            summed: 0..dimension,
            right: Keys(std::array::from_fn(|place| self.head(step, place).0)),
            vectors: STEP_VECTORS,
            computed: step.places(),
            into: scores,
            start: Start::Zero,
        });
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
        let vectors = self.blocks.dimension().div_ceil(LANES);
        if weights.len() > DIRECT_QUERIES * STEP_TOKENS {
            let parts = values.chunks_exact_mut(BLOCK_TOKENS * vectors * LANES).enumerate();
            for (place, into) in parts.skip(step.places().start).take(step.places().len()) {
                isa.run(WidenValues { values: self.head(step, place).1, into });
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
                right: Values {
                    vectors,
                    block: self.head(step, place).1,
                    ahead: self.head(step, place + STEP_VECTORS).1,
                },
                vectors,
                computed: 0..vectors,
                into: results,
                start,
            });
            start = Start::Kept;
        }
    }
}

impl Paged<'_> {
    /// The keys and values of the block in a place of a step, or of those behind it in the places after its last;
    /// nothing where there is no block.
    fn head(&self, step: &Step, place: usize) -> KeysValues<'_> {
        let block = self.table.get(step.first / BLOCK_TOKENS + place);
        let head = block.and_then(|&block| self.blocks.head(block, self.layer, self.head));
        head.unwrap_or_default()
    }
}

/// The keys of a step and of the next one, one block to a vector.
struct Keys<'a>([&'a [[Element; LANES]]; 2 * STEP_VECTORS]);

impl Right for Keys<'_> {
    type Number = Element;

    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[Element; LANES]) -> S::F {
        widen(simd, numbers)
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        1
    }

    #[inline(always)]
    fn vectors(&self, number: usize) -> &[[Element; LANES]] {
        self.0[number]
    }

    #[inline(always)]
    fn ahead(&self, number: usize) -> &[[Element; LANES]] {
        self.0[number + STEP_VECTORS]
    }
}

/// The values of one block of a step, and those in its place in the next one.
struct Values<'a> {
    vectors: usize,
    block: &'a [[Element; LANES]],
    ahead: &'a [[Element; LANES]],
}

impl Right for Values<'_> {
    type Number = Element;

    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[Element; LANES]) -> S::F {
        widen(simd, numbers)
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.vectors
    }

    #[inline(always)]
    fn vectors(&self, number: usize) -> &[[Element; LANES]] {
        &self.block[number..]
    }

    #[inline(always)]
    fn ahead(&self, number: usize) -> &[[Element; LANES]] {
        self.ahead.get(number..).unwrap_or_default()
    }
}

/// One block's keys into their place in a step.
struct WidenKeys<'a> {
    keys: &'a [[Element; LANES]],
    place: usize,
    into: &'a mut [f32],
}

impl Kernel for WidenKeys<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (elements, step) in self.keys.iter().zip(self.into.as_chunks_mut::<STEP_TOKENS>().0) {
            simd.store(widen(simd, elements), &mut step.as_chunks_mut::<LANES>().0[self.place]);
        }
    }
}

/// One block's values.
struct WidenValues<'a> {
    values: &'a [[Element; LANES]],
    into: &'a mut [f32],
}

impl Kernel for WidenValues<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (elements, into) in self.values.iter().zip(self.into.as_chunks_mut::<LANES>().0) {
            simd.store(widen(simd, elements), into);
        }
    }
}
