//! Vectors with AVX2: two registers each.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// AVX2 with fused multiplication, and with or without VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>(());

/// Runs a kernel with AVX2.
///
/// # Safety
/// The processor must have every feature that is named here.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2::<false>(()))
}

/// Runs a kernel with AVX2 and VNNI.
///
/// # Safety
/// The processor must have every feature that is named here.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
pub(crate) unsafe fn avx2_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2::<true>(()))
}

/// Calls intrinsics.
macro_rules! vector {
    ($operation:expr) => {
        // SAFETY: a value of `Avx2` is made by the two functions above alone, whose callers vouch for the features, and what
        // is read or written is behind a reference to as many bytes as the instructions touch.
        unsafe { $operation }
    };
}

/// The same for both halves.
macro_rules! both {
    ($operation:ident($($vector:ident),+)) => {
        vector!([$operation($($vector[0]),+), $operation($($vector[1]),+)])
    };
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = [__m256; 2];
    type I = [__m256i; 2];

    const REGISTERS: usize = 8;
    const TILE_ROWS: usize = 6;
    const DOTS_BRAIN: bool = false;

    #[inline(always)]
    fn prefetch<T: ?Sized>(self, from: &T, bytes: isize) {
        // An address that is not there is no error.
        vector!(_mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(from).wrapping_byte_offset(bytes).cast()));
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [vector!(_mm256_set1_ps(value)); 2]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F {
        vector!([_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))])
    }

    #[inline(always)]
    fn store(self, vector: Self::F, into: &mut [f32; LANES]) {
        vector!({
            _mm256_storeu_ps(into.as_mut_ptr(), vector[0]);
            _mm256_storeu_ps(into.as_mut_ptr().add(8), vector[1]);
        });
    }

    #[inline(always)]
    fn add(self, left: Self::F, right: Self::F) -> Self::F {
        both!(_mm256_add_ps(left, right))
    }

    #[inline(always)]
    fn sub(self, left: Self::F, right: Self::F) -> Self::F {
        both!(_mm256_sub_ps(left, right))
    }

    #[inline(always)]
    fn mul(self, left: Self::F, right: Self::F) -> Self::F {
        both!(_mm256_mul_ps(left, right))
    }

    #[inline(always)]
    fn div(self, left: Self::F, right: Self::F) -> Self::F {
        both!(_mm256_div_ps(left, right))
    }

    #[inline(always)]
    fn max(self, left: Self::F, right: Self::F) -> Self::F {
        both!(_mm256_max_ps(left, right))
    }

    #[inline(always)]
    fn min(self, left: Self::F, right: Self::F) -> Self::F {
        both!(_mm256_min_ps(left, right))
    }

    #[inline(always)]
    fn fma(self, left: Self::F, right: Self::F, plus: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps(left, right, plus))
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        [vector!(_mm256_set1_epi32(value)); 2]
    }

    #[inline(always)]
    fn store_int(self, vector: Self::I, into: &mut [i32; LANES]) {
        let into: *mut __m256i = into.as_mut_ptr().cast();
        vector!({
            _mm256_storeu_si256(into, vector[0]);
            _mm256_storeu_si256(into.add(1), vector[1]);
        });
    }

    #[inline(always)]
    fn add_int(self, left: Self::I, right: Self::I) -> Self::I {
        both!(_mm256_add_epi32(left, right))
    }

    #[inline(always)]
    fn add_bytes(self, left: Self::I, right: Self::I) -> Self::I {
        both!(_mm256_add_epi8(left, right))
    }

    #[inline(always)]
    fn and(self, left: Self::I, right: Self::I) -> Self::I {
        both!(_mm256_and_si256(left, right))
    }

    #[inline(always)]
    fn or(self, left: Self::I, right: Self::I) -> Self::I {
        both!(_mm256_or_si256(left, right))
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, vector: Self::I) -> Self::I {
        let count = vector!(_mm_cvtsi32_si128(BITS as i32));
        vector.map(|half| vector!(_mm256_sll_epi32(half, count)))
    }

    #[inline(always)]
    fn shift_right<const BITS: u32>(self, vector: Self::I) -> Self::I {
        let count = vector!(_mm_cvtsi32_si128(BITS as i32));
        vector.map(|half| vector!(_mm256_srl_epi32(half, count)))
    }

    #[inline(always)]
    fn shift_right_by(self, vector: Self::I, bits: u32) -> Self::I {
        let count = vector!(_mm_cvtsi32_si128(bits as i32));
        vector.map(|half| vector!(_mm256_srl_epi32(half, count)))
    }

    #[inline(always)]
    fn to_float(self, vector: Self::I) -> Self::F {
        both!(_mm256_cvtepi32_ps(vector))
    }

    #[inline(always)]
    fn round_to_int(self, vector: Self::F) -> Self::I {
        both!(_mm256_cvtps_epi32(vector))
    }

    #[inline(always)]
    fn bits(self, vector: Self::F) -> Self::I {
        both!(_mm256_castps_si256(vector))
    }

    #[inline(always)]
    fn of_bits(self, vector: Self::I) -> Self::F {
        both!(_mm256_castsi256_ps(vector))
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> Self::I {
        let from: *const __m256i = bytes.as_ptr().cast();
        vector!([_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1))])
    }

    #[inline(always)]
    fn widen_i8(self, bytes: &[i8; LANES]) -> Self::I {
        let bytes = vector!(_mm_loadu_si128(bytes.as_ptr().cast()));
        vector!([_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))])
    }

    #[inline(always)]
    fn narrow_to_bytes(self, vector: Self::I, into: &mut [i8; LANES]) {
        let mut lanes = [0; LANES];
        self.store_int(vector, &mut lanes);
        *into = lanes.map(|lane| lane as i8);
    }

    #[inline(always)]
    fn load_half(self, values: &[u16; LANES]) -> Self::F {
        let from: *const __m128i = values.as_ptr().cast();
        vector!([_mm256_cvtph_ps(_mm_loadu_si128(from)), _mm256_cvtph_ps(_mm_loadu_si128(from.add(1)))])
    }

    #[inline(always)]
    fn store_half(self, vector: Self::F, into: &mut [u16; LANES]) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        let into: *mut __m128i = into.as_mut_ptr().cast();
        vector!({
            _mm_storeu_si128(into, _mm256_cvtps_ph::<NEAREST>(vector[0]));
            _mm_storeu_si128(into.add(1), _mm256_cvtps_ph::<NEAREST>(vector[1]));
        });
    }

    #[inline(always)]
    fn load_brain(self, values: &[u16; LANES]) -> Self::F {
        let from: *const __m128i = values.as_ptr().cast();
        let wide = vector!([
            _mm256_cvtepu16_epi32(_mm_loadu_si128(from)),
            _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(1)))
        ]);
        self.of_bits(self.shift_left::<16>(wide))
    }

    #[inline(always)]
    fn store_brain(self, vector: Self::F, into: &mut [u16; LANES]) {
        let bits = self.bits(vector);
        let odd = self.and(self.shift_right::<16>(bits), self.splat_int(1));
        let rounded = self.add_int(self.add_int(bits, self.splat_int(0x7fff)), odd);
        let mut lanes = [0; LANES];
        self.store_int(self.shift_right::<16>(rounded), &mut lanes);
        *into = lanes.map(|lane| lane as u16);
    }

    #[inline(always)]
    fn dot_bytes(self, sums: Self::I, left: Self::I, right: [i8; 4]) -> Self::I {
        let right = vector!(_mm256_set1_epi32(i32::from_le_bytes(right.map(|byte| byte as u8))));
        let dot = |sum, left| {
            if VNNI {
                return vector!(_mm256_dpbusd_avx_epi32(sum, left, right));
            }
            // The pairwise product of bytes saturates, so bytes are widened to 16 bits, the even and the odd ones apart.
            let even = vector!(_mm256_and_si256(left, _mm256_set1_epi16(0xff)));
            let odd = vector!(_mm256_srli_epi16::<8>(left));
            let right_even = vector!(_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(right)));
            let right_odd = vector!(_mm256_srai_epi16::<8>(right));
            let products =
                vector!(_mm256_add_epi32(_mm256_madd_epi16(even, right_even), _mm256_madd_epi16(odd, right_odd)));
            vector!(_mm256_add_epi32(sum, products))
        };
        [dot(sums[0], left[0]), dot(sums[1], left[1])]
    }

    #[inline(always)]
    fn dot_pairs(self, sums: Self::I, left: Self::I, right: [i16; 2]) -> Self::I {
        let right = vector!(_mm256_set1_epi32(i32::from(right[0] as u16) | (i32::from(right[1] as u16) << 16)));
        let dot = |sum, left| {
            if VNNI {
                return vector!(_mm256_dpwssd_avx_epi32(sum, left, right));
            }
            vector!(_mm256_add_epi32(sum, _mm256_madd_epi16(left, right)))
        };
        [dot(sums[0], left[0]), dot(sums[1], left[1])]
    }

    #[inline(always)]
    fn dot_brain(self, sums: Self::F, left: Self::I, right: [u16; 2]) -> Self::F {
        let [low, high] = right.map(|value| self.splat(f32::from_bits(u32::from(value) << 16)));
        let left_low = self.of_bits(self.shift_left::<16>(left));
        let left_high = self.of_bits(self.and(left, self.splat_int(0xffff_0000_u32 as i32)));
        self.fma(left_low, low, self.fma(left_high, high, sums))
    }

    #[inline(always)]
    fn transpose(self, vectors: [Self::F; LANES]) -> [Self::F; LANES] {
        let mut result = vectors;
        for from in 0..2 {
            for half in 0..2 {
                let mut block = [vectors[0][0]; 8];
                for (place, row) in block.iter_mut().enumerate() {
                    *row = vectors[8 * from + place][half];
                }
                for (place, row) in transpose_eight(self, block).into_iter().enumerate() {
                    result[8 * half + place][from] = row;
                }
            }
        }
        result
    }

    #[inline(always)]
    fn sum(self, vector: Self::F) -> f32 {
        let halves = vector!(_mm256_add_ps(vector[0], vector[1]));
        let quarters = vector!(_mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves)));
        let pairs = vector!(_mm_add_ps(quarters, _mm_movehl_ps(quarters, quarters)));
        vector!(_mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs))))
    }

    #[inline(always)]
    fn greatest(self, vector: Self::F) -> f32 {
        let halves = vector!(_mm256_max_ps(vector[0], vector[1]));
        let quarters = vector!(_mm_max_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves)));
        let pairs = vector!(_mm_max_ps(quarters, _mm_movehl_ps(quarters, quarters)));
        vector!(_mm_cvtss_f32(_mm_max_ss(pairs, _mm_movehdup_ps(pairs))))
    }
}

/// Four by four within the halves of a register, then the halves.
#[inline(always)]
fn transpose_eight<const VNNI: bool>(_: Avx2<VNNI>, vectors: [__m256; 8]) -> [__m256; 8] {
    let mut columns = vectors;
    for first in [0, 4] {
        let (one, two, three, four) = (vectors[first], vectors[first + 1], vectors[first + 2], vectors[first + 3]);
        let low = vector!([_mm256_unpacklo_ps(one, two), _mm256_unpacklo_ps(three, four)]);
        let high = vector!([_mm256_unpackhi_ps(one, two), _mm256_unpackhi_ps(three, four)]);
        for (place, [left, right]) in [low, high].into_iter().enumerate() {
            let (left, right) = vector!((_mm256_castps_pd(left), _mm256_castps_pd(right)));
            columns[first + 2 * place] = vector!(_mm256_castpd_ps(_mm256_unpacklo_pd(left, right)));
            columns[first + 2 * place + 1] = vector!(_mm256_castpd_ps(_mm256_unpackhi_pd(left, right)));
        }
    }
    let mut result = columns;
    for column in 0..4 {
        let (left, right) = (columns[column], columns[column + 4]);
        result[column] = vector!(_mm256_permute2f128_ps::<0x20>(left, right));
        result[column + 4] = vector!(_mm256_permute2f128_ps::<0x31>(left, right));
    }
    result
}
