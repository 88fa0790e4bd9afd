//! Vectors as arrays: what the others must compute to the bit, and what runs where there are no others.

use half::{bf16, f16};

use super::{LANES, Simd};

/// No instructions but those that the compiler may use everywhere.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each<T: Copy, U: Copy, V>(left: [T; LANES], right: [U; LANES], with: impl Fn(T, U) -> V) -> [V; LANES] {
    std::array::from_fn(|lane| with(left[lane], right[lane]))
}

impl Simd for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];

    const REGISTERS: usize = 4;
    const TILE_ROWS: usize = 2;
    const DOTS_BRAIN: bool = false;

    #[inline(always)]
    fn prefetch<T: ?Sized>(self, _from: &T, _bytes: isize) {}

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F {
        *values
    }

    #[inline(always)]
    fn store(self, vector: Self::F, into: &mut [f32; LANES]) {
        *into = vector;
    }

    #[inline(always)]
    fn add(self, left: Self::F, right: Self::F) -> Self::F {
        each(left, right, |left, right| left + right)
    }

    #[inline(always)]
    fn sub(self, left: Self::F, right: Self::F) -> Self::F {
        each(left, right, |left, right| left - right)
    }

    #[inline(always)]
    fn mul(self, left: Self::F, right: Self::F) -> Self::F {
        each(left, right, |left, right| left * right)
    }

    #[inline(always)]
    fn div(self, left: Self::F, right: Self::F) -> Self::F {
        each(left, right, |left, right| left / right)
    }

    #[inline(always)]
    fn max(self, left: Self::F, right: Self::F) -> Self::F {
        each(left, right, |left, right| if left > right { left } else { right })
    }

    #[inline(always)]
    fn min(self, left: Self::F, right: Self::F) -> Self::F {
        each(left, right, |left, right| if left < right { left } else { right })
    }

    #[inline(always)]
    fn fma(self, left: Self::F, right: Self::F, plus: Self::F) -> Self::F {
        std::array::from_fn(|lane| left[lane].mul_add(right[lane], plus[lane]))
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        [value; LANES]
    }

    #[inline(always)]
    fn store_int(self, vector: Self::I, into: &mut [i32; LANES]) {
        *into = vector;
    }

    #[inline(always)]
    fn add_int(self, left: Self::I, right: Self::I) -> Self::I {
        each(left, right, i32::wrapping_add)
    }

    #[inline(always)]
    fn add_bytes(self, left: Self::I, right: Self::I) -> Self::I {
        each(left, right, |left, right| {
            let (left, right) = (left.to_le_bytes(), right.to_le_bytes());
            i32::from_le_bytes(std::array::from_fn(|byte| left[byte].wrapping_add(right[byte])))
        })
    }

    #[inline(always)]
    fn and(self, left: Self::I, right: Self::I) -> Self::I {
        each(left, right, |left, right| left & right)
    }

    #[inline(always)]
    fn or(self, left: Self::I, right: Self::I) -> Self::I {
        each(left, right, |left, right| left | right)
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, vector: Self::I) -> Self::I {
        vector.map(|lane| ((lane as u32) << BITS) as i32)
    }

    #[inline(always)]
    fn shift_right<const BITS: u32>(self, vector: Self::I) -> Self::I {
        vector.map(|lane| ((lane as u32) >> BITS) as i32)
    }

    #[inline(always)]
    fn shift_right_by(self, vector: Self::I, bits: u32) -> Self::I {
        vector.map(|lane| (lane as u32).wrapping_shr(bits) as i32)
    }

    #[inline(always)]
    fn to_float(self, vector: Self::I) -> Self::F {
        vector.map(|lane| lane as f32)
    }

    #[inline(always)]
    fn round_to_int(self, vector: Self::F) -> Self::I {
        vector.map(|lane| lane.round_ties_even() as i32)
    }

    #[inline(always)]
    fn bits(self, vector: Self::F) -> Self::I {
        vector.map(|lane| lane.to_bits() as i32)
    }

    #[inline(always)]
    fn of_bits(self, vector: Self::I) -> Self::F {
        vector.map(|lane| f32::from_bits(lane as u32))
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> Self::I {
        std::array::from_fn(|lane| i32::from_le_bytes(std::array::from_fn(|byte| bytes[4 * lane + byte])))
    }

    #[inline(always)]
    fn widen_i8(self, bytes: &[i8; LANES]) -> Self::I {
        bytes.map(i32::from)
    }

    #[inline(always)]
    fn narrow_to_bytes(self, vector: Self::I, into: &mut [i8; LANES]) {
        *into = vector.map(|lane| lane as i8);
    }

    #[inline(always)]
    fn load_half(self, values: &[u16; LANES]) -> Self::F {
        values.map(|value| f16::from_bits(value).to_f32_const())
    }

    #[inline(always)]
    fn store_half(self, vector: Self::F, into: &mut [u16; LANES]) {
        *into = vector.map(|lane| f16::from_f32_const(lane).to_bits());
    }

    #[inline(always)]
    fn load_brain(self, values: &[u16; LANES]) -> Self::F {
        values.map(|value| f32::from_bits(u32::from(value) << 16))
    }

    #[inline(always)]
    fn store_brain(self, vector: Self::F, into: &mut [u16; LANES]) {
        *into = vector.map(|lane| bf16::from_f32(lane).to_bits());
    }

    #[inline(always)]
    fn dot_bytes(self, sums: Self::I, left: Self::I, right: [i8; 4]) -> Self::I {
        each(sums, left, |sum, left| {
            let products = left.to_le_bytes().into_iter().zip(right).map(|(l, r)| i32::from(l) * i32::from(r));
            products.fold(sum, i32::wrapping_add)
        })
    }

    #[inline(always)]
    fn dot_pairs(self, sums: Self::I, left: Self::I, right: [i16; 2]) -> Self::I {
        each(sums, left, |sum, left| {
            let products = [left as i16, (left >> 16) as i16].into_iter().zip(right);
            products.map(|(l, r)| i32::from(l) * i32::from(r)).fold(sum, i32::wrapping_add)
        })
    }

    #[inline(always)]
    fn dot_brain(self, sums: Self::F, left: Self::I, right: [u16; 2]) -> Self::F {
        let [low, high] = right.map(|value| f32::from_bits(u32::from(value) << 16));
        each(sums, left, |sum, left| {
            let left_low = f32::from_bits((left as u32) << 16);
            let left_high = f32::from_bits(left as u32 & 0xffff_0000);
            left_low.mul_add(low, left_high.mul_add(high, sum))
        })
    }

    #[inline(always)]
    fn transpose(self, vectors: [Self::F; LANES]) -> [Self::F; LANES] {
        std::array::from_fn(|lane| std::array::from_fn(|vector| vectors[vector][lane]))
    }

    #[inline(always)]
    fn sum(self, vector: Self::F) -> f32 {
        halve(vector, |left, right| left + right)
    }

    #[inline(always)]
    fn greatest(self, vector: Self::F) -> f32 {
        halve(vector, |left, right| if left > right { left } else { right })
    }
}

/// Folds the upper half onto the lower one until one lane is left.
#[inline(always)]
fn halve(mut lanes: [f32; LANES], with: impl Fn(f32, f32) -> f32) -> f32 {
    let mut count = LANES / 2;
    while count > 0 {
        for lane in 0..count {
            lanes[lane] = with(lanes[lane], lanes[lane + count]);
        }
        count /= 2;
    }
    lanes[0]
}
