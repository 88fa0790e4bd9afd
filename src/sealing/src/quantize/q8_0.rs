//! `Q8_0`: the greatest magnitude becomes 127, and every number the nearest multiple of the scale.

use super::grid::nearest;
use half::f16;

pub(super) const BLOCK_BYTES: usize = 34;

pub(super) fn quantize(values: &[f32; 32]) -> [u8; BLOCK_BYTES] {
    let greatest = values.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    let mut scale = f16::from_f32(greatest / 127.0);
    // Among the smallest numbers of half precision the nearest scale may be too small by half; then it is the one above.
    if greatest > 127.5 * scale.to_f32() {
        scale = f16::from_bits(scale.to_bits() + 1);
    }
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    let mut block = [0; BLOCK_BYTES];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    for (byte, value) in block[2..].iter_mut().zip(values) {
        *byte = nearest(value * inverse, -127.0, 127.0) as i8 as u8;
    }
    block
}
