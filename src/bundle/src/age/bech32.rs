//! Bech32 (BIP 173) as age uses it: 32 bytes behind a fixed prefix. Nothing is allocated on the way in, because what is
//! read may be a secret.

const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// 32 bytes in groups of five bits.
const DATA_GROUPS: usize = 52;
const CHECKSUM_GROUPS: usize = 6;

/// Decodes `text`, which must be `prefix`, `1`, the data and the checksum, all in lower or all in upper case.
pub(super) fn decode(prefix: &str, text: &[u8], data: &mut [u8; 32]) -> Option<()> {
    let upper = text.first()?.is_ascii_uppercase();
    let lowered = |byte: u8| match (byte.is_ascii_uppercase(), byte.is_ascii_lowercase()) {
        (true, _) if !upper => None,
        (_, true) if upper => None,
        _ => Some(byte.to_ascii_lowercase()),
    };
    if text.len() != prefix.len() + 1 + DATA_GROUPS + CHECKSUM_GROUPS {
        return None;
    }
    let (found_prefix, rest) = text.split_at(prefix.len());
    for (&found, expected) in found_prefix.iter().zip(prefix.bytes()) {
        if lowered(found)? != expected {
            return None;
        }
    }
    if rest[0] != b'1' {
        return None;
    }
    let mut checksum = Checksum::of_prefix(prefix);
    let (mut bits, mut count, mut filled) = (0u32, 0, 0);
    for (index, &byte) in rest[1..].iter().enumerate() {
        let byte = lowered(byte)?;
        let group = u32::try_from(ALPHABET.iter().position(|&letter| letter == byte)?).ok()?;
        checksum.add(group);
        if index >= DATA_GROUPS {
            continue;
        }
        bits = (bits << 5 | group) & 0xfff;
        count += 5;
        if count >= 8 {
            count -= 8;
            data[filled] = (bits >> count & 0xff) as u8;
            filled += 1;
        }
    }
    // Four bits are left over, and they are zero in the one spelling of these bytes.
    (checksum.0 == 1 && bits & 0xf == 0).then_some(())
}

/// Encodes 32 bytes in lower case.
pub(super) fn encode(prefix: &str, data: &[u8; 32]) -> String {
    let mut checksum = Checksum::of_prefix(prefix);
    let mut text = format!("{prefix}1");
    let push = |text: &mut String, checksum: &mut Checksum, group: u32| {
        checksum.add(group);
        text.push(char::from(ALPHABET[group as usize & 31]));
    };
    let (mut bits, mut count) = (0u32, 0);
    for &byte in data {
        bits = (bits << 8 | u32::from(byte)) & 0xfff;
        count += 8;
        while count >= 5 {
            count -= 5;
            push(&mut text, &mut checksum, bits >> count & 31);
        }
    }
    push(&mut text, &mut checksum, bits << (5 - count) & 31);
    for _ in 0..CHECKSUM_GROUPS {
        checksum.add(0);
    }
    let sum = checksum.0 ^ 1;
    for index in 0..CHECKSUM_GROUPS {
        text.push(char::from(ALPHABET[(sum >> (5 * (5 - index)) & 31) as usize]));
    }
    text
}

/// The remainder of the polynomial that prefix and groups are the coefficients of.
struct Checksum(u32);

impl Checksum {
    fn of_prefix(prefix: &str) -> Self {
        let mut checksum = Self(1);
        prefix.bytes().for_each(|byte| checksum.add(u32::from(byte) >> 5));
        checksum.add(0);
        prefix.bytes().for_each(|byte| checksum.add(u32::from(byte) & 31));
        checksum
    }

    fn add(&mut self, group: u32) {
        const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
        let top = self.0 >> 25;
        self.0 = (self.0 & 0x01ff_ffff) << 5 ^ group;
        for (bit, factor) in GENERATOR.into_iter().enumerate() {
            if top >> bit & 1 == 1 {
                self.0 ^= factor;
            }
        }
    }
}
