//! The number formats of weights: for each, how a row of the file becomes a lane of a panel, and how a panel is multiplied.
//!
//! A panel holds sixteen rows of a matrix `[outputs, inputs]`, one to a lane, in the order in which the product reads them:
//! what is read is contiguous, and each lane sums one output from the first input to the last.  It takes no more bytes than
//! the rows do in the file, but for what fills up the last panel and, of an odd number of bfloat16, the last pair.
//!
//! Whole numbers under scales are of two kinds: `blocks` have one scale to 32 inputs, `super_blocks` scales of the scales
//! of 256.  Either kind has one kernel, and a format says how its numbers become the bytes that the kernel multiplies.

pub(crate) mod blocks;
pub(crate) mod brain;
mod floating;
pub(crate) mod half;
pub(crate) mod q4_0;
pub(crate) mod q5_0;
pub(crate) mod q8_0;

pub(crate) mod q4_k;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod super_blocks;

pub(crate) mod single;

use crate::activations::{Form, Tile};
use crate::simd::{LANES, Simd};

/// How the numbers of a matrix are stored in a file, by GGUF's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(non_camel_case_types, reason = "they are GGUF's names")]
pub enum Format {
    /// Single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 32 numbers: scale, 4 bits each.
    Q4_0,
    /// 32 numbers: scale, 5 bits each.
    Q5_0,
    /// 32 numbers: scale, 8 bits each.
    Q8_0,
    /// 256 numbers: scale and scale of minima, 8 scales and minima of 6 bits, 4 bits each.
    Q4_K,
    /// 256 numbers: scale and scale of minima, 8 scales and minima of 6 bits, 5 bits each.
    Q5_K,
    /// 256 numbers: scale, 16 scales of 8 bits, 6 bits each.
    Q6_K,
}

/// One format's panel.  A type that implements it holds nothing: the format is known when the kernel is compiled.
pub(crate) trait PanelFormat {
    /// How many inputs share a block of the file; a row holds whole blocks.
    const BLOCK_INPUTS: usize;
    /// How many bytes a block has.
    const BLOCK_BYTES: usize;
    /// What it is multiplied with.
    const FORM: Form;
    /// How many panels are multiplied at once, at most.
    const PANELS_AT_ONCE: usize = 1;

    /// How many bytes a panel of so many inputs has.
    fn panel_bytes(inputs: usize) -> usize {
        LANES * (inputs / Self::BLOCK_INPUTS) * Self::BLOCK_BYTES
    }

    /// Puts a row of the file into a lane.  `row` holds all its blocks, and `panel` is a whole one.
    fn pack_row(panel: &mut [u8], lane: usize, row: &[u8]);

    /// The numbers of a lane, exactly those that the row's blocks stand for.
    fn unpack_row(panel: &[u8], lane: usize, into: &mut [f32]);

    /// Sets `sums[panel][row][lane]` to the product of lane and row, for each row of the tile.
    ///
    /// `panels` holds one panel after the other, as many as are multiplied at once or fewer.
    ///
    /// The operations on one sum, and their order, depend on the number of inputs alone.  Must be `#[inline(always)]`.
    fn multiply<S: Simd>(simd: S, panels: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]);
}

/// From how many rows on two panels of bytes are multiplied at a time.
const ROWS_FOR_TWO_PANELS: usize = 8;

/// A format whose kernel takes one panel, or two side by side.
trait Grouped: PanelFormat {
    /// [`PanelFormat::multiply`] of so many panels, the sums of each apart.  Must be `#[inline(always)]`.
    fn multiply_group<S: Simd, const PANELS: usize>(
        simd: S,
        panels: [&[u8]; PANELS],
        tile: Tile<'_>,
        sums: [&mut [[f32; LANES]]; PANELS],
    );
}

/// [`PanelFormat::multiply`] of one panel or two.
#[inline(always)]
fn multiply_one_or_two<F: Grouped, S: Simd>(simd: S, panels: &[u8], tile: Tile<'_>, sums: &mut [[f32; LANES]]) {
    let panel_bytes = F::panel_bytes(tile.inputs);
    // With few rows memory is the limit, which is faster with one stream than with two.
    if panels.len() > panel_bytes && tile.rows >= ROWS_FOR_TWO_PANELS {
        let (first, second) = panels.split_at(panel_bytes);
        let (first_sums, second_sums) = sums.split_at_mut(tile.rows);
        return F::multiply_group(simd, [first, second], tile, [first_sums, second_sums]);
    }
    for (panel, sums) in panels.chunks_exact(panel_bytes).zip(sums.chunks_exact_mut(tile.rows)) {
        F::multiply_group(simd, [panel], tile, [sums]);
    }
}

/// Eight vectors for 32 inputs: lane `l` of vector `v` holds the inputs `4 * v` to `4 * v + 3` of output `l`.
type Weights<S> = [<S as Simd>::I; 8];

/// How many rows are multiplied at a time: with two panels these are eight sums, as many as keep the processor busy while
/// each waits for its last product.
const GROUP: usize = 4;

/// Adds the products of one half of the 32 inputs to the sums of some rows and panels.
#[inline(always)]
fn dots<S: Simd, const PANELS: usize, const ROWS: usize>(
    simd: S,
    quants: &[[i8; 32]],
    half: usize,
    weights: &[Weights<S>; PANELS],
    mut sums: [[S::I; PANELS]; ROWS],
) -> [[S::I; PANELS]; ROWS] {
    let quants = &quants[..ROWS];
    for four in 4 * half..4 * half + 4 {
        for (sums, quants) in sums.iter_mut().zip(quants) {
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = simd.dot_bytes(*sum, weights[four], quants.as_chunks().0[four]);
            }
        }
    }
    sums
}

/// Adds the products of all 32 inputs.
#[inline(always)]
fn dots_of_both_halves<S: Simd, const PANELS: usize, const ROWS: usize>(
    simd: S,
    quants: &[[i8; 32]],
    weights: &[Weights<S>; PANELS],
    sums: [[S::I; PANELS]; ROWS],
) -> [[S::I; PANELS]; ROWS] {
    if PANELS * ROWS > 1 {
        return dots(simd, quants, 1, weights, dots(simd, quants, 0, weights, sums));
    }
    // A single sum would wait for itself: the halves are summed side by side, which is exact.
    let mut sums = dots(simd, quants, 0, weights, sums);
    let others = dots(simd, quants, 1, weights, [[simd.splat_int(0); PANELS]; ROWS]);
    sums[0][0] = simd.add_int(sums[0][0], others[0][0]);
    sums
}

/// A number of each of some rows in all lanes, for some panels.
#[inline(always)]
fn splat_rows<S: Simd, const PANELS: usize, const ROWS: usize>(simd: S, numbers: &[i32]) -> [[S::I; PANELS]; ROWS] {
    let mut vectors = [[simd.splat_int(0); PANELS]; ROWS];
    for (vectors, number) in vectors.iter_mut().zip(&numbers[..ROWS]) {
        *vectors = [simd.splat_int(*number); PANELS];
    }
    vectors
}

/// Sixteen numbers in IEEE half precision, as bytes.
#[inline(always)]
fn halves<S: Simd>(simd: S, bytes: &[u8]) -> S::F {
    let pairs = &bytes.as_chunks::<2>().0[..LANES];
    simd.load_half(&std::array::from_fn(|lane| u16::from_le_bytes(pairs[lane])))
}

/// A byte in all places.
#[inline(always)]
fn splat_byte<S: Simd>(simd: S, byte: u8) -> S::I {
    simd.splat_int(i32::from_ne_bytes([byte; 4]))
}

/// One vector of a panel.
#[inline(always)]
fn vector<S: Simd>(simd: S, panel: &[u8], index: usize) -> S::I {
    simd.load_bytes(&panel.as_chunks().0[index])
}

/// Puts four bytes at a time into a lane of vectors.
#[inline(always)]
fn pack_words(panel: &mut [u8], lane: usize, bytes: &[u8]) {
    for (vector, word) in panel.as_chunks_mut::<{ 4 * LANES }>().0.iter_mut().zip(bytes.as_chunks::<4>().0) {
        vector.as_chunks_mut().0[lane] = *word;
    }
}

/// Asks for the part of the weights that will be read some kilobytes after this one.
#[inline(always)]
fn prefetch_after<S: Simd>(simd: S, panel: &[u8]) {
    /// Far enough that memory has answered, near enough that the second cache still holds it.
    const AHEAD: isize = 6 << 10;
    for line in panel.chunks(64) {
        simd.prefetch(line, AHEAD);
    }
}

/// Evaluates an expression with the type that implements a format.
macro_rules! with_format {
    ($format:expr, $implementation:ident => $expression:expr) => {
        $crate::format::with_format! {
            $format, $implementation => $expression,
            F32: $crate::format::single::Single,
            F16: $crate::format::half::Half,
            BF16: $crate::format::brain::Brain,
            Q4_0: $crate::format::blocks::Blocks<$crate::format::q4_0::Q4_0>,
            Q5_0: $crate::format::blocks::Blocks<$crate::format::q5_0::Q5_0>,
            Q8_0: $crate::format::blocks::Blocks<$crate::format::q8_0::Q8_0>,
            Q4_K: $crate::format::super_blocks::SuperBlocks<$crate::format::q4_k::Q4K>,
            Q5_K: $crate::format::super_blocks::SuperBlocks<$crate::format::q5_k::Q5K>,
            Q6_K: $crate::format::super_blocks::SuperBlocks<$crate::format::q6_k::Q6K>,
        }
    };
    ($format:expr, $implementation:ident => $expression:expr, $($name:ident: $type:ty,)+) => {
        match $format {
            $($crate::format::Format::$name => {
                type $implementation = $type;
                $expression
            })+
        }
    };
}
pub(crate) use with_format;
