//! Blocks of every quantised format become exactly the numbers that the PyPI package `gguf` makes of them.
//!
//! `fixtures/decoder/make_gguf.py` made the blocks: random bytes, and scales that are ordinary, zero, negative,
//! subnormal and the largest there is.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use ampoule_bundle::TensorKind;
use ampoule_inference::model::{ModelError, Weight};
use candle_core::Device;

const FORMATS: [(&str, TensorKind); 7] = [
    ("Q8_0", TensorKind::Q8_0),
    ("Q4_0", TensorKind::Q4_0),
    ("Q4_K", TensorKind::Q4K),
    ("Q5_K", TensorKind::Q5K),
    ("Q6_K", TensorKind::Q6K),
    ("F16", TensorKind::F16),
    ("BF16", TensorKind::BF16),
];

#[test]
fn every_format_gives_the_same_bits_as_the_gguf_package() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder/gguf/blocks.safetensors");
    let blocks = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for (name, kind) in FORMATS {
        let bytes: Vec<u8> = blocks[&format!("{name}.bytes")].to_vec1().unwrap();
        let expected: Vec<f32> = blocks[&format!("{name}.values")].to_vec1().unwrap();
        assert!(expected.len() >= 24 * 32);
        let found = Weight::from_bytes(name, kind, &[expected.len()], &bytes).unwrap().dequantize().unwrap();
        let found: Vec<f32> = found.to_vec1().unwrap();
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found.to_bits(), expected.to_bits(), "{name}, value {index}: {found:e} is not {expected:e}");
        }
    }
}

#[test]
fn lengths_and_formats_that_do_not_fit_are_refused() {
    let place = |kind, shape: &[usize], length| Weight::from_bytes("w", kind, shape, &vec![0; length]);
    for (_, kind) in FORMATS {
        let (elements, bytes) = (kind.block_elements() as usize, kind.block_bytes() as usize);
        assert!(place(kind, &[3, 2 * elements], 6 * bytes).is_ok());
        for length in [0, 6 * bytes - 1, 6 * bytes + 1] {
            let refused = place(kind, &[3, 2 * elements], length);
            assert!(matches!(refused, Err(ModelError::MissizedTensor { found, .. }) if found == length));
        }
        let huge = place(kind, &[usize::MAX / 2 / elements * elements, 4 * elements], 0);
        assert!(matches!(huge, Err(ModelError::MissizedTensor { .. })), "{kind:?}: {huge:?}");
        if elements > 1 {
            let ragged = place(kind, &[3, elements + 1], 6 * bytes);
            assert!(matches!(ragged, Err(ModelError::UnsupportedTensorKind { .. })), "{kind:?}: {ragged:?}");
        }
    }
    for kind in [TensorKind::Q2K, TensorKind::Q5_1, TensorKind::I32, TensorKind::F64] {
        let shape = [kind.block_elements() as usize];
        let refused = place(kind, &shape, kind.block_bytes() as usize);
        assert!(matches!(refused, Err(ModelError::UnsupportedTensorKind { .. })), "{kind:?}: {refused:?}");
    }
}
