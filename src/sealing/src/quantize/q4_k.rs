//! `Q4_K`: eight parts of 32 numbers with 4 bits each.
//!
//! ```text
//! block of 144 bytes: header of 16 | 4 × 32 bytes, each with a number of one part and, above it, of the next
//! ```

use super::affine;

pub(super) const BLOCK_BYTES: usize = 144;

pub(super) fn quantize(values: &[f32; 256]) -> [u8; BLOCK_BYTES] {
    let (fit, quants) = affine::search(values, 15.0);
    let mut block = [0; BLOCK_BYTES];
    block[..16].copy_from_slice(&fit.header());
    for (bytes, quants) in block[16..].as_chunks_mut::<32>().0.iter_mut().zip(quants.as_chunks::<64>().0) {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = quants[at] | quants[at + 32] << 4;
        }
    }
    block
}
