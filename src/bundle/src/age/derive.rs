//! What age derives from its secrets: wrapping keys, the key of the header's MAC and the key of the payload.

use ring::aead::{self, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::hmac;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};
use zeroize::Zeroizing;

/// The length in bytes of the key from which everything in one file is derived.
pub(super) const FILE_KEY_BYTES: usize = 16;
/// The length in bytes of a chunk's or a stanza's tag.
pub(super) const TAG_BYTES: usize = 16;

/// The key from which everything in one file is derived.
pub(super) type FileKey = Zeroizing<[u8; FILE_KEY_BYTES]>;

/// The public half of an X25519 secret.
pub(super) fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    x25519(*secret, X25519_BASEPOINT_BYTES)
}

/// The key that wraps a file key for the recipient `recipient`: of the secret of one side and the public key of the
/// other. `None` when the point is one of the few that give the same secret to everybody.
pub(super) fn wrapping_key(
    secret: &[u8; 32],
    other: &[u8; 32],
    share: &[u8; 32],
    recipient: &[u8; 32],
) -> Option<LessSafeKey> {
    let shared = Zeroizing::new(x25519(*secret, *other));
    if shared.iter().fold(0, |all, byte| all | byte) == 0 {
        return None;
    }
    let salt = [share.as_slice(), recipient.as_slice()].concat();
    let prk = Salt::new(HKDF_SHA256, &salt).extract(shared.as_slice());
    Some(sealing_key(&prk, b"age-encryption.org/v1/X25519"))
}

/// The key of the MAC over the header.
pub(super) fn mac_key(file_key: &FileKey) -> hmac::Key {
    let prk = Salt::new(HKDF_SHA256, &[]).extract(file_key.as_slice());
    let info: [&[u8]; 1] = [b"header"];
    let key = prk.expand(&info, hmac::HMAC_SHA256).expect("32 bytes are within what HKDF gives");
    key.into()
}

/// The 32 bytes of the payload's key.
pub(super) fn payload_key(file_key: &FileKey, nonce: &[u8; 16]) -> Zeroizing<[u8; 32]> {
    let prk = Salt::new(HKDF_SHA256, nonce).extract(file_key.as_slice());
    let mut key = Zeroizing::new([0; 32]);
    let info: [&[u8]; 1] = [b"payload"];
    let expanded = prk.expand(&info, Bytes32).and_then(|output| output.fill(key.as_mut_slice()));
    expanded.expect("32 bytes are within what HKDF gives");
    key
}

/// A ChaCha20-Poly1305 key of these bytes.
pub(super) fn chunk_key(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("the key has the algorithm's length"))
}

/// The nonce under which a file key is wrapped; the wrapping key is used once.
pub(super) fn wrapping_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

fn sealing_key(prk: &Prk, info: &[u8]) -> LessSafeKey {
    let info = [info];
    let output = prk.expand(&info, &CHACHA20_POLY1305).expect("32 bytes are within what HKDF gives");
    LessSafeKey::new(UnboundKey::from(output))
}

/// HKDF's way of being told a length.
struct Bytes32;

impl KeyType for Bytes32 {
    fn len(&self) -> usize {
        32
    }
}
