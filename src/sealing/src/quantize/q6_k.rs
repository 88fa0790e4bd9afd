//! `Q6_K`: sixteen parts of 16 numbers, each of whole numbers from -32 to 31 under a scale of 8 bits, which are under
//! one of half precision.
//!
//! ```text
//! block of 210 bytes: 128 × lower 4 bits of two | 64 × upper 2 bits of four | 16 × i8 scale | d f16
//! ```

use super::grid::{half, half_beyond, half_bytes, nearest, weights};
use super::symmetric::{Part, furthest};

pub(super) const BLOCK_BYTES: usize = 210;
const PARTS: usize = 16;
/// How often the common scale is fitted anew to what the parts' scales became.
const REFITS: usize = 3;

/// A block before its bits are packed.
struct Fit {
    common: f32,
    scales: [f32; PARTS],
    error: f32,
}

pub(super) fn quantize(values: &[f32; 256]) -> [u8; BLOCK_BYTES] {
    let values = values.as_chunks::<16>().0;
    let parts: [Part<'_, 16>; PARTS] =
        std::array::from_fn(|at| Part { values: &values[at], weights: weights(&values[at]), half: 32.0 });
    let plain = std::array::from_fn(|at| furthest(&values[at]) / -32.0);
    let ideal = std::array::from_fn(|at| parts[at].search(|scale| scale));
    let mut best = fit(&parts, &plain, half(furthest(&plain) / -128.0));
    let common = [-128.0, -126.0, 127.0].map(|end| half(furthest(&ideal) / end));
    for common in [common[0], half_beyond(common[0]), common[1], common[2]] {
        let next = fit(&parts, &ideal, common);
        if next.error < best.error {
            best = next;
        }
    }
    for _ in 0..REFITS {
        let next = fit(&parts, &ideal, half(refitted(&parts, &best)));
        if next.error >= best.error {
            break;
        }
        best = next;
    }
    pack(&parts, &best)
}

/// The parts' best scales under a common one.
fn fit(parts: &[Part<'_, 16>; PARTS], ideal: &[f32; PARTS], common: f32) -> Fit {
    let mut fit = Fit { common, scales: [0.0; PARTS], error: 0.0 };
    for ((part, ideal), scale) in parts.iter().zip(ideal).zip(&mut fit.scales) {
        let near = if common == 0.0 { 0.0 } else { nearest(ideal / common, -128.0, 127.0) };
        let mut best = (f32::INFINITY, near);
        for step in [0.0, -1.0, 1.0, -2.0, 2.0] {
            let scale = nearest(near + step, -128.0, 127.0);
            let error = part.error(common * scale);
            if error < best.0 {
                best = (error, scale);
            }
        }
        fit.error += best.0;
        *scale = best.1;
    }
    fit
}

/// The common scale that suits quants and scales best.
fn refitted(parts: &[Part<'_, 16>; PARTS], fit: &Fit) -> f32 {
    let (mut with_values, mut with_quants) = (0.0, 0.0);
    for (part, &scale) in parts.iter().zip(&fit.scales) {
        let (values, quants) = part.regression(&part.quants(fit.common * scale));
        with_values += scale * values;
        with_quants += scale * scale * quants;
    }
    if with_quants > 0.0 { with_values / with_quants } else { fit.common }
}

fn pack(parts: &[Part<'_, 16>; PARTS], fit: &Fit) -> [u8; BLOCK_BYTES] {
    let mut quants = [0; 256];
    for ((part, &scale), quants) in parts.iter().zip(&fit.scales).zip(quants.as_chunks_mut::<16>().0) {
        *quants = part.quants(fit.common * scale).map(|quant| (quant + 32.0) as u8);
    }
    let mut block = [0; BLOCK_BYTES];
    for (half, quants) in quants.as_chunks::<128>().0.iter().enumerate() {
        for at in 0..32 {
            let [first, second, third, fourth] = [0, 32, 64, 96].map(|part| quants[part + at]);
            block[64 * half + at] = first & 15 | third << 4;
            block[64 * half + 32 + at] = second & 15 | fourth << 4;
            block[128 + 32 * half + at] = first >> 4 | second >> 4 << 2 | third >> 4 << 4 | fourth >> 4 << 6;
        }
    }
    for (byte, &scale) in block[192..].iter_mut().zip(&fit.scales) {
        *byte = scale as i8 as u8;
    }
    block[208..].copy_from_slice(&half_bytes(fit.common));
    block
}
