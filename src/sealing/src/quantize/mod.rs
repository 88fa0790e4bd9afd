//! Quantises weights: numbers in single precision become GGUF's blocks, a few bits each under a common scale.
//!
//! ```text
//! Q8_0   32 numbers:  d q                     8.5 bits a number
//! Q4_0   32 numbers:  d (q - 8)               4.5
//! Q4_K  256 numbers:  d scale q - dmin min    4.5      eight parts of 32, scale and min of 6 bits
//! Q5_K  256 numbers:  the same                5.5
//! Q6_K  256 numbers:  d scale (q - 32)        6.5625   sixteen parts of 16, scale of 8 bits
//! ```
//! `d` and `dmin` are numbers of half precision.  What a block stands for is fixed by these formulas (ggml's
//! `ggml-common.h`); which block stands best for some numbers is to be searched.  What is minimised is the squared error,
//! each number weighing as its magnitude plus the root mean square of its part: greater weights do more to the result,
//! and get the better places of the grid.
//!
//! The search is of the family of Lloyd's algorithm (least squares quantization in PCM, 1982): the grid that fits given
//! quants best follows from a linear regression, the quants that fit a given grid best are the nearest ones, and both
//! are taken in turns from several starting points.  Scales are rounded in between, as the format will, and every error
//! is that of the finished block, as it will be decoded.  So a block is never worse than that of a plain rounding, which
//! is one of the starting points.
//!
//! A block is a function of its numbers alone: sums are taken in a fixed order, and the machine changes nothing.

mod affine;
mod grid;
mod q4_0;
mod q4_k;
mod q5_k;
mod q6_k;
mod q8_0;
mod symmetric;

#[cfg(test)]
mod decode;
#[cfg(test)]
mod tests;

use ampoule_bundle::TensorKind;
use half::f16;

/// A block format that weights can be quantised to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum BlockFormat {
    /// 8.5 bits a number: all but exact.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits, the simplest.
    #[value(name = "q4_0")]
    Q4_0,
    /// 4.5 bits, finer than q4_0; the tensors that suffer most get more.
    #[value(name = "q4_k")]
    Q4K,
    /// 5.5 bits; the tensors that suffer most get more.
    #[value(name = "q5_k")]
    Q5K,
    /// 6.6 bits.
    #[value(name = "q6_k")]
    Q6K,
}

/// Why numbers cannot be quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotQuantizable {
    /// A scale of such numbers would spoil its whole block.
    #[error("it holds a number that is infinite or none at all (NaN)")]
    NotFinite,
    /// Scales are numbers of half precision.
    #[error("it holds a number beyond 65504, the greatest of half precision, in which the scales are stored")]
    TooGreat,
}

impl BlockFormat {
    /// How many numbers a block holds.
    pub fn block_elements(self) -> usize {
        match self {
            BlockFormat::Q8_0 | BlockFormat::Q4_0 => 32,
            BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => 256,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            BlockFormat::Q8_0 => "q8_0",
            BlockFormat::Q4_0 => "q4_0",
            BlockFormat::Q4K => "q4_k",
            BlockFormat::Q5K => "q5_k",
            BlockFormat::Q6K => "q6_k",
        }
    }

    /// The kind of a tensor in these blocks.
    pub fn kind(self) -> TensorKind {
        match self {
            BlockFormat::Q8_0 => TensorKind::Q8_0,
            BlockFormat::Q4_0 => TensorKind::Q4_0,
            BlockFormat::Q4K => TensorKind::Q4K,
            BlockFormat::Q5K => TensorKind::Q5K,
            BlockFormat::Q6K => TensorKind::Q6K,
        }
    }

    /// How many bytes a block takes.
    pub fn block_bytes(self) -> usize {
        match self {
            BlockFormat::Q8_0 => q8_0::BLOCK_BYTES,
            BlockFormat::Q4_0 => q4_0::BLOCK_BYTES,
            BlockFormat::Q4K => q4_k::BLOCK_BYTES,
            BlockFormat::Q5K => q5_k::BLOCK_BYTES,
            BlockFormat::Q6K => q6_k::BLOCK_BYTES,
        }
    }

    /// Quantises whole blocks of `values` into `blocks`.
    ///
    /// # Errors
    /// [`NotQuantizable`], and `blocks` is of no use then.
    ///
    /// # Panics
    /// When `values` are no whole blocks, or `blocks` has not their size.
    pub fn quantize(self, values: &[f32], blocks: &mut [u8]) -> Result<(), NotQuantizable> {
        assert!(values.len().is_multiple_of(self.block_elements()), "{} numbers are no whole blocks", values.len());
        assert_eq!(blocks.len(), values.len() / self.block_elements() * self.block_bytes(), "the size of the blocks");
        // NaN is not within any range.
        if !values.iter().all(|value| value.abs() <= f16::MAX.to_f32()) {
            let finite = values.iter().all(|value| value.is_finite());
            return Err(if finite { NotQuantizable::TooGreat } else { NotQuantizable::NotFinite });
        }
        match self {
            BlockFormat::Q8_0 => block_by_block(values, blocks, q8_0::quantize),
            BlockFormat::Q4_0 => block_by_block(values, blocks, q4_0::quantize),
            BlockFormat::Q4K => block_by_block(values, blocks, q4_k::quantize),
            BlockFormat::Q5K => block_by_block(values, blocks, q5_k::quantize),
            BlockFormat::Q6K => block_by_block(values, blocks, q6_k::quantize),
        }
        Ok(())
    }
}

fn block_by_block<const ELEMENTS: usize, const BYTES: usize>(
    values: &[f32],
    blocks: &mut [u8],
    quantize: impl Fn(&[f32; ELEMENTS]) -> [u8; BYTES],
) {
    for (values, block) in values.as_chunks().0.iter().zip(blocks.as_chunks_mut().0) {
        *block = quantize(values);
    }
}
