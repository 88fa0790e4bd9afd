//! Vectors with AVX-512: one register each.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, LANES, Simd};

/// AVX-512 with VNNI, and with or without the instructions for bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const BRAIN: bool>(());

/// Runs a kernel with AVX-512 and VNNI.
///
/// # Safety
/// The processor must have every feature that is named here.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) unsafe fn avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<false>(()))
}

/// Runs a kernel with AVX-512, VNNI and the instructions for bfloat16.
///
/// # Safety
/// The processor must have every feature that is named here.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(crate) unsafe fn avx512_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512::<true>(()))
}

/// Calls intrinsics.
macro_rules! vector {
    ($operation:expr) => {
        // SAFETY: a value of `Avx512` is made by the two functions above alone, whose callers vouch for the features, and
        // what is read or written is behind a reference to as many bytes as the instruction touches.
        unsafe { $operation }
    };
}

/// `_mm512_dpbusd_epi32` in the order of the program.
///
/// A product takes five cycles and two begin in each, so kernels go round several sums.  The compiler would put all products
/// of one sum behind each other, each of which waits for the one before.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_bytes(mut sums: __m512i, left: __m512i, right: __m512i) -> __m512i {
    // SAFETY: the instruction changes the one register that is named.
    unsafe {
        asm!("vpdpbusd {}, {}, {}", inout(zmm_reg) sums, in(zmm_reg) left, in(zmm_reg) right,
            options(nomem, nostack, preserves_flags));
    }
    sums
}

impl<const BRAIN: bool> Simd for Avx512<BRAIN> {
    type F = __m512;
    type I = __m512i;

    const REGISTERS: usize = 32;
    const TILE_ROWS: usize = 14;
    const DOTS_BRAIN: bool = BRAIN;

    #[inline(always)]
    fn prefetch<T: ?Sized>(self, from: &T, bytes: isize) {
        // An address that is not there is no error.
        vector!(_mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(from).wrapping_byte_offset(bytes).cast()));
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        vector!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F {
        vector!(_mm512_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn store(self, vector: Self::F, into: &mut [f32; LANES]) {
        vector!(_mm512_storeu_ps(into.as_mut_ptr(), vector));
    }

    #[inline(always)]
    fn add(self, left: Self::F, right: Self::F) -> Self::F {
        vector!(_mm512_add_ps(left, right))
    }

    #[inline(always)]
    fn sub(self, left: Self::F, right: Self::F) -> Self::F {
        vector!(_mm512_sub_ps(left, right))
    }

    #[inline(always)]
    fn mul(self, left: Self::F, right: Self::F) -> Self::F {
        vector!(_mm512_mul_ps(left, right))
    }

    #[inline(always)]
    fn div(self, left: Self::F, right: Self::F) -> Self::F {
        vector!(_mm512_div_ps(left, right))
    }

    #[inline(always)]
    fn max(self, left: Self::F, right: Self::F) -> Self::F {
        vector!(_mm512_max_ps(left, right))
    }

    #[inline(always)]
    fn min(self, left: Self::F, right: Self::F) -> Self::F {
        vector!(_mm512_min_ps(left, right))
    }

    #[inline(always)]
    fn fma(self, left: Self::F, right: Self::F, plus: Self::F) -> Self::F {
        vector!(_mm512_fmadd_ps(left, right, plus))
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        vector!(_mm512_set1_epi32(value))
    }

    #[inline(always)]
    fn store_int(self, vector: Self::I, into: &mut [i32; LANES]) {
        vector!(_mm512_storeu_si512(into.as_mut_ptr().cast(), vector));
    }

    #[inline(always)]
    fn add_int(self, left: Self::I, right: Self::I) -> Self::I {
        vector!(_mm512_add_epi32(left, right))
    }

    #[inline(always)]
    fn add_bytes(self, left: Self::I, right: Self::I) -> Self::I {
        vector!(_mm512_add_epi8(left, right))
    }

    #[inline(always)]
    fn and(self, left: Self::I, right: Self::I) -> Self::I {
        vector!(_mm512_and_si512(left, right))
    }

    #[inline(always)]
    fn or(self, left: Self::I, right: Self::I) -> Self::I {
        vector!(_mm512_or_si512(left, right))
    }

    #[inline(always)]
    fn shift_left<const BITS: u32>(self, vector: Self::I) -> Self::I {
        vector!(_mm512_slli_epi32::<BITS>(vector))
    }

    #[inline(always)]
    fn shift_right<const BITS: u32>(self, vector: Self::I) -> Self::I {
        vector!(_mm512_srli_epi32::<BITS>(vector))
    }

    #[inline(always)]
    fn shift_right_by(self, vector: Self::I, bits: u32) -> Self::I {
        vector!(_mm512_srl_epi32(vector, _mm_cvtsi32_si128(bits as i32)))
    }

    #[inline(always)]
    fn to_float(self, vector: Self::I) -> Self::F {
        vector!(_mm512_cvtepi32_ps(vector))
    }

    #[inline(always)]
    fn round_to_int(self, vector: Self::F) -> Self::I {
        vector!(_mm512_cvtps_epi32(vector))
    }

    #[inline(always)]
    fn bits(self, vector: Self::F) -> Self::I {
        vector!(_mm512_castps_si512(vector))
    }

    #[inline(always)]
    fn of_bits(self, vector: Self::I) -> Self::F {
        vector!(_mm512_castsi512_ps(vector))
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; 64]) -> Self::I {
        vector!(_mm512_loadu_si512(bytes.as_ptr().cast()))
    }

    #[inline(always)]
    fn widen_i8(self, bytes: &[i8; LANES]) -> Self::I {
        vector!(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())))
    }

    #[inline(always)]
    fn narrow_to_bytes(self, vector: Self::I, into: &mut [i8; LANES]) {
        vector!(_mm_storeu_si128(into.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(vector)));
    }

    #[inline(always)]
    fn load_half(self, values: &[u16; LANES]) -> Self::F {
        vector!(_mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())))
    }

    #[inline(always)]
    fn store_half(self, vector: Self::F, into: &mut [u16; LANES]) {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        vector!(_mm256_storeu_si256(into.as_mut_ptr().cast(), _mm512_cvtps_ph::<NEAREST>(vector)));
    }

    #[inline(always)]
    fn load_brain(self, values: &[u16; LANES]) -> Self::F {
        let narrow = vector!(_mm256_loadu_si256(values.as_ptr().cast()));
        vector!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow))))
    }

    #[inline(always)]
    fn store_brain(self, vector: Self::F, into: &mut [u16; LANES]) {
        // By hand, for the instruction takes numbers that are not normal for zero.
        let bits = self.bits(vector);
        let odd = self.and(self.shift_right::<16>(bits), self.splat_int(1));
        let rounded = self.add_int(self.add_int(bits, self.splat_int(0x7fff)), odd);
        let high = self.shift_right::<16>(rounded);
        vector!(_mm256_storeu_si256(into.as_mut_ptr().cast(), _mm512_cvtepi32_epi16(high)));
    }

    #[inline(always)]
    fn dot_bytes(self, sums: Self::I, left: Self::I, right: [i8; 4]) -> Self::I {
        let right = i32::from_le_bytes(right.map(|byte| byte as u8));
        vector!(dot_bytes(sums, left, _mm512_set1_epi32(right)))
    }

    #[inline(always)]
    fn dot_pairs(self, sums: Self::I, left: Self::I, right: [i16; 2]) -> Self::I {
        let right = i32::from(right[0] as u16) | (i32::from(right[1] as u16) << 16);
        vector!(_mm512_dpwssd_epi32(sums, left, _mm512_set1_epi32(right)))
    }

    #[inline(always)]
    fn dot_brain(self, sums: Self::F, left: Self::I, right: [u16; 2]) -> Self::F {
        if BRAIN {
            let right = i32::from(right[0]) | (i32::from(right[1]) << 16);
            // SAFETY: as for `vector`; the types differ in name alone, 64 bytes without a wrong value.
            return unsafe {
                let left: __m512bh = std::mem::transmute(left);
                let right: __m512bh = std::mem::transmute(_mm512_set1_epi32(right));
                _mm512_dpbf16_ps(sums, left, right)
            };
        }
        let [low, high] = right.map(|value| self.splat(f32::from_bits(u32::from(value) << 16)));
        let left_low = self.of_bits(self.shift_left::<16>(left));
        let left_high = self.of_bits(self.and(left, self.splat_int(0xffff_0000_u32 as i32)));
        self.fma(left_low, low, self.fma(left_high, high, sums))
    }

    #[inline(always)]
    fn transpose(self, vectors: [Self::F; LANES]) -> [Self::F; LANES] {
        // Four by four within the quarters of a register, then the quarters.
        const EVEN: i32 = 0x88;
        const ODD: i32 = 0xdd;
        let mut columns = vectors;
        for first in (0..LANES).step_by(4) {
            let (one, two, three, four) = (vectors[first], vectors[first + 1], vectors[first + 2], vectors[first + 3]);
            let low = vector!([_mm512_unpacklo_ps(one, two), _mm512_unpacklo_ps(three, four)]);
            let high = vector!([_mm512_unpackhi_ps(one, two), _mm512_unpackhi_ps(three, four)]);
            for (place, [left, right]) in [low, high].into_iter().enumerate() {
                let (left, right) = vector!((_mm512_castps_pd(left), _mm512_castps_pd(right)));
                columns[first + 2 * place] = vector!(_mm512_castpd_ps(_mm512_unpacklo_pd(left, right)));
                columns[first + 2 * place + 1] = vector!(_mm512_castpd_ps(_mm512_unpackhi_pd(left, right)));
            }
        }
        let mut result = columns;
        for column in 0..4 {
            let (one, two) = (columns[column], columns[column + 4]);
            let (three, four) = (columns[column + 8], columns[column + 12]);
            let even = vector!([_mm512_shuffle_f32x4::<EVEN>(one, two), _mm512_shuffle_f32x4::<EVEN>(three, four)]);
            let odd = vector!([_mm512_shuffle_f32x4::<ODD>(one, two), _mm512_shuffle_f32x4::<ODD>(three, four)]);
            result[column] = vector!(_mm512_shuffle_f32x4::<EVEN>(even[0], even[1]));
            result[column + 4] = vector!(_mm512_shuffle_f32x4::<EVEN>(odd[0], odd[1]));
            result[column + 8] = vector!(_mm512_shuffle_f32x4::<ODD>(even[0], even[1]));
            result[column + 12] = vector!(_mm512_shuffle_f32x4::<ODD>(odd[0], odd[1]));
        }
        result
    }

    #[inline(always)]
    fn sum(self, vector: Self::F) -> f32 {
        let halves = vector!(_mm256_add_ps(_mm512_castps512_ps256(vector), _mm512_extractf32x8_ps::<1>(vector)));
        let quarters = vector!(_mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves)));
        let pairs = vector!(_mm_add_ps(quarters, _mm_movehl_ps(quarters, quarters)));
        vector!(_mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs))))
    }

    #[inline(always)]
    fn greatest(self, vector: Self::F) -> f32 {
        vector!(_mm512_reduce_max_ps(vector))
    }
}
