//! Bytes that claim to be a `.bundle` file: the tar reader and everything it leads to, up to the signatures.
//!
//! Whatever opens is in canonical form, so no byte of it is free: with any one of its bytes changed, it must not open as the
//! same bundle.

#![no_main]

use ampoule_bundle::SealedBundle;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(opened) = SealedBundle::open(bytes.to_vec()) else { return };
    let mut changed = bytes.to_vec();
    // Any place will do, as long as the same input gives the same one.
    let position =
        bytes.iter().fold(0, |sum: usize, &byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % bytes.len();
    changed[position] ^= 1;
    if let Ok(other) = SealedBundle::open(changed) {
        // A layer's content is held against its digest later: by `verify` and by loading.
        let is_content = opened.content_digest() == other.content_digest();
        assert!(is_content, "byte {position} is free to differ outside of the layers");
    }
});
