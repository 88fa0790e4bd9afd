//! The product of two small matrices: rows of queries times keys, rows of weights times values.
//!
//! A sum is taken over the terms in ascending order, whatever shape of tile it stands in and however the right side is
//! kept.

use std::ops::Range;

use crate::simd::{Kernel, LANES, Simd};

/// `into = left · right`, added to nothing or to what was there.
pub(super) struct Multiply<'a, R> {
    /// `[rows, terms]`.
    pub(super) left: &'a [f32],
    /// How many terms a row of `left` has.
    pub(super) terms: usize,
    /// Which of them are summed.
    pub(super) summed: Range<usize>,
    /// `[terms, vectors]`.
    pub(super) right: R,
    /// How many vectors a row of `into` has.
    pub(super) vectors: usize,
    /// Which of them are computed.
    pub(super) computed: Range<usize>,
    /// `[rows, vectors]`.
    pub(super) into: &'a mut [[f32; LANES]],
    /// What the sums begin with.
    pub(super) start: Start<'a>,
}

/// What sums begin with.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// What was there.
    Kept,
    /// What was there, multiplied by a number for each row.
    Scaled(&'a [f32]),
}

/// The right side, however it is kept.
pub(super) trait Right {
    type Number: Copy;

    fn load<S: Simd>(simd: S, numbers: &[Self::Number; LANES]) -> S::F;

    /// How many vectors lie between one term's and the next one's.
    fn stride(&self) -> usize;

    /// What begins with the first term's vector of this number.
    fn vectors(&self, number: usize) -> &[[Self::Number; LANES]];

    /// What will be read after that, of the same form; or again the same.
    fn ahead(&self, number: usize) -> &[[Self::Number; LANES]];

    /// Whether a tile asks for what is ahead of this vector of a term: once for each line of the cache.
    fn asks(term: usize, place: usize) -> bool;
}

/// How many vectors of numbers a line of the cache holds.
pub(super) const fn line_vectors<N>() -> usize {
    64 / size_of::<[N; LANES]>()
}

/// Rows one after the other, in the cache.
pub(super) struct Near<'a> {
    pub(super) numbers: &'a [[f32; LANES]],
    pub(super) stride: usize,
}

impl Right for Near<'_> {
    type Number = f32;

    #[inline(always)]
    fn load<S: Simd>(simd: S, numbers: &[f32; LANES]) -> S::F {
        simd.load(numbers)
    }

    #[inline(always)]
    fn stride(&self) -> usize {
        self.stride
    }

    #[inline(always)]
    fn vectors(&self, number: usize) -> &[[f32; LANES]] {
        &self.numbers[number..]
    }

    #[inline(always)]
    fn ahead(&self, number: usize) -> &[[f32; LANES]] {
        self.vectors(number)
    }

    #[inline(always)]
    fn asks(_: usize, _: usize) -> bool {
        false
    }
}

impl<R: Right> Kernel for Multiply<'_, R> {
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

impl<R: Right> Multiply<'_, R> {
    /// Computes some vectors of all rows, as many rows at a time as there are registers for, and returns how many
    /// vectors.
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
        let mut right: [&[[R::Number; LANES]]; VECTORS] = [&[]; VECTORS];
        let mut ahead = right;
        for place in 0..VECTORS {
            right[place] = self.right.vectors(vector + place);
            ahead[place] = self.right.ahead(vector + place);
        }
        let count = self.summed.len();
        let mut left: [&[f32]; ROWS] = [&[]; ROWS];
        for (place, left) in left.iter_mut().enumerate() {
            *left = &self.left[(row + place) * self.terms + self.summed.start..][..count];
        }
        let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
        for (place, sums) in sums.iter_mut().enumerate() {
            let into = &self.into[(row + place) * self.vectors + vector..][..VECTORS];
            for (sum, into) in sums.iter_mut().zip(into) {
                match self.start {
                    Start::Zero => {}
                    Start::Kept => *sum = simd.load(into),
                    Start::Scaled(factors) => *sum = simd.mul(simd.load(into), simd.splat(factors[row + place])),
                }
            }
        }
        let stride = self.right.stride();
        let end = self.summed.end * stride;
        for right in right {
            // The last term's vector need not be followed by a whole row.
            assert!(count == 0 || end - stride < right.len(), "a vector for each term");
        }
        let mut index = self.summed.start * stride;
        for term in 0..count {
            let mut vectors = [simd.splat(0.0); VECTORS];
            for place in 0..VECTORS {
                // SAFETY: the index is at most that of the last term, which was found to be there.
                vectors[place] = R::load(simd, unsafe { right[place].get_unchecked(index) });
                if R::asks(term, place) {
                    prefetch(ahead[place].as_ptr().wrapping_add(index));
                }
            }
            for (sums, left) in sums.iter_mut().zip(&left) {
                let left = simd.splat(left[term]);
                for (sum, vector) in sums.iter_mut().zip(&vectors) {
                    *sum = simd.fma(left, *vector, *sum);
                }
            }
            index += stride;
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

/// Asks for what is at an address to be brought near; nothing need be there.
///
/// Blocks lie on pages of their own, and at the beginning of a page the processor does not guess what comes next.
#[inline(always)]
fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is part of every x86-64 and changes no content, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
