//! One vocabulary of vectors, so that each kernel is written once and compiled for every instruction set.
//!
//! A vector has sixteen lanes of 32 bits everywhere: one register with AVX-512, two with AVX2, an array without either.
//! The operations mean the same to the bit in all of them, fused multiplication and rounding to nearest even included,
//! so that the portable form is the specification of the others and tests can hold them to it.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_avx2::{avx2, avx2_vnni};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_avx512::{avx512, avx512_bf16};

/// How many lanes of 32 bits a vector has.
pub(crate) const LANES: usize = 16;

/// Something to be computed with whichever vectors there are.
///
/// `run` and all that it calls must be `#[inline(always)]`: the instructions are allowed in the function that it is inlined
/// into, and nowhere else.
pub(crate) trait Kernel {
    type Output;
    /// Whether it may take products of bytes: what does not is not compiled anew for instructions that differ in them alone.
    const DOTS_BYTES: bool = true;
    /// Whether it may take products of bfloat16.
    const DOTS_BRAIN: bool = true;

    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Vectors of sixteen lanes.  A value is the proof that the processor has the instructions.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Sixteen numbers in single precision.
    type F: Copy;
    /// Sixteen whole numbers of 32 bits, or 64 bytes.
    type I: Copy;

    /// How many vectors the registers hold.
    const REGISTERS: usize;
    /// The most rows whose sums stay in registers while weights pass once.
    const TILE_ROWS: usize;
    /// Whether [`Simd::dot_brain`] is one instruction.
    const DOTS_BRAIN: bool;

    /// Lets the second cache fetch what stands so many bytes from something.
    fn prefetch<T: ?Sized>(self, from: &T, bytes: isize);

    fn splat(self, value: f32) -> Self::F;
    fn load(self, values: &[f32; LANES]) -> Self::F;
    fn store(self, vector: Self::F, into: &mut [f32; LANES]);
    fn add(self, left: Self::F, right: Self::F) -> Self::F;
    fn sub(self, left: Self::F, right: Self::F) -> Self::F;
    fn mul(self, left: Self::F, right: Self::F) -> Self::F;
    fn div(self, left: Self::F, right: Self::F) -> Self::F;
    /// The greater of each pair; neither may be NaN.
    fn max(self, left: Self::F, right: Self::F) -> Self::F;
    /// The lesser of each pair; neither may be NaN.
    fn min(self, left: Self::F, right: Self::F) -> Self::F;
    /// `left * right + plus`, rounded once.
    fn fma(self, left: Self::F, right: Self::F, plus: Self::F) -> Self::F;

    fn splat_int(self, value: i32) -> Self::I;
    fn store_int(self, vector: Self::I, into: &mut [i32; LANES]);
    /// Wraps around.
    fn add_int(self, left: Self::I, right: Self::I) -> Self::I;
    /// Adds byte to byte; each wraps around.
    fn add_bytes(self, left: Self::I, right: Self::I) -> Self::I;
    fn and(self, left: Self::I, right: Self::I) -> Self::I;
    fn or(self, left: Self::I, right: Self::I) -> Self::I;
    /// Shifts each lane of 32 bits, zeros coming in.
    fn shift_left<const BITS: u32>(self, vector: Self::I) -> Self::I;
    /// Shifts each lane of 32 bits, zeros coming in.
    fn shift_right<const BITS: u32>(self, vector: Self::I) -> Self::I;
    /// [`Simd::shift_right`] by what a loop counts; below 32.
    fn shift_right_by(self, vector: Self::I, bits: u32) -> Self::I;

    /// Nearest even; exact below 2^24.
    fn to_float(self, vector: Self::I) -> Self::F;
    /// Nearest even; the value must be within the range of `i32`.
    fn round_to_int(self, vector: Self::F) -> Self::I;
    fn bits(self, vector: Self::F) -> Self::I;
    fn of_bits(self, vector: Self::I) -> Self::F;

    fn load_bytes(self, bytes: &[u8; 64]) -> Self::I;
    /// Each byte becomes a lane.
    fn widen_i8(self, bytes: &[i8; LANES]) -> Self::I;
    /// The lowest byte of each lane.
    fn narrow_to_bytes(self, vector: Self::I, into: &mut [i8; LANES]);
    /// From IEEE half precision, which is exact.
    fn load_half(self, values: &[u16; LANES]) -> Self::F;
    /// To IEEE half precision, nearest even.
    fn store_half(self, vector: Self::F, into: &mut [u16; LANES]);
    /// From bfloat16, which is exact.
    fn load_brain(self, values: &[u16; LANES]) -> Self::F;
    /// To bfloat16, nearest even; the values must be numbers.
    fn store_brain(self, vector: Self::F, into: &mut [u16; LANES]);

    /// Adds to each lane the products of its four unsigned bytes of `left` with the four signed ones of `right`.
    ///
    /// The four bytes of `right` are the same for all lanes.  No sum may pass the range of `i32`.
    fn dot_bytes(self, sums: Self::I, left: Self::I, right: [i8; 4]) -> Self::I;
    /// Adds to each lane the products of its two signed numbers of 16 bits of `left` with those of `right`.
    ///
    /// `right` is the same for all lanes.  No sum may pass the range of `i32`.
    fn dot_pairs(self, sums: Self::I, left: Self::I, right: [i16; 2]) -> Self::I;
    /// Adds to each lane the products of its two bfloat16 of `left` with those of `right`, the second one first, each
    /// product exact and each sum rounded; `right` is the same for all lanes.
    fn dot_brain(self, sums: Self::F, left: Self::I, right: [u16; 2]) -> Self::F;

    /// Lane by vector instead of vector by lane.
    fn transpose(self, vectors: [Self::F; LANES]) -> [Self::F; LANES];
    /// The sum of all lanes, in a fixed order: halves are added lane by lane until one is left.
    fn sum(self, vector: Self::F) -> f32;
    /// The greatest of all lanes, none of which may be NaN.
    fn greatest(self, vector: Self::F) -> f32;
}

#[cfg(test)]
mod tests;
