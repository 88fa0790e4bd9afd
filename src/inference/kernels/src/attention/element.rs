//! How the numbers of keys and values are kept: as they are, in half the bytes, or in a quarter.

use crate::memory::Plain;
use crate::rows;
use crate::simd::{LANES, Simd};

/// What the numbers of keys and values are kept as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvElement {
    /// Single precision, in which they are computed.
    F32,
    /// IEEE half precision.
    #[default]
    F16,
    /// Whole numbers of 8 bits, and one scale for each token's key and one for its value in each head.
    Q8,
}

/// A number as it is kept.  All functions must be `#[inline(always)]`.
pub(super) trait Element: Plain + Default {
    /// How many rows of sixteen elements the scales of sixteen tokens take.
    const SCALE_ROWS: usize;
    /// The greatest magnitude that is kept.  What is greater becomes it, for a masked token's value is multiplied by
    /// zero, which must be zero.
    const GREATEST: f32;

    /// Sixteen numbers, or sixteen multiples of their scales.
    fn widen<S: Simd>(simd: S, elements: &[Self; LANES]) -> S::F;

    /// The other way around.
    fn narrow<S: Simd>(simd: S, numbers: S::F, into: &mut [Self; LANES]);

    /// The scales of sixteen tokens, of elements that have scales.
    fn scales<S: Simd>(simd: S, rows: &[[Self; LANES]]) -> S::F;

    /// Keeps the scale of one token's numbers, and returns what they are multiplied by to become elements.
    fn keep_scale<S: Simd>(simd: S, numbers: &[f32], rows: &mut [[Self; LANES]], token: usize) -> f32;
}

/// Up to a vector of numbers, filled up with zeros and as large as an element can be.
#[inline(always)]
fn load<S: Simd, E: Element>(simd: S, part: &[f32]) -> S::F {
    let numbers = match part.first_chunk() {
        Some(whole) => simd.load(whole),
        None => simd.load(&rows::padded(part, 0.0)),
    };
    simd.max(simd.min(numbers, simd.splat(E::GREATEST)), simd.splat(-E::GREATEST))
}

/// Up to a vector of numbers, multiplied by what [`Element::keep_scale`] has returned.
#[inline(always)]
pub(super) fn narrowed<S: Simd, E: Element>(simd: S, part: &[f32], factor: f32) -> [E; LANES] {
    let mut numbers = load::<S, E>(simd, part);
    if E::SCALE_ROWS > 0 {
        numbers = simd.mul(numbers, simd.splat(factor));
    }
    let mut elements = [E::default(); LANES];
    E::narrow(simd, numbers, &mut elements);
    elements
}

impl Element for f32 {
    const SCALE_ROWS: usize = 0;
    const GREATEST: f32 = f32::MAX;

    #[inline(always)]
    fn widen<S: Simd>(simd: S, elements: &[f32; LANES]) -> S::F {
        simd.load(elements)
    }

    #[inline(always)]
    fn narrow<S: Simd>(simd: S, numbers: S::F, into: &mut [f32; LANES]) {
        simd.store(numbers, into);
    }

    #[inline(always)]
    fn scales<S: Simd>(simd: S, _: &[[f32; LANES]]) -> S::F {
        simd.splat(1.0)
    }

    #[inline(always)]
    fn keep_scale<S: Simd>(_: S, _: &[f32], _: &mut [[f32; LANES]], _: usize) -> f32 {
        1.0
    }
}

/// Half precision.
impl Element for u16 {
    const SCALE_ROWS: usize = 0;
    const GREATEST: f32 = 65504.0;

    #[inline(always)]
    fn widen<S: Simd>(simd: S, elements: &[u16; LANES]) -> S::F {
        simd.load_half(elements)
    }

    #[inline(always)]
    fn narrow<S: Simd>(simd: S, numbers: S::F, into: &mut [u16; LANES]) {
        simd.store_half(numbers, into);
    }

    #[inline(always)]
    fn scales<S: Simd>(simd: S, _: &[[u16; LANES]]) -> S::F {
        simd.splat(1.0)
    }

    #[inline(always)]
    fn keep_scale<S: Simd>(_: S, _: &[f32], _: &mut [[u16; LANES]], _: usize) -> f32 {
        1.0
    }
}

/// Whole numbers, of which the greatest magnitude of a token's numbers is 127.
///
/// The scales stand among them as the bytes of numbers in single precision, the lowest first.
impl Element for i8 {
    const SCALE_ROWS: usize = size_of::<f32>();
    const GREATEST: f32 = f32::MAX;

    #[inline(always)]
    fn widen<S: Simd>(simd: S, elements: &[i8; LANES]) -> S::F {
        simd.to_float(simd.widen_i8(elements))
    }

    #[inline(always)]
    fn narrow<S: Simd>(simd: S, numbers: S::F, into: &mut [i8; LANES]) {
        simd.narrow_to_bytes(simd.round_to_int(numbers), into);
    }

    #[inline(always)]
    fn scales<S: Simd>(simd: S, rows: &[[i8; LANES]]) -> S::F {
        let bytes = rows.as_flattened().first_chunk().expect("the scales of sixteen tokens");
        simd.of_bits(simd.load_bytes(&bytes.map(|byte| byte as u8)))
    }

    #[inline(always)]
    fn keep_scale<S: Simd>(simd: S, numbers: &[f32], rows: &mut [[i8; LANES]], token: usize) -> f32 {
        let magnitude = simd.splat_int(i32::MAX);
        let mut greatest = simd.splat(0.0);
        for part in numbers.chunks(LANES) {
            let numbers = simd.bits(load::<S, i8>(simd, part));
            greatest = simd.max(simd.of_bits(simd.and(numbers, magnitude)), greatest);
        }
        let (scale, factor) = rows::scale_of_bytes(simd.greatest(greatest));
        let bytes = &mut rows.as_flattened_mut()[token * size_of::<f32>()..][..size_of::<f32>()];
        bytes.copy_from_slice(&scale.to_le_bytes().map(|byte| byte as i8));
        factor
    }
}
