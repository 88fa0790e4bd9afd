//! The product of two small matrices that are in the cache: rows of queries times keys, rows of weights times values.
//!
//! A sum is taken over the terms in ascending order, whatever shape of tile it stands in.

use std::ops::Range;

use crate::simd::{Kernel, LANES, Simd};

/// `into = left · right`, or `into = factors · into + left · right`.
pub(super) struct Multiply<'a> {
    /// `[rows, terms]`.
    pub(super) left: &'a [f32],
    /// How many terms a row of `left` has.
    pub(super) terms: usize,
    /// Which of them are summed.
    pub(super) summed: Range<usize>,
    /// `[terms, vectors]`.
    pub(super) right: &'a [[f32; LANES]],
    /// How many vectors a row of `right` and of `into` has.
    pub(super) vectors: usize,
    /// Which of them are computed.
    pub(super) computed: Range<usize>,
    /// `[rows, vectors]`.
    pub(super) into: &'a mut [[f32; LANES]],
    /// What is multiplied into what was there, a number for each row; without them that is lost.
    pub(super) factors: Option<&'a [f32]>,
}

impl Kernel for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let mut vector = self.computed.start;
        while vector < self.computed.end {
            let left = self.computed.end - vector;
            vector += if S::REGISTERS >= 32 && left >= 4 {
                self.column::<S, 4>(simd, vector)
            } else if S::REGISTERS >= 32 && left >= 2 {
                self.column::<S, 2>(simd, vector)
            } else {
                self.column::<S, 1>(simd, vector)
            };
        }
    }
}

impl Multiply<'_> {
    /// Computes some vectors of all rows, as many rows at a time as there are registers for, and returns how many vectors.
    #[inline(always)]
    fn column<S: Simd, const VECTORS: usize>(&mut self, simd: S, vector: usize) -> usize {
        let rows = self.into.len() / self.vectors;
        let mut row = 0;
        while row < rows {
            row += match rows - row {
                6.. => self.tile::<S, 6, VECTORS>(simd, row, vector),
                4.. => self.tile::<S, 4, VECTORS>(simd, row, vector),
                2.. => self.tile::<S, 2, VECTORS>(simd, row, vector),
                _ => self.tile::<S, 1, VECTORS>(simd, row, vector),
            };
        }
        VECTORS
    }

    /// Computes some vectors of some rows, and returns how many rows.
    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const VECTORS: usize>(&mut self, simd: S, row: usize, vector: usize) -> usize {
        let count = self.summed.len();
        let left: [&[f32]; ROWS] =
            std::array::from_fn(|place| &self.left[(row + place) * self.terms + self.summed.start..][..count]);
        let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
        if let Some(factors) = self.factors {
            for (place, sums) in sums.iter_mut().enumerate() {
                let into = &self.into[(row + place) * self.vectors + vector..][..VECTORS];
                let factor = simd.splat(factors[row + place]);
                for (sum, into) in sums.iter_mut().zip(into) {
                    *sum = simd.mul(simd.load(into), factor);
                }
            }
        }
        let right = &self.right[self.summed.start * self.vectors..];
        for (term, right) in (0..count).zip(right.chunks_exact(self.vectors)) {
            let mut vectors = [simd.splat(0.0); VECTORS];
            for (vector, right) in vectors.iter_mut().zip(&right[vector..][..VECTORS]) {
                *vector = simd.load(right);
            }
            for (sums, left) in sums.iter_mut().zip(&left) {
                let left = simd.splat(left[term]);
                for (sum, vector) in sums.iter_mut().zip(&vectors) {
                    *sum = simd.fma(left, *vector, *sum);
                }
            }
        }
        for (place, sums) in sums.iter().enumerate() {
            let into = &mut self.into[(row + place) * self.vectors + vector..][..VECTORS];
            for (sum, into) in sums.iter().zip(into) {
                simd.store(*sum, into);
            }
        }
        ROWS
    }
}
