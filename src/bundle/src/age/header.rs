//! The header of an age file: who can open it. It is attacker's text until its MAC was checked, which takes the file key,
//! so every deviation from the one form refuses it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::aead::Aad;
use ring::hmac;

use super::AgeError;
use super::derive::{self, FILE_KEY_BYTES, FileKey, TAG_BYTES};
use crate::limits::{MAX_AGE_HEADER_BYTES, MAX_AGE_RECIPIENTS};

const VERSION_LINE: &[u8] = b"age-encryption.org/v1\n";
/// How long a line of a stanza's body is, unless it is the last.
const BODY_LINE_BYTES: usize = 64;
const WRAPPED_KEY_BYTES: usize = FILE_KEY_BYTES + TAG_BYTES;

/// A header that was parsed and is not trusted yet.
pub(super) struct Header<'a> {
    stanzas: Vec<X25519Stanza>,
    /// What the MAC covers: all up to the three dashes.
    covered: &'a [u8],
    mac: [u8; 32],
    /// How many bytes it takes.
    pub(super) length: usize,
}

/// The file key, wrapped for one recipient.
struct X25519Stanza {
    share: [u8; 32],
    body: [u8; WRAPPED_KEY_BYTES],
}

impl<'a> Header<'a> {
    /// Parses the header that `file` begins with.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, AgeError> {
        let mut lines = Lines { text: &file[..file.len().min(MAX_AGE_HEADER_BYTES)], position: 0 };
        if !lines.text.starts_with(VERSION_LINE) {
            return Err(refuse("it does not begin with the line `age-encryption.org/v1`"));
        }
        lines.position = VERSION_LINE.len();
        let mut stanzas = Vec::new();
        loop {
            let start = lines.position;
            let line = lines.next()?;
            if let Some(mac) = line.strip_prefix(b"---") {
                if start == VERSION_LINE.len() {
                    return Err(refuse("it has no recipient"));
                }
                let mac = mac.strip_prefix(b" ").ok_or(refuse("its last line holds no MAC"))?;
                let mac = base64(mac).and_then(|mac| mac.try_into().ok()).ok_or(refuse("its MAC has a wrong form"))?;
                return Ok(Self { stanzas, covered: &file[..start + 3], mac, length: lines.position });
            }
            stanzas.extend(parse_stanza(line, &mut lines)?);
            if stanzas.len() > MAX_AGE_RECIPIENTS {
                return Err(refuse("it has more than 64 recipients"));
            }
        }
    }

    /// The file key, if a stanza opens with one of these secrets and the MAC is right.
    pub(super) fn open(&self, secret: &[u8; 32]) -> Result<FileKey, AgeError> {
        let recipient = derive::public_key(secret);
        for stanza in &self.stanzas {
            let key = derive::wrapping_key(secret, &stanza.share, &stanza.share, &recipient)
                .ok_or(refuse("a share is a point of low order"))?;
            let mut body = zeroize::Zeroizing::new(stanza.body);
            let Ok(opened) = key.open_in_place(derive::wrapping_nonce(), Aad::empty(), body.as_mut_slice()) else {
                continue;
            };
            let file_key = FileKey::new(<[u8; FILE_KEY_BYTES]>::try_from(&*opened).expect("a tag less than the body"));
            return match hmac::verify(&derive::mac_key(&file_key), self.covered, &self.mac) {
                Ok(()) => Ok(file_key),
                Err(_) => Err(AgeError::HeaderMac),
            };
        }
        Err(AgeError::NoMatch)
    }
}

/// Reads the stanza that begins with `line`; `None` for one of a kind that is not ours, which other readers may know.
fn parse_stanza(line: &[u8], lines: &mut Lines<'_>) -> Result<Option<X25519Stanza>, AgeError> {
    let arguments = line.strip_prefix(b"-> ").ok_or(refuse("a stanza does not begin with `-> `"))?;
    let mut words = arguments.split(|&byte| byte == b' ');
    if !words.clone().all(|word| !word.is_empty() && word.iter().all(u8::is_ascii_graphic)) {
        return Err(refuse("a stanza's arguments are not words joined by single spaces"));
    }
    let mut body = Vec::new();
    loop {
        let line = lines.next()?;
        if line.len() > BODY_LINE_BYTES {
            return Err(refuse("a line of a stanza's body is longer than 64 characters"));
        }
        body.extend(base64(line).ok_or(refuse("a stanza's body is not base64 in its one spelling"))?);
        if line.len() < BODY_LINE_BYTES {
            break;
        }
    }
    match words.next() {
        Some(b"scrypt") => Err(AgeError::Passphrase),
        Some(b"X25519") => {
            let share = words.next().and_then(base64).and_then(|share| share.try_into().ok());
            let share = share.ok_or(refuse("the share of an X25519 stanza is not 32 bytes in base64"))?;
            if words.next().is_some() {
                return Err(refuse("an X25519 stanza has more than one argument"));
            }
            let body = body.try_into().map_err(|_| refuse("the body of an X25519 stanza is not 32 bytes long"))?;
            Ok(Some(X25519Stanza { share, body }))
        }
        _ => Ok(None),
    }
}

/// The header for these recipients, each as (share, wrapped file key).
pub(super) fn write(stanzas: &[([u8; 32], Vec<u8>)], file_key: &FileKey) -> Vec<u8> {
    let mut bytes = VERSION_LINE.to_vec();
    for (share, body) in stanzas {
        bytes.extend_from_slice(format!("-> X25519 {}\n", STANDARD_NO_PAD.encode(share)).as_bytes());
        bytes.extend_from_slice(STANDARD_NO_PAD.encode(body).as_bytes());
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(b"---");
    let mac = hmac::sign(&derive::mac_key(file_key), &bytes);
    bytes.extend_from_slice(format!(" {}\n", STANDARD_NO_PAD.encode(mac)).as_bytes());
    bytes
}

/// The bytes of unpadded base64 in its one spelling.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(text).ok()
}

fn refuse(reason: &'static str) -> AgeError {
    AgeError::Header { reason }
}

/// Lines that end in LF.
struct Lines<'a> {
    text: &'a [u8],
    position: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a [u8], AgeError> {
        let rest = &self.text[self.position..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let end = end.ok_or(refuse("it does not end, or not within 64 KiB"))?;
        self.position += end + 1;
        Ok(&rest[..end])
    }
}
