//! One head's part of rows that hold all heads: queries are read from there, and results go there.

use std::marker::PhantomData;

use crate::simd::{Kernel, LANES, Simd};

/// Rows of one length that stand apart, for one thread to write.
pub(super) struct Places<'a> {
    first: *mut f32,
    stride: usize,
    rows: usize,
    length: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

impl Places<'_> {
    /// # Safety
    /// So many rows must be there, each of `length` numbers and beginning `stride` numbers after the one before, and
    /// nobody else may use them as long as the result lives.
    pub(super) unsafe fn new(first: *mut f32, stride: usize, rows: usize, length: usize) -> Self {
        Places { first, stride, rows, length, borrowed: PhantomData }
    }

    /// How many numbers a row has.
    #[inline(always)]
    pub(super) fn length(&self) -> usize {
        self.length
    }

    #[inline(always)]
    pub(super) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "a row that there is");
        // SAFETY: whoever has made this answers for the rows.
        unsafe { std::slice::from_raw_parts_mut(self.first.wrapping_add(row * self.stride), self.length) }
    }
}

/// Rows that stand apart, multiplied by a number and put together.
pub(super) struct Load<'a> {
    /// What begins with the first row.
    pub(super) rows: &'a [f32],
    /// How far a row begins behind the one before.
    pub(super) stride: usize,
    pub(super) length: usize,
    pub(super) factor: f32,
    pub(super) into: &'a mut [f32],
}

impl Kernel for Load<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let factor = simd.splat(self.factor);
        for (row, into) in self.rows.chunks(self.stride).zip(self.into.chunks_exact_mut(self.length)) {
            let (vectors, rest) = row[..self.length].as_chunks::<LANES>();
            let (into, into_rest) = into.as_chunks_mut::<LANES>();
            for (vector, into) in vectors.iter().zip(into) {
                simd.store(simd.mul(simd.load(vector), factor), into);
            }
            for (number, into) in rest.iter().zip(into_rest) {
                *into = number * self.factor;
            }
        }
    }
}
