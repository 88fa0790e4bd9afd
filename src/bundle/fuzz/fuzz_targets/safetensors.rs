//! Bytes that claim to be the beginning of a safetensors file.
//!
//! What is accepted lies within the file, without overlap, and is accepted by the parser that everybody else uses.

#![no_main]

use ampoule_bundle::SafetensorsHeader;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|bytes: &[u8]| {
    // A file is larger than its header: as large as the header says, so that the checks behind the JSON are reached.
    if let Ok(header) = SafetensorsHeader::parse(bytes) {
        check(&header, bytes.len() as u64);
        let other = SafeTensors::deserialize(bytes).expect("our parser is the stricter one");
        assert_eq!(other.len(), header.tensors().len());
    }
    for file_length in [u64::from(u32::MAX), (8 << 30) - 1, u64::MAX] {
        if let Ok(header) = SafetensorsHeader::parse_prefix(bytes, file_length) {
            check(&header, file_length);
        }
    }
});

fn check(header: &SafetensorsHeader, file_length: u64) {
    let mut end = header.length();
    for tensor in header.tensors() {
        assert_eq!(tensor.offset, end, "an overlap or a hole before `{}`", tensor.name);
        end += tensor.length;
    }
    assert_eq!(end, file_length);
}
