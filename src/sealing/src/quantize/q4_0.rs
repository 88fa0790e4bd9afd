//! `Q4_0`: whole numbers from -8 to 7 under one scale, which may be negative, so that either end of the range can be the
//! one that reaches further.

use super::grid::{half, half_bytes, weights};
use super::symmetric::Part;

pub(super) const BLOCK_BYTES: usize = 18;

pub(super) fn quantize(values: &[f32; 32]) -> [u8; BLOCK_BYTES] {
    let part = Part { values, weights: weights(values), half: 8.0 };
    let scale = part.search(half);
    let quants = part.quants(scale).map(|quant| (quant + 8.0) as u8);
    let mut block = [0; BLOCK_BYTES];
    block[..2].copy_from_slice(&half_bytes(scale));
    // The second half of the numbers lies in the upper bits.
    let (lower, upper) = quants.split_at(16);
    for ((byte, lower), upper) in block[2..].iter_mut().zip(lower).zip(upper) {
        *byte = lower | upper << 4;
    }
    block
}
