//! `Q5_K`: eight parts of 32 numbers with 5 bits each.
//!
//! ```text
//! block of 176 bytes: header of 16 | 32 × the fifth bits of eight numbers, one of each part | 4 × 32 bytes as in Q4_K
//! ```

use super::affine;

pub(super) const BLOCK_BYTES: usize = 176;

pub(super) fn quantize(values: &[f32; 256]) -> [u8; BLOCK_BYTES] {
    let (fit, quants) = affine::search(values, 31.0);
    let mut block = [0; BLOCK_BYTES];
    block[..16].copy_from_slice(&fit.header());
    let (fifth_bits, bytes) = block[16..].split_at_mut(32);
    for (part, quants) in quants.as_chunks::<32>().0.iter().enumerate() {
        for (at, quant) in quants.iter().enumerate() {
            fifth_bits[at] |= quant >> 4 << part;
            bytes[part / 2 * 32 + at] |= (quant & 15) << (part % 2 * 4);
        }
    }
    block
}
