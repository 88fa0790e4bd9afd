//! Bytes that claim to be an age v1 file, encrypted to the identity of the public test vectors, and a file of identities.
//!
//! What opens is authentic to the last byte: with any bit changed it must not open. (The first line of a stanza may name
//! another recipient and is authentic all the same, because the whole header is.)

#![no_main]

use std::sync::OnceLock;

use ampoule_bundle::age::{SECRET_BYTES, decrypt, read_identities};
use libfuzzer_sys::fuzz_target;

/// The identity of C2SP's test vectors, which is public.
const IDENTITY: &[u8] = b"AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0\n";

fn secret() -> &'static [u8; SECRET_BYTES] {
    static SECRET: OnceLock<[u8; SECRET_BYTES]> = OnceLock::new();
    SECRET.get_or_init(|| {
        let mut secrets = [[0; SECRET_BYTES]];
        assert_eq!(read_identities(IDENTITY, &mut secrets).expect("it is one"), 1);
        secrets[0]
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut secrets = [[0; SECRET_BYTES]; 4];
    if let Ok(count) = read_identities(bytes, &mut secrets) {
        assert!(count <= secrets.len());
    }
    let Ok(plaintext) = decrypt(bytes.to_vec(), secret()) else { return };
    assert!(plaintext.len() < bytes.len());
    let position =
        bytes.iter().fold(0, |sum: usize, &byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % bytes.len();
    let mut changed = bytes.to_vec();
    changed[position] ^= 1;
    assert!(decrypt(changed, secret()).is_err(), "byte {position} is free to differ");
});
