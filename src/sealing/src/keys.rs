//! The vendor's signing keys: made, kept and used through the `sigstore` crate, in cosign's encrypted key format.
//!
//! A key file made here opens with `cosign sign --key`, and one made by `cosign generate-key-pair` opens here. Only
//! ECDSA over P-256 or P-384 is taken, because the runtime verifies nothing else: the hash follows the curve, SHA-256
//! for P-256 and SHA-384 for P-384.

use std::borrow::Borrow;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ampoule_bundle::PublicKey;
use ampoule_bundle::certificate::{Certificate, chain_from_pem};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sigstore::crypto::signing_key::SigStoreSigner;
use sigstore::crypto::signing_key::ecdsa::{ECDSAKeys, EllipticCurve};
use sigstore::errors::SigstoreError;
use zeroize::Zeroizing;

use crate::error::SealingError;
use crate::files;
use crate::password::Password;

/// A key file is a few hundred bytes; anything past this is not one.
const KEY_FILE_LIMIT_BYTES: u64 = 64 * 1024;

/// The nonce of the secretbox (XSalsa20-Poly1305) that a key file is.
const NONCE_BYTES: usize = 24;

/// The curves that the format admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Curve {
    /// NIST P-256, signing with SHA-256.
    P256,
    /// NIST P-384, signing with SHA-384.
    P384,
}

/// A private key, opened and ready to sign.
///
/// The key is held by the `sigstore` crate, which wipes it from memory when dropped.
pub struct SigningKey {
    signer: SigStoreSigner,
    keys: ECDSAKeys,
    public_pem: String,
    certificates: Vec<Certificate>,
}

impl SigningKey {
    /// Makes a new key on `curve` from the operating system's randomness.
    pub fn generate(curve: Curve) -> Result<SigningKey, SealingError> {
        let keys = ECDSAKeys::new(match curve {
            Curve::P256 => EllipticCurve::P256,
            Curve::P384 => EllipticCurve::P384,
        })
        .map_err(key_generation)?;
        SigningKey::from_keys(keys)
    }

    /// Opens the encrypted private key in the file `path`.
    ///
    /// # Errors
    ///
    /// `WrongPassword` when the password does not open it; `NotAnEncryptedKey` or `UnusableKey` for anything that is no
    /// encrypted cosign key; `UnsupportedCurve` for a P-521 key.
    pub fn open(path: &Path, password: &Password) -> Result<SigningKey, SealingError> {
        SigningKey::open_asking(path, || Ok(password))
    }

    /// The same with a password that is asked for once it is known that there is an encrypted key to open.
    ///
    /// # Errors
    ///
    /// As [`SigningKey::open`], and what asking reports.
    pub fn open_asking<P: Borrow<Password>>(
        path: &Path,
        ask: impl FnOnce() -> Result<P, SealingError>,
    ) -> Result<SigningKey, SealingError> {
        let pem = Zeroizing::new(files::read_capped(path, KEY_FILE_LIMIT_BYTES)?);
        let keys = open_encrypted(path, &pem, ask)?;
        if matches!(keys, ECDSAKeys::P521(_)) {
            return Err(SealingError::UnsupportedCurve { path: path.to_owned(), found: "P-521" });
        }
        SigningKey::from_keys(keys)
    }

    fn from_keys(keys: ECDSAKeys) -> Result<SigningKey, SealingError> {
        let signer = keys.to_sigstore_signer().map_err(key_generation)?;
        let public_pem = unix_lines(&keys.as_inner().public_key_to_pem().map_err(key_generation)?);
        Ok(SigningKey { signer, keys, public_pem, certificates: Vec::new() })
    }

    /// The public key as SPKI PEM with LF line ends and one at the end: the text whose SHA-256 is the key's id.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The same key with the certificate chain (PEM, leaf first) that is shown with its signatures on bundles.
    ///
    /// # Errors
    /// `UnusableChain` for a text that is none, `ChainOfAnotherKey`, and `UnfitLeaf` for a leaf that may not sign.
    pub fn with_chain(self, path: &Path) -> Result<SigningKey, SealingError> {
        let bytes = files::read_capped(path, KEY_FILE_LIMIT_BYTES)?;
        let unusable = |source| SealingError::UnusableChain { path: path.to_owned(), source: Box::new(source) };
        let certificates = chain_from_pem(&String::from_utf8_lossy(&bytes)).map_err(unusable)?;
        let leaf = certificates.first().expect("a chain that was read has a leaf");
        let (found, expected) = (leaf.key().id(), PublicKey::from_pem(&self.public_pem)?.id());
        if found != expected {
            return Err(SealingError::ChainOfAnotherKey { path: path.to_owned(), found, expected });
        }
        if let Some(reason) = leaf.defect_as_leaf() {
            return Err(SealingError::UnfitLeaf { path: path.to_owned(), reason });
        }
        Ok(SigningKey { certificates, ..self })
    }

    /// The certificate chain, leaf first; empty for a bare key.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The curve of this key.
    pub fn curve(&self) -> Curve {
        match self.keys {
            ECDSAKeys::P384(_) => Curve::P384,
            _ => Curve::P256,
        }
    }

    /// Signs `message` (a DSSE pre-authentication encoding), giving an ASN.1 DER ECDSA signature.
    ///
    /// Each call gives another signature of the same message: the nonce is random, so two seals of the same input
    /// differ in their signatures and in nothing else.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SealingError> {
        self.signer.sign(message).map_err(|error| SealingError::Signing(Box::new(error)))
    }

    /// Writes `NAME.key` (encrypted, mode 0600) and `NAME.pub`; neither may exist yet.
    pub fn write_pair(&self, name: &Path, password: &Password) -> Result<KeyPairPaths, SealingError> {
        let paths = KeyPairPaths::unused(name)?;
        let private_pem = self.encrypted_pem(password)?;
        write_new(&paths.private, private_pem.as_bytes(), 0o600)?;
        write_new(&paths.public, self.public_pem.as_bytes(), 0o644)?;
        Ok(paths)
    }

    fn encrypted_pem(&self, password: &Password) -> Result<Zeroizing<String>, SealingError> {
        let pem = self.keys.as_inner().private_key_to_encrypted_pem(password.as_bytes());
        Ok(Zeroizing::new(unix_lines(&pem.map_err(key_generation)?)))
    }
}

/// Where a key pair lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPairPaths {
    /// `NAME.key`: the private key, encrypted under the password.
    pub private: PathBuf,
    /// `NAME.pub`: the public key.
    pub public: PathBuf,
}

impl KeyPairPaths {
    /// Where a new pair of this name will lie.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one.
    pub fn unused(name: &Path) -> Result<KeyPairPaths, SealingError> {
        let paths = KeyPairPaths::of(name);
        if let Some(path) = [&paths.private, &paths.public].into_iter().find(|path| path.exists()) {
            return Err(SealingError::AlreadyExists { path: path.clone() });
        }
        Ok(paths)
    }

    fn of(name: &Path) -> KeyPairPaths {
        // Appending, and not `with_extension`, keeps a name such as `release-1.2` whole.
        let with = |ending: &str| {
            let mut path = name.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        };
        KeyPairPaths { private: with(".key"), public: with(".pub") }
    }
}

/// Reads a public key file, giving its PEM text with LF line ends and one at the end.
///
/// Whether the text is a key that the format admits is decided where the trust root is parsed.
pub fn read_public_pem(path: &Path) -> Result<String, SealingError> {
    let bytes = files::read_capped(path, KEY_FILE_LIMIT_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| SealingError::NotAPublicKey { path: path.to_owned() })?;
    if !text.starts_with("-----BEGIN PUBLIC KEY-----") {
        return Err(SealingError::NotAPublicKey { path: path.to_owned() });
    }
    Ok(unix_lines(&text))
}

/// Opens the encrypted private key that `pem` is, on any curve; `path` names it in errors.
pub(crate) fn open_encrypted<P: Borrow<Password>>(
    path: &Path,
    pem: &[u8],
    password: impl FnOnce() -> Result<P, SealingError>,
) -> Result<ECDSAKeys, SealingError> {
    // The crate would also take an unencrypted key; we do not, so that no such file ever becomes a habit.
    if !contains(pem, b"-----BEGIN ENCRYPTED ") {
        return Err(SealingError::NotAnEncryptedKey { path: path.to_owned() });
    }
    let unusable = |source| SealingError::UnusableKey { path: path.to_owned(), source: Box::new(source) };
    // The crate asserts this length and would end the process instead of reporting it.
    if nonce_bytes(pem) != Some(NONCE_BYTES) {
        let reason = format!("it holds no secretbox with a nonce of {NONCE_BYTES} bytes");
        return Err(unusable(SigstoreError::PrivateKeyDecryptError(reason)));
    }
    ECDSAKeys::from_encrypted_pem(pem, password()?.borrow().as_bytes()).map_err(|error| match error {
        SigstoreError::PrivateKeyEncryptError(_) => SealingError::WrongPassword { path: path.to_owned() },
        source => unusable(source),
    })
}

fn key_generation(error: SigstoreError) -> SealingError {
    SealingError::KeyGeneration(Box::new(error))
}

/// The crate writes CRLF; the key id is the hash of the LF text, so every PEM is brought to that form on the way in.
fn unix_lines(pem: &str) -> String {
    let mut text = pem.replace("\r\n", "\n").trim_end().to_owned();
    text.push('\n');
    text
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), SealingError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| SealingError::Write { path: path.to_owned(), source })
}

/// The nonce's length in a key file of cosign's format, whose PEM text holds a JSON object.
fn nonce_bytes(pem: &[u8]) -> Option<usize> {
    #[derive(Deserialize)]
    struct KeyBox {
        cipher: Cipher,
    }
    #[derive(Deserialize)]
    struct Cipher {
        nonce: String,
    }
    let lines = std::str::from_utf8(pem).ok()?.lines().map(str::trim);
    let body: String = lines
        .skip_while(|line| !line.starts_with("-----BEGIN "))
        .skip(1)
        .take_while(|line| !line.starts_with("-----END "))
        .collect();
    let key_box: KeyBox = serde_json::from_slice(&STANDARD.decode(body).ok()?).ok()?;
    Some(STANDARD.decode(key_box.cipher.nonce).ok()?.len())
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pair(curve: Curve) -> (tempfile::TempDir, KeyPairPaths, SigningKey) {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate(curve).unwrap();
        let paths = key.write_pair(&folder.path().join("vendor-1.2"), &Password::from("correct horse")).unwrap();
        (folder, paths, key)
    }

    #[test]
    fn a_key_pair_is_written_private_and_with_unix_line_ends() {
        let (folder, paths, key) = pair(Curve::P256);
        assert_eq!(paths.private, folder.path().join("vendor-1.2.key"));
        assert_eq!(std::fs::metadata(&paths.private).unwrap().permissions().mode() & 0o777, 0o600);
        let private = std::fs::read_to_string(&paths.private).unwrap();
        let public = std::fs::read_to_string(&paths.public).unwrap();
        assert!(private.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"), "{private}");
        assert!(!private.contains('\r') && !public.contains('\r'));
        assert!(public.ends_with("-----END PUBLIC KEY-----\n") && public == key.public_pem());
    }

    #[test]
    fn a_key_opens_with_its_password_only() {
        for curve in [Curve::P256, Curve::P384] {
            let (_folder, paths, key) = pair(curve);
            let opened = SigningKey::open(&paths.private, &Password::from("correct horse")).unwrap();
            assert_eq!((opened.public_pem(), opened.curve()), (key.public_pem(), curve));
            let refused = SigningKey::open(&paths.private, &Password::from("correct house"));
            assert!(matches!(refused, Err(SealingError::WrongPassword { .. })));
        }
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let (folder, _paths, key) = pair(Curve::P256);
        let again = key.write_pair(&folder.path().join("vendor-1.2"), &Password::from("x"));
        assert!(matches!(again, Err(SealingError::AlreadyExists { .. })));
    }

    #[test]
    fn a_key_file_with_a_nonce_of_another_length_is_refused_and_does_not_panic() {
        let (_folder, paths, _key) = pair(Curve::P256);
        let pem = std::fs::read_to_string(&paths.private).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let mut key_box: serde_json::Value = serde_json::from_slice(&STANDARD.decode(body).unwrap()).unwrap();
        let whole = key_box["cipher"]["nonce"].clone();
        for nonce in [serde_json::json!("AA=="), serde_json::json!(""), serde_json::json!(1), whole] {
            key_box["cipher"]["nonce"] = nonce.clone();
            let body = STANDARD.encode(key_box.to_string());
            let label = "ENCRYPTED SIGSTORE PRIVATE KEY";
            std::fs::write(&paths.private, format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"))
                .unwrap();
            let opened = SigningKey::open(&paths.private, &Password::from("correct horse"));
            match nonce.as_str().map(str::len) {
                Some(32) => assert!(opened.is_ok()),
                _ => assert!(matches!(opened, Err(SealingError::UnusableKey { .. })), "{nonce}"),
            }
        }
    }

    #[test]
    fn an_unencrypted_key_and_a_p521_key_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let keys = ECDSAKeys::new(EllipticCurve::P256).unwrap();
        let plain = folder.path().join("plain.key");
        std::fs::write(&plain, keys.as_inner().private_key_to_pem().unwrap().as_bytes()).unwrap();
        let refused = SigningKey::open(&plain, &Password::from("x"));
        assert!(matches!(refused, Err(SealingError::NotAnEncryptedKey { .. })));

        let keys = ECDSAKeys::new(EllipticCurve::P521).unwrap();
        let wide = folder.path().join("wide.key");
        std::fs::write(&wide, keys.as_inner().private_key_to_encrypted_pem(b"x").unwrap().as_bytes()).unwrap();
        let refused = SigningKey::open(&wide, &Password::from("x"));
        assert!(matches!(refused, Err(SealingError::UnsupportedCurve { found: "P-521", .. })));
    }
}
