//! Bytes that claim to be the beginning of a GGUF file.
//!
//! What is accepted lies within the file, without overlap, and is no longer than what was read of it.

#![no_main]

use ampoule_bundle::GgufHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let lengths = [bytes.len() as u64, u64::from(u32::MAX), (8 << 30) - 1, u64::MAX];
    for file_length in lengths {
        let Ok(header) = GgufHeader::parse_prefix(bytes, file_length) else { continue };
        assert!(header.length() <= bytes.len() as u64);
        let mut end = header.length();
        for tensor in &header.tensors {
            assert!(tensor.offset >= end, "`{}` overlaps what is before it", tensor.name);
            end = tensor.offset + tensor.length;
        }
        assert!(end <= file_length);
    }
});
