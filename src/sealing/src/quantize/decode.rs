//! What blocks stand for, read from their bytes by the formulas of the format and nothing of the searches.

use half::f16;

use super::BlockFormat;

/// The numbers that whole blocks stand for, with the roundings of a decoder in single precision.
pub(super) fn decode(format: BlockFormat, blocks: &[u8]) -> Vec<f32> {
    let one = match format {
        BlockFormat::Q8_0 => q8_0,
        BlockFormat::Q4_0 => q4_0,
        BlockFormat::Q4K => q4_k,
        BlockFormat::Q5K => q5_k,
        BlockFormat::Q6K => q6_k,
    };
    blocks.chunks_exact(format.block_bytes()).flat_map(one).collect()
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn q8_0(block: &[u8]) -> Vec<f32> {
    block[2..].iter().map(|&byte| half(block) * f32::from(byte as i8)).collect()
}

fn q4_0(block: &[u8]) -> Vec<f32> {
    let quant = |at: usize| if at < 16 { block[2 + at] & 15 } else { block[2 + at - 16] >> 4 };
    (0..32).map(|at| half(block) * (f32::from(quant(at)) - 8.0)).collect()
}

fn q4_k(block: &[u8]) -> Vec<f32> {
    affine(block, |at| block[16 + at / 64 * 32 + at % 32] >> (at / 32 % 2 * 4) & 15)
}

fn q5_k(block: &[u8]) -> Vec<f32> {
    affine(block, |at| {
        let lower = block[48 + at / 64 * 32 + at % 32] >> (at / 32 % 2 * 4) & 15;
        lower | (block[16 + at % 32] >> (at / 32) & 1) << 4
    })
}

fn affine(block: &[u8], quant: impl Fn(usize) -> u8) -> Vec<f32> {
    let packed = &block[4..16];
    let grid = |part: usize| match part {
        0..4 => (packed[part] & 63, packed[part + 4] & 63),
        _ => (packed[part + 4] & 15 | packed[part - 4] >> 6 << 4, packed[part + 4] >> 4 | packed[part] >> 6 << 4),
    };
    let number = |at: usize| {
        let (scale, minimum) = grid(at / 32);
        let (scale, minimum) = (half(block) * f32::from(scale), half(&block[2..]) * f32::from(minimum));
        scale * f32::from(quant(at)) - minimum
    };
    (0..256).map(number).collect()
}

fn q6_k(block: &[u8]) -> Vec<f32> {
    let number = |at: usize| {
        let (chunk, within) = (at / 128, at % 128);
        let lower = block[64 * chunk + within % 64] >> (within / 64 * 4) & 15;
        let upper = block[128 + 32 * chunk + within % 32] >> (within / 32 * 2) & 3;
        let quant = f32::from(lower | upper << 4) - 32.0;
        half(&block[208..]) * f32::from(block[192 + at / 16] as i8) * quant
    };
    (0..256).map(number).collect()
}
