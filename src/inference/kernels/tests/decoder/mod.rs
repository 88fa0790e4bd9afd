//! The blocks of a file, decoded number by number as GGUF defines them and without a thought for speed: what the packed
//! weights must hold exactly.

use ampoule_kernels::Format;
use half::{bf16, f16};

/// The numbers of a row.
pub(crate) fn decode(format: Format, row: &[u8]) -> Vec<f32> {
    let block_bytes = format.row_bytes(format.block_inputs());
    row.chunks_exact(block_bytes).flat_map(|block| decode_block(format, block)).collect()
}

fn decode_block(format: Format, block: &[u8]) -> Vec<f32> {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let nibble = |byte: u8, upper: bool| i32::from(if upper { byte >> 4 } else { byte & 0x0f });
    match format {
        Format::F32 => vec![f32::from_le_bytes([block[0], block[1], block[2], block[3]])],
        Format::F16 => vec![half(0)],
        Format::BF16 => vec![bf16::from_le_bytes([block[0], block[1]]).to_f32()],
        Format::Q4_0 => {
            let number = |input: usize| nibble(block[2 + input % 16], input >= 16) - 8;
            (0..32).map(|input| number(input) as f32 * half(0)).collect()
        }
        Format::Q5_0 => {
            let bits = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
            let fifth = |input: usize| (bits >> input & 1) as i32 * 16;
            let number = |input: usize| nibble(block[6 + input % 16], input >= 16) + fifth(input) - 16;
            (0..32).map(|input| number(input) as f32 * half(0)).collect()
        }
        Format::Q8_0 => block[2..].iter().map(|&byte| f32::from(byte as i8) * half(0)).collect(),
        Format::Q4_K | Format::Q5_K => {
            let fifths = if format == Format::Q5_K { 32 } else { 0 };
            let mut numbers = Vec::new();
            for input in 0..256 {
                let part = input / 32;
                let (scale, minimum) = scale_and_minimum(&block[4..16], part);
                let byte = block[16 + fifths + 32 * (part / 2) + input % 32];
                let mut number = nibble(byte, part % 2 == 1);
                if fifths > 0 {
                    number += i32::from(block[16 + input % 32] >> part & 1) * 16;
                }
                numbers.push(half(0) * f32::from(scale) * number as f32 - half(2) * f32::from(minimum));
            }
            numbers
        }
        Format::Q6_K => {
            let mut numbers = Vec::new();
            for input in 0..256 {
                let (part, place) = (input % 128 / 32, input % 32);
                let lower = nibble(block[64 * (input / 128) + 32 * (part % 2) + place], part >= 2);
                let upper = i32::from(block[128 + 32 * (input / 128) + place] >> (2 * part) & 3);
                let scale = f32::from(block[192 + input / 16] as i8);
                numbers.push(half(208) * scale * (lower + 16 * upper - 32) as f32);
            }
            numbers
        }
    }
}

/// The scale and the minimum of a part, of 6 bits each.
fn scale_and_minimum(bytes: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        return (bytes[part] & 63, bytes[part + 4] & 63);
    }
    let both = bytes[part + 4];
    (both & 0x0f | bytes[part - 4] >> 6 << 4, both >> 4 | bytes[part] >> 6 << 4)
}
