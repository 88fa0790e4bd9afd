//! The age reader against the vectors that all implementations share, and the writer against the reader (C21).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use ampoule_bundle::age::{AgeError, Envelope, Recipient, decrypt, read_identities};
use ampoule_bundle::{Digest, Source};
use flate2::read::ZlibDecoder;

/// One vector: what it says of itself, and the age file.
struct Vector {
    facts: BTreeMap<String, String>,
    file: Vec<u8>,
}

impl Vector {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let end = bytes.windows(2).position(|pair| pair == b"\n\n").unwrap();
        let text = std::str::from_utf8(&bytes[..end]).unwrap();
        let facts: BTreeMap<String, String> = text
            .lines()
            .map(|line| line.split_once(": ").unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let mut file = bytes[end + 2..].to_vec();
        if let Some(compression) = facts.get("compressed") {
            assert_eq!(compression, "zlib");
            let mut plain = Vec::new();
            ZlibDecoder::new(file.as_slice()).read_to_end(&mut plain).unwrap();
            file = plain;
        }
        Self { facts, file }
    }

    fn secret(&self) -> [u8; 32] {
        let mut secrets = [[7; 32]];
        if let Some(identity) = self.facts.get("identity") {
            assert_eq!(read_identities(identity.as_bytes(), &mut secrets), Ok(1));
        }
        secrets[0]
    }
}

#[test]
fn c21_every_vector_has_the_verdict_that_it_asks_for() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/age-vectors");
    let mut judged: BTreeMap<String, usize> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "README.md" {
            continue;
        }
        let vector = Vector::read(&path);
        let verdict = decrypt(vector.file.clone(), &vector.secret());
        let expected = vector.facts["expect"].as_str();
        let fits = match (&verdict, expected) {
            // What opens with a passphrase is refused, whatever its vector asks for.
            (Err(AgeError::Passphrase), _) => vector.facts.contains_key("passphrase"),
            (Ok(plaintext), "success") => Digest::of(plaintext).to_hex() == vector.facts["payload"],
            (Err(AgeError::NoMatch), "no match") => true,
            (Err(AgeError::HeaderMac), "HMAC failure") => true,
            (Err(AgeError::Header { .. }), "header failure") => true,
            // A payload without a whole nonce is noticed where the header's end is looked for.
            (Err(AgeError::Payload { .. }), "header failure" | "payload failure") => true,
            (Err(AgeError::Chunk { .. }), "payload failure") => true,
            _ => false,
        };
        assert!(fits, "{name}: expected {expected}, found {:?}", verdict.map(|plaintext| plaintext.len()));
        let kind = if matches!(verdict, Err(AgeError::Passphrase)) { "passphrase" } else { expected };
        *judged.entry(kind.to_owned()).or_default() += 1;
    }
    let counts: Vec<(&str, usize)> = judged.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    let expected = [
        ("HMAC failure", 1),
        ("header failure", 32),
        ("no match", 4),
        ("passphrase", 23),
        ("payload failure", 18),
        ("success", 14),
    ];
    assert_eq!(counts, expected, "every vector was judged");
}

#[test]
fn what_is_encrypted_opens_for_each_recipient_and_for_nobody_else() {
    let secrets = [[1; 32], [2; 32], [3; 32]];
    let recipients = [Recipient::of_secret(&secrets[0]), Recipient::of_secret(&secrets[1])];
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 300_000] {
        let plaintext: Vec<u8> = (0..length).map(|index: u32| (index % 251) as u8).collect();
        let envelope = Envelope::new(&recipients).unwrap();
        let encrypted = envelope.around(plaintext.as_slice());
        let file = read_in_strides(&encrypted, 1 << 20);
        assert_eq!(file.len() as u64, envelope.file_bytes(u64::from(length)), "{length}");
        assert_eq!(read_in_strides(&encrypted, 10_007), file, "the same bytes in another stride");
        assert_eq!(encrypted.length().unwrap(), file.len() as u64, "{length}");
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        let take = |before: &[u8], after: &[u8]| {
            plain.extend_from_slice(before);
            sealed.extend_from_slice(after);
        };
        envelope.each_chunk(&plaintext, take).unwrap();
        assert!(plain == plaintext && sealed == file, "{length}: chunk by chunk");
        for secret in &secrets[..2] {
            assert!(decrypt(file.clone(), secret).unwrap() == plaintext, "{length}");
        }
        assert_eq!(decrypt(file, &secrets[2]), Err(AgeError::NoMatch), "{length}");
    }
}

#[test]
fn a_rewrapped_file_opens_for_the_new_recipient_alone() {
    let (old, new) = ([4; 32], [5; 32]);
    let envelope = Envelope::new(&[Recipient::of_secret(&old)]).unwrap();
    let file = read_in_strides(&envelope.around(&b"content"[..]), 4096);
    assert_eq!(Envelope::rewrap(&file, &new, &[Recipient::of_secret(&new)]).err(), Some(AgeError::NoMatch));
    let (header, replaced) = Envelope::rewrap(&file, &old, &[Recipient::of_secret(&new)]).unwrap();
    let rewrapped = [header.as_slice(), &file[replaced..]].concat();
    assert_eq!(decrypt(rewrapped.clone(), &new).unwrap(), b"content");
    assert_eq!(decrypt(rewrapped, &old), Err(AgeError::NoMatch));
    assert!(Envelope::new(&[]).is_err(), "somebody must be able to open it");
}

#[test]
fn a_recipient_is_written_as_text_everywhere() {
    let recipient = Recipient::of_secret(&[6; 32]);
    let text = recipient.to_string();
    assert_eq!(format!("{recipient:?}"), text);
    assert_eq!(serde_json::to_value(recipient).unwrap(), text);
    assert_eq!(serde_json::from_value::<Recipient>(text.clone().into()).unwrap(), recipient);
    for other in [text.to_uppercase().replacen('1', "", 1), text.replacen("age1", "age1B", 1), text[..20].to_owned()] {
        assert!(serde_json::from_value::<Recipient>(other.clone().into()).is_err(), "{other}");
    }
}

pub(crate) fn read_in_strides(source: &impl Source, stride: usize) -> Vec<u8> {
    let (mut read, mut block) = (Vec::new(), vec![0; stride]);
    while let count @ 1.. = source.read_at(&mut block, read.len() as u64).unwrap() {
        read.extend_from_slice(&block[..count]);
    }
    read
}

/// Each recipient of each layer may have to be tried, so their number is bounded before any is.
#[test]
fn more_than_64_recipients_are_refused_before_one_is_tried() {
    let recipients: Vec<Recipient> = (0..64).map(|number| Recipient::of_secret(&[number; 32])).collect();
    let envelope = Envelope::new(&recipients).unwrap();
    let file = read_in_strides(&envelope.around(&b"content"[..]), 1 << 10);
    assert_eq!(decrypt(file.clone(), &[63; 32]).unwrap(), b"content");
    assert!(Envelope::new(&[&recipients[..], &recipients[..1]].concat()).is_err());
    let first = file.iter().position(|&byte| byte == b'\n').unwrap() + 1;
    let stanza_end = first + file[first..].windows(3).position(|window| window == b"\n->").unwrap() + 1;
    let more = [&file[..stanza_end], &file[first..]].concat();
    let error = decrypt(more, &[63; 32]).unwrap_err();
    assert!(matches!(error, AgeError::Header { reason } if reason.contains("64 recipients")), "{error}");
}
