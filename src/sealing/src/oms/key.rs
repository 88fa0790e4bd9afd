//! Keys of model signatures: ECDSA on P-256, P-384 or P-521, the hash following the curve.
//!
//! They live in pipelines that other tools made, so a key may be as `openssl` writes it: PKCS#8 or SEC 1, in the clear or
//! under a password. One in the clear must at least not be readable by everybody. P-521 is known here and nowhere in the
//! runtime, whose bundles are signed on the two smaller curves.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ampoule_bundle::KeyId;
use pkcs8::der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use pkcs8::der::{Decode, Encode, EncodePem, SecretDocument};
use pkcs8::{EncryptedPrivateKeyInfoRef, LineEnding, PrivateKeyInfoRef};
use sigstore::crypto::signing_key::SigStoreSigner;
use sigstore::crypto::signing_key::ecdsa::ECDSAKeys;
use sigstore::crypto::verification_key::CosignVerificationKey;
use sigstore::crypto::{Signature, SigningScheme};
use sigstore::errors::SigstoreError;
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoOwned};
use zeroize::Zeroizing;

use super::error::OmsError;
use crate::error::SealingError;
use crate::files;
use crate::keys;
use crate::password::Password;

/// A key file is a few hundred bytes; anything past this is not one.
const KEY_FILE_LIMIT_BYTES: u64 = 64 * 1024;

/// What others of the machine may do with a file.
const MODE_OF_OTHERS: u32 = 0o007;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const ALL: [Curve; 3] = [Curve::P256, Curve::P384, Curve::P521];

    fn identifier(self) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(match self {
            Curve::P256 => "1.2.840.10045.3.1.7",
            Curve::P384 => "1.3.132.0.34",
            Curve::P521 => "1.3.132.0.35",
        })
    }

    fn scheme(self) -> SigningScheme {
        match self {
            Curve::P256 => SigningScheme::ECDSA_P256_SHA256_ASN1,
            Curve::P384 => SigningScheme::ECDSA_P384_SHA384_ASN1,
            Curve::P521 => SigningScheme::ECDSA_P521_SHA512_ASN1,
        }
    }

    /// The length of an uncompressed point.
    fn point_bytes(self) -> usize {
        match self {
            Curve::P256 => 65,
            Curve::P384 => 97,
            Curve::P521 => 133,
        }
    }
}

/// A public key that model signatures are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OmsPublicKey {
    curve: Curve,
    spki: Vec<u8>,
    id: KeyId,
}

impl OmsPublicKey {
    /// Reads a public key from PEM text (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// `NotAPublicKey`, and `UnusableKey` for a key that model signing does not know.
    pub fn open(path: &Path) -> Result<OmsPublicKey, SealingError> {
        let der = keys::read_public_pem(path)?;
        let der =
            pem_section(&der, "PUBLIC KEY").ok_or_else(|| SealingError::NotAPublicKey { path: path.to_owned() })?;
        OmsPublicKey::from_der(der.as_bytes()).ok_or_else(|| OmsError::UnusableKey { path: path.to_owned() }.into())
    }

    /// Reads a SubjectPublicKeyInfo: a named curve and an uncompressed point, so that a key has one spelling and one id.
    pub(crate) fn from_der(spki: &[u8]) -> Option<OmsPublicKey> {
        let key = SubjectPublicKeyInfoOwned::from_der(spki).ok()?;
        let named: ObjectIdentifier = key.algorithm.parameters.as_ref()?.decode_as().ok()?;
        let curve = Curve::ALL.into_iter().find(|curve| curve.identifier() == named)?;
        let point = key.subject_public_key.as_bytes()?;
        if key.algorithm.oid != EC_PUBLIC_KEY || point.len() != curve.point_bytes() || point[0] != 4 {
            return None;
        }
        let id = KeyId::of_pem(&key.to_pem(LineEnding::LF).ok()?);
        Some(OmsPublicKey { curve, spki: key.to_der().ok()?, id })
    }

    /// The key's id: the hint that clients write into a signature.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature` (ECDSA, DER) is this key's over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = CosignVerificationKey::from_der(&self.spki, &self.curve.scheme());
        key.is_ok_and(|key| key.verify_signature(Signature::Raw(signature), message).is_ok())
    }
}

/// A private key that signs models.
pub struct OmsKey {
    signer: SigStoreSigner,
    public: OmsPublicKey,
}

impl OmsKey {
    /// Opens the private key in `path`; `password` is asked for where the key is encrypted, and only there.
    ///
    /// # Errors
    /// `WrongPassword`, `KeyReadableByAll` for a key in the clear, `UnusableKey` for anything that is no such key.
    pub fn open(
        path: &Path,
        password: impl FnOnce() -> Result<Password, SealingError>,
    ) -> Result<OmsKey, SealingError> {
        let bytes = Zeroizing::new(files::read_capped(path, KEY_FILE_LIMIT_BYTES)?);
        let unusable = || SealingError::from(OmsError::UnusableKey { path: path.to_owned() });
        let pem = std::str::from_utf8(&bytes).map_err(|_| unusable())?;
        let wrong = || SealingError::WrongPassword { path: path.to_owned() };
        let keys = if let Some(encrypted) = pem_section(pem, "ENCRYPTED PRIVATE KEY") {
            let encrypted = EncryptedPrivateKeyInfoRef::from_der(encrypted.as_bytes()).map_err(|_| unusable())?;
            let opened = encrypted.decrypt(password()?.as_bytes()).map_err(|_| wrong())?;
            ECDSAKeys::from_der(opened.as_bytes()).map_err(|_| unusable())?
        } else if let Some(plain) = pem_section(pem, "PRIVATE KEY") {
            refuse_if_readable_by_all(path)?;
            ECDSAKeys::from_der(plain.as_bytes()).map_err(|_| unusable())?
        } else if let Some(plain) = pem_section(pem, "EC PRIVATE KEY") {
            refuse_if_readable_by_all(path)?;
            from_sec1(plain.as_bytes()).ok_or_else(unusable)?
        } else {
            keys::open_encrypted(path, &bytes, password)?
        };
        OmsKey::of(&keys).ok_or_else(unusable)
    }

    fn of(keys: &ECDSAKeys) -> Option<OmsKey> {
        let public = OmsPublicKey::from_der(&keys.as_inner().public_key_to_der().ok()?)?;
        Some(OmsKey { signer: keys.to_sigstore_signer().ok()?, public })
    }

    /// The public half.
    pub fn public(&self) -> &OmsPublicKey {
        &self.public
    }

    /// Signs `message`, giving an ASN.1 DER ECDSA signature.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SealingError> {
        self.signer.sign(message).map_err(|error: SigstoreError| SealingError::Signing(Box::new(error)))
    }
}

/// The DER of the first section with this label; `openssl ecparam` writes the curve's parameters before the key.
fn pem_section(text: &str, label: &str) -> Option<SecretDocument> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let from = text.find(&begin)?;
    let until = text[from..].find(&end)?;
    let section = text.get(from..from + until + end.len())?;
    SecretDocument::from_pem(section).ok().map(|(_, der)| der)
}

/// A SEC 1 key need not name its curve, so it is tried on each; the key code checks that it fits.
fn from_sec1(sec1: &[u8]) -> Option<ECDSAKeys> {
    Curve::ALL.into_iter().find_map(|curve| {
        let identifier = curve.identifier();
        let algorithm = AlgorithmIdentifierRef { oid: EC_PUBLIC_KEY, parameters: Some(AnyRef::from(&identifier)) };
        let wrapped = PrivateKeyInfoRef::new(algorithm, OctetStringRef::new(sec1).ok()?);
        ECDSAKeys::from_der(&Zeroizing::new(wrapped.to_der().ok()?)).ok()
    })
}

fn refuse_if_readable_by_all(path: &Path) -> Result<(), SealingError> {
    let found = std::fs::metadata(path).map_err(|source| SealingError::Read { path: path.to_owned(), source })?;
    match found.permissions().mode() & MODE_OF_OTHERS {
        0 => Ok(()),
        _ => Err(OmsError::KeyReadableByAll { path: path.to_owned() }.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::process::Command;

    use sigstore::crypto::signing_key::ecdsa::EllipticCurve;

    use super::*;

    fn never() -> Result<Password, SealingError> {
        panic!("no password is needed")
    }

    fn openssl(arguments: &str) -> bool {
        let found = Command::new("openssl").args(arguments.split(' ')).output();
        let Ok(output) = found else {
            eprintln!("skipped: keys_as_openssl_writes_them_are_opened: openssl is missing");
            return false;
        };
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        true
    }

    #[test]
    fn keys_as_openssl_writes_them_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for curve in ["prime256v1", "secp384r1", "secp521r1"] {
            let (sec1, pkcs8, encrypted, public) = (path("sec1"), path("pkcs8"), path("encrypted"), path("public"));
            // With the curve's parameters before it, as `ecparam` writes them.
            if !openssl(&format!("ecparam -name {curve} -genkey -out {sec1}")) {
                return;
            }
            openssl(&format!("pkcs8 -topk8 -nocrypt -in {sec1} -out {pkcs8}"));
            openssl(&format!("pkcs8 -topk8 -in {sec1} -out {encrypted} -passout pass:secret"));
            openssl(&format!("ec -in {sec1} -pubout -out {public}"));
            let public = OmsPublicKey::open(Path::new(&public)).unwrap();
            for plain in [&sec1, &pkcs8] {
                fs::set_permissions(plain, fs::Permissions::from_mode(0o600)).unwrap();
                let key = OmsKey::open(Path::new(plain), never).unwrap();
                assert_eq!(key.public(), &public, "{curve}");
                assert!(public.verifies(b"message", &key.sign(b"message").unwrap()));
                fs::set_permissions(plain, fs::Permissions::from_mode(0o644)).unwrap();
                let refused = OmsKey::open(Path::new(plain), never).err().unwrap();
                assert!(matches!(refused, SealingError::Oms(OmsError::KeyReadableByAll { .. })), "{refused}");
            }
            let open = |password: &str| OmsKey::open(Path::new(&encrypted), || Ok(Password::from(password)));
            assert_eq!(open("secret").unwrap().public(), &public);
            assert!(matches!(open("other").err().unwrap(), SealingError::WrongPassword { .. }));
        }
        let rsa = path("rsa");
        openssl(&format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out {rsa}"));
        let refused = OmsKey::open(Path::new(&rsa), never).err().unwrap();
        assert!(matches!(refused, SealingError::Oms(OmsError::UnusableKey { .. })), "C11: {refused}");
    }

    #[test]
    fn a_key_of_cosigns_format_is_opened_p521_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for curve in [EllipticCurve::P256, EllipticCurve::P384, EllipticCurve::P521] {
            let keys = ECDSAKeys::new(curve).unwrap();
            fs::write(&path, keys.as_inner().private_key_to_encrypted_pem(b"secret").unwrap().as_bytes()).unwrap();
            let key = OmsKey::open(&path, || Ok(Password::from("secret"))).unwrap();
            assert_eq!(key.public(), OmsKey::of(&keys).unwrap().public());
            let refused = OmsKey::open(&path, || Ok(Password::from("other"))).err().unwrap();
            assert!(matches!(refused, SealingError::WrongPassword { .. }), "{refused}");
        }
    }

    #[test]
    fn c11_a_signature_of_one_curve_is_none_of_another_and_has_one_form() {
        let keys: Vec<OmsKey> = [EllipticCurve::P256, EllipticCurve::P384, EllipticCurve::P521]
            .map(|curve| OmsKey::of(&ECDSAKeys::new(curve).unwrap()).unwrap())
            .into();
        for signer in &keys {
            let signature = signer.sign(b"message").unwrap();
            for key in &keys {
                let same = key.public() == signer.public();
                assert_eq!(key.public().verifies(b"message", &signature), same);
            }
            // Not the DER form but r and s alone, and not the hash of the curve but the message's as a message.
            let raw = vec![1; (signer.public().curve.point_bytes() - 1) & !1];
            assert!(!signer.public().verifies(b"message", &raw));
            assert!(!signer.public().verifies(b"massage", &signature));
            assert!(!signer.public().verifies(b"message", &[]));
        }
        let spki = &keys[0].public().spki;
        for (position, byte) in [(spki.len() - 65, 2), (0, 0x31), (10, 0)] {
            let mut other = spki.clone();
            other[position] = byte;
            assert!(OmsPublicKey::from_der(&other).is_none(), "{position}");
        }
    }
}
