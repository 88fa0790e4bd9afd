//! What happens to each number of a row by itself.

use crate::Isa;
use crate::simd::{Kernel, LANES, Simd};

/// Adds another row.
///
/// # Panics
/// When the rows differ in length.
pub fn add(isa: Isa, into: &mut [f32], other: &[f32]) {
    map(isa, Sum, into, [other]);
}

/// Multiplies a row by a number.
pub fn scale(isa: Isa, row: &mut [f32], factor: f32) {
    map(isa, Scale(factor), row, []);
}

/// A function of the number that stands in a place, and of those that stand there in `OTHERS` other rows.
pub(super) trait Each<const OTHERS: usize>: Copy {
    /// Must be `#[inline(always)]`.
    fn each<S: Simd>(self, simd: S, own: S::F, others: [S::F; OTHERS]) -> S::F;
}

/// Sets each number of `into` to a function of itself and of the others in its place.
///
/// # Panics
/// When the rows differ in length.
pub(super) fn map<const OTHERS: usize>(
    isa: Isa,
    function: impl Each<OTHERS>,
    into: &mut [f32],
    others: [&[f32]; OTHERS],
) {
    for other in others {
        assert_eq!(other.len(), into.len(), "the length of the rows");
    }
    isa.run(Map { function, into, others });
}

struct Map<'a, E, const OTHERS: usize> {
    function: E,
    into: &'a mut [f32],
    others: [&'a [f32]; OTHERS],
}

impl<E: Each<OTHERS>, const OTHERS: usize> Kernel for Map<'_, E, OTHERS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (vectors, rest) = self.into.as_chunks_mut::<LANES>();
        let start = vectors.len() * LANES;
        // Loops, for a closure that the standard library calls may not be inlined, and then its vectors go through
        // memory.
        let mut places = [simd.splat(0.0); OTHERS];
        for (index, own) in vectors.iter_mut().enumerate() {
            for (place, other) in places.iter_mut().zip(self.others) {
                *place = simd.load(&other.as_chunks().0[index]);
            }
            simd.store(self.function.each(simd, simd.load(own), places), own);
        }
        if !rest.is_empty() {
            let mut own = padded(rest, 0.0);
            for (place, other) in places.iter_mut().zip(self.others) {
                *place = simd.load(&padded(&other[start..], 0.0));
            }
            simd.store(self.function.each(simd, simd.load(&own), places), &mut own);
            rest.copy_from_slice(&own[..rest.len()]);
        }
    }
}

/// Up to a vector of numbers, filled up with zeros.
#[inline(always)]
pub(crate) fn load_part<S: Simd>(simd: S, part: &[f32]) -> S::F {
    match part.first_chunk() {
        Some(whole) => simd.load(whole),
        None => simd.load(&padded(part, 0.0)),
    }
}

/// Less than a vector, filled up.
#[inline(always)]
pub(super) fn padded(rest: &[f32], with: f32) -> [f32; LANES] {
    let mut lanes = [with; LANES];
    lanes[..rest.len()].copy_from_slice(rest);
    lanes
}

#[derive(Clone, Copy)]
struct Sum;

impl Each<1> for Sum {
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, own: S::F, [other]: [S::F; 1]) -> S::F {
        simd.add(own, other)
    }
}

#[derive(Clone, Copy)]
struct Scale(f32);

impl Each<0> for Scale {
    #[inline(always)]
    fn each<S: Simd>(self, simd: S, own: S::F, []: [S::F; 0]) -> S::F {
        simd.mul(own, simd.splat(self.0))
    }
}
