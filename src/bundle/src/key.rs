//! Public keys and what they sign.
//!
//! Only ECDSA on P-256 (SHA-256) and P-384 (SHA-384) is known, because OpenSSF model signing knows no Ed25519 and the
//! hash follows the curve. A key has one spelling, so one key cannot be counted twice under two ids.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, parse_hex, shorten};
use crate::error::BundleError;

/// A key's id: the SHA-256 of its LF-terminated SPKI PEM text, written as 64 lower-case hex digits.
///
/// This is the `hint` that OpenSSF's and sigstore's clients write into a bundle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// The id of the key whose canonical PEM text is `pem`.
    #[must_use]
    pub fn of_pem(pem: &str) -> Self {
        Self(*Digest::of(pem.as_bytes()).as_bytes())
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for KeyId {
    type Err = BundleError;

    fn from_str(text: &str) -> Result<Self, BundleError> {
        parse_hex(text).map(Self).ok_or_else(|| BundleError::InvalidText {
            kind: "key id",
            found: shorten(text),
            reason: "it must be 64 lower-case hex digits",
        })
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The curve of a key; the hash follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256 with SHA-256.
    P256,
    /// NIST P-384 with SHA-384.
    P384,
}

impl Curve {
    /// The name of the signature scheme in TUF documents.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::P256 => "ecdsa-sha2-nistp256",
            Self::P384 => "ecdsa-sha2-nistp384",
        }
    }

    /// What stands before the uncompressed point in a SubjectPublicKeyInfo in DER.
    fn spki_prefix(self) -> &'static [u8] {
        match self {
            Self::P256 => &[
                0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
                0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
            ],
            Self::P384 => &[
                0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
                0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
            ],
        }
    }

    fn point_bytes(self) -> usize {
        match self {
            Self::P256 => 65,
            Self::P384 => 97,
        }
    }
}

/// A public key that signatures can be checked with.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    curve: Curve,
    point: Vec<u8>,
    id: KeyId,
}

impl PublicKey {
    /// Reads a key from its PEM text: SubjectPublicKeyInfo, uncompressed point, base64 lines of 64 characters, LF line
    /// ends and a final LF. Any other spelling is refused, so that a key has exactly one id.
    ///
    /// # Errors
    /// [`BundleError::MalformedKey`].
    pub fn from_pem(pem: &str) -> Result<Self, BundleError> {
        let refuse = |reason| BundleError::MalformedKey { reason };
        let body = pem
            .strip_prefix("-----BEGIN PUBLIC KEY-----\n")
            .and_then(|rest| rest.strip_suffix("\n-----END PUBLIC KEY-----\n"))
            .ok_or_else(|| refuse("it must be `BEGIN PUBLIC KEY` PEM with LF line ends and a final LF"))?;
        if body.len() > 1024 {
            return Err(refuse("it is too long for an ECDSA P-256 or P-384 key"));
        }
        let der = STANDARD.decode(body.replace('\n', "")).map_err(|_| refuse("its base64 is wrong"))?;
        let key = Self::from_spki_der(&der)?;
        if key.to_pem() != pem {
            return Err(refuse("its base64 lines must have 64 characters each"));
        }
        Ok(key)
    }

    /// Reads a key from its SubjectPublicKeyInfo in DER. Whether the point lies on the curve shows only when a
    /// signature is checked: where it does not, every signature is wrong.
    ///
    /// # Errors
    /// [`BundleError::MalformedKey`] when it is not an uncompressed point of the length that P-256 or P-384 has.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, BundleError> {
        for curve in [Curve::P256, Curve::P384] {
            if let Some(point) = der.strip_prefix(curve.spki_prefix())
                && point.len() == curve.point_bytes()
                && point[0] == 4
            {
                let mut key = Self { curve, point: point.to_vec(), id: KeyId([0; 32]) };
                key.id = KeyId::of_pem(&key.to_pem());
                return Ok(key);
            }
        }
        Err(BundleError::MalformedKey { reason: "only ECDSA keys on P-256 and P-384 (uncompressed) are known" })
    }

    /// The key's canonical PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let mut der = self.curve.spki_prefix().to_vec();
        der.extend_from_slice(&self.point);
        let base64 = STANDARD.encode(der);
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in base64.as_bytes().chunks(64) {
            pem.extend(line.iter().map(|&byte| char::from(byte)));
            pem.push('\n');
        }
        pem.push_str("-----END PUBLIC KEY-----\n");
        pem
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key's curve.
    #[must_use]
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// Whether `signature` (ECDSA, DER) is this key's over `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.curve {
            Curve::P256 => &signature::ECDSA_P256_SHA256_ASN1,
            Curve::P384 => &signature::ECDSA_P384_SHA384_ASN1,
        };
        UnparsedPublicKey::new(algorithm, &self.point).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PublicKey({}, {})", self.curve.scheme(), self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made with `openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout`.
    const PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n\
        6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n\
        -----END PUBLIC KEY-----\n";

    #[test]
    fn a_key_has_one_spelling() {
        let key = PublicKey::from_pem(PEM).expect("canonical PEM");
        assert_eq!(key.to_pem(), PEM);
        assert_eq!(key.id(), KeyId::of_pem(PEM));
        for other in [
            PEM.replace('\n', "\r\n"),
            PEM.trim_end().to_owned(),
            PEM.replace("Et\n", "Et"),
            format!("\n{PEM}"),
            PEM.replace("PUBLIC KEY", "EC PUBLIC KEY"),
            PEM.replace("MFkw", "MFkx"),
        ] {
            assert!(PublicKey::from_pem(&other).is_err(), "{other}");
        }
    }

    #[test]
    fn a_point_beside_the_curve_verifies_nothing() {
        let random = ring::rand::SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
        let document = signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a new key");
        let pair = signature::EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a new key");
        let signature = pair.sign(&random, b"message").expect("a signature");
        let mut der = Curve::P256.spki_prefix().to_vec();
        der.extend_from_slice(signature::KeyPair::public_key(&pair).as_ref());
        let verifies = |der: &[u8]| {
            PublicKey::from_spki_der(der).expect("the form is right").verifies(b"message", signature.as_ref())
        };
        assert!(verifies(&der));
        *der.last_mut().expect("not empty") ^= 1;
        assert!(!verifies(&der));
    }
}
