//! The number formats of weights: for each, how a row of the file becomes a lane of a panel, and how a panel is multiplied.
//!
//! A panel holds sixteen rows of a matrix `[outputs, inputs]`, one to a lane, in the order in which the product reads them:
//! what is read is contiguous, and each lane sums one output from the first input to the last.  It takes no more bytes than
//! the rows do in the file.

pub(crate) mod brain;
mod floating;
pub(crate) mod half;
pub(crate) mod q8_0;
pub(crate) mod single;

use crate::activations::{Form, Tile};
use crate::simd::{LANES, Simd};

/// How the numbers of a matrix are stored in a file, by GGUF's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// Single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 32 numbers: scale, 8 bits each.
    Q8_0,
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

/// Sixteen numbers in IEEE half precision, as bytes.
#[inline(always)]
fn halves<S: Simd>(simd: S, bytes: &[u8]) -> S::F {
    let pairs = &bytes.as_chunks::<2>().0[..LANES];
    simd.load_half(&std::array::from_fn(|lane| u16::from_le_bytes(pairs[lane])))
}

/// Evaluates an expression with the type that implements a format.
macro_rules! with_format {
    ($format:expr, $implementation:ident => $expression:expr) => {
        match $format {
            $crate::format::Format::F32 => {
                type $implementation = $crate::format::single::Single;
                $expression
            }
            $crate::format::Format::F16 => {
                type $implementation = $crate::format::half::Half;
                $expression
            }
            $crate::format::Format::BF16 => {
                type $implementation = $crate::format::brain::Brain;
                $expression
            }
            $crate::format::Format::Q8_0 => {
                type $implementation = $crate::format::q8_0::Q8_0;
                $expression
            }
        }
    };
}
pub(crate) use with_format;
