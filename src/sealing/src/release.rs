//! Signing a release of the appliance itself: the list of all its files, and the one archive that carries them.
//!
//! The signatures are plain ECDSA on P-256 over SHA-256 in DER, beside what they sign, so that a customer checks them
//! with stock `openssl dgst` before anything of ours runs. A signature that holds already is kept: ECDSA draws a random
//! number each time, and packing the same files again should give the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use ampoule_bundle::release::{
    MAX_SIGNATURE_BYTES, RELEASE_FILE, RELEASE_SIGNATURE_FILE, ReleaseFile, VENDOR_KEY_FILE,
};
use ampoule_bundle::{BundlePath, BundleVersion, Hasher, KeyId, PublicKey, ReleaseManifest};

use crate::error::SealingError;
use crate::files;
use crate::keys::{Curve, SigningKey};

/// Longest archive that is signed, because it is held in memory: the signer takes the message whole.
const MAX_SIGNED_FILE_BYTES: u64 = 4 << 30;

/// Puts the public key, the manifest of all files and its signature into the folder `tree`.
///
/// # Errors
/// `NotAReleaseFile` for anything but files and folders; `ReleaseKeyCurve` for a key that is not on P-256.
pub fn sign_tree(
    tree: &Path,
    version: BundleVersion,
    platform: &str,
    key: &SigningKey,
) -> Result<ReleaseManifest, SealingError> {
    let public = public_key(key)?;
    let key_file = tree.join(VENDOR_KEY_FILE);
    if let Some(folder) = key_file.parent() {
        fs::create_dir_all(folder).map_err(|source| SealingError::Write { path: folder.to_owned(), source })?;
    }
    files::write_bytes(&key_file, public.to_pem().as_bytes())?;

    let mut listed = BTreeMap::new();
    list(tree, "", &mut listed)?;
    let manifest = ReleaseManifest::new(version, platform, listed)?;
    let text = manifest.to_text();
    files::write_bytes(&tree.join(RELEASE_FILE), text.as_bytes())?;
    sign(text.as_bytes(), &tree.join(RELEASE_SIGNATURE_FILE), key, &public)?;
    Ok(manifest)
}

/// Signs the file `path`; the signature is `PATH.sig`.
///
/// # Errors
/// `ReleaseKeyCurve` for a key that is not on P-256; `TooLarge` beyond 4 GiB; `WrongCommand` for what a signature would
/// make into more than an archive.
pub fn sign_file(path: &Path, key: &SigningKey) -> Result<(PathBuf, KeyId), SealingError> {
    let public = public_key(key)?;
    let bytes = files::read_capped(path, MAX_SIGNED_FILE_BYTES)?;
    if is_a_message(&bytes) {
        let (found, instead) =
            ("statement that programs act on", "the command that makes it signs it, and nothing else");
        return Err(SealingError::WrongCommand { path: path.to_owned(), found, instead });
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    let signature = PathBuf::from(name);
    sign(&bytes, &signature, key, &public)?;
    Ok((signature, public.id()))
}

/// Whether a signature on these bytes would be one on a bundle's statement, on a trust document or on a list of files. The
/// signatures on archives are those of stock `openssl`, so nothing else tells one from the other.
fn is_a_message(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    first == Some(&b'{') || [&b"DSSEv1 "[..], b"# ampoule release "].iter().any(|start| bytes.starts_with(start))
}

fn sign(message: &[u8], path: &Path, key: &SigningKey, public: &PublicKey) -> Result<(), SealingError> {
    let kept = path.exists() && public.verifies(message, &files::read_capped(path, MAX_SIGNATURE_BYTES)?);
    if kept { Ok(()) } else { files::write_bytes(path, &key.sign(message)?) }
}

fn public_key(key: &SigningKey) -> Result<PublicKey, SealingError> {
    if key.curve() != Curve::P256 {
        return Err(SealingError::ReleaseKeyCurve);
    }
    Ok(PublicKey::from_pem(key.public_pem())?)
}

/// Adds every file below `folder` to the list, whose names begin with `prefix`.
fn list(folder: &Path, prefix: &str, listed: &mut BTreeMap<BundlePath, ReleaseFile>) -> Result<(), SealingError> {
    let in_context = |source| SealingError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(in_context)? {
        let entry = entry.map_err(in_context)?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|_| SealingError::UnreadableName { path: path.clone() })?;
        let name = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(in_context)?;
        if kind.is_dir() {
            list(&path, &format!("{name}/"), listed)?;
        } else if !kind.is_file() {
            return Err(SealingError::NotAReleaseFile { path });
        } else if ![RELEASE_FILE, RELEASE_SIGNATURE_FILE].contains(&name.as_str()) {
            listed.insert(BundlePath::try_from(name.as_str())?, read(&path)?);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<ReleaseFile, SealingError> {
    let in_context = |source| SealingError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(in_context)?;
    let (mut hasher, mut length) = (Hasher::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(in_context)? {
            0 => return Ok(ReleaseFile { length, digest: hasher.finish() }),
            read => {
                hasher.update(&piece[..read]);
                length += read as u64;
            }
        }
    }
}
