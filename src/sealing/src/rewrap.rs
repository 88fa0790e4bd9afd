//! Gives an encrypted bundle other recipients: every age header is written anew, and what follows it stays as it is.
//!
//! Other headers are other digests and another manifest, so the bundle is signed anew too, statements inside and outside.
//! Whoever could open the bundle before can still open what he has of it: this gives access, it takes none away.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_bundle::age::{AgeError, Envelope, Recipient, SECRET_BYTES};
use ampoule_bundle::limits::MAX_AGE_HEADER_BYTES;
use ampoule_bundle::{
    Attestation, Hasher, Layer, LayerKind, ReleaseStatement, SealedBundle, Source, Timestamp, TrustRoot,
    VerifiedBundle, read_exact,
};

use crate::encrypt::{Assembly, encrypting, encryption};
use crate::error::SealingError;
use crate::files;
use crate::keys::SigningKey;
use crate::progress::Progress;
use crate::seal::PackedBundle;
use crate::trust;

/// How much is read at a time.
const STRIDE_BYTES: usize = 1 << 20;

/// What to rewrap, and for whom.
pub struct RewrapRequest<'a> {
    /// The bundle.
    pub bundle: &'a Path,
    /// The secrets of those who can open it.
    pub secrets: &'a [[u8; SECRET_BYTES]],
    /// Who can open the result; nobody else can.
    pub recipients: &'a [Recipient],
    /// When the new statement is made.
    pub issued_at: Timestamp,
    /// Whose signature the bundle must have; that of the signing key itself when absent.
    pub root: Option<TrustRoot>,
}

/// Verifies the bundle of `request`, opens it, and writes it to `out` for the new recipients, signed by `key`.
///
/// # Errors
/// A bundle that is not encrypted, that none of the identities opens, or that does not verify; and what writing reports.
pub fn rewrap(request: &RewrapRequest<'_>, key: &SigningKey, out: &Path) -> Result<PackedBundle, SealingError> {
    let sealed = files::open_bundle(request.bundle)?;
    let own = trust::of_key(key)?;
    let verified = sealed.clone().verify(request.root.as_ref().unwrap_or(&own))?;
    let path = || request.bundle.to_owned();
    if verified.release().encryption.is_none() {
        return Err(SealingError::NotEncrypted { path: path() });
    }
    let opened = verified.unlock(request.secrets)?;
    let Some(inside) = opened.model_signature().filter(|_| !opened.is_locked()).cloned() else {
        return Err(SealingError::NoIdentityFits { path: path() });
    };
    // What is signed anew is held against what was signed before, to the last byte.
    let progress = Progress::of_bytes(opened.weight_bytes(), "verifying");
    opened.check_weights(&|bytes| progress.advance(bytes))?;
    let packed = assemble(request, &sealed, &opened, &inside, key)?;
    packed.write(&packed.sign(key)?, &own, out)?;
    Ok(packed)
}

fn assemble(
    request: &RewrapRequest<'_>,
    sealed: &SealedBundle,
    opened: &VerifiedBundle,
    inside: &Attestation,
    key: &SigningKey,
) -> Result<PackedBundle, SealingError> {
    let layers = sealed.unverified_manifest().layers();
    let progress = Progress::of_bytes(layers.iter().map(|layer| layer.size).sum(), "rewrapping");
    let mut assembly = Assembly::default();
    for (index, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.kind != LayerKind::ModelSignature) {
        let in_context = |source| SealingError::Read { path: PathBuf::from(layer.path.as_str()), source };
        let old = sealed.layer(index);
        let mut start =
            vec![0; usize::try_from(layer.size).map_or(MAX_AGE_HEADER_BYTES, |size| size.min(MAX_AGE_HEADER_BYTES))];
        read_exact(&old, &mut start, 0).map_err(in_context)?;
        let (header, replaced) = header_for(request, &start).map_err(|defect| encrypting(&layer.path, defect))?;
        let file = Rewrapped { replaced: replaced as u64, header, file: old };
        let signed = opened.release().weights.iter().find(|weight| weight.path == layer.path);
        let prefix = signed.map(|signed| signed.header_length - file.replaced + file.header.len() as u64);
        let mut prefix = vec![0; usize::try_from(prefix.unwrap_or(0)).expect("a header's limit fits")];
        read_exact(&file, &mut prefix, 0).map_err(in_context)?;
        let (digest, size) = digest(&progress.metering(&file)).map_err(in_context)?;
        let (path, kind) = (layer.path.clone(), layer.kind);
        let prefix = signed.map(|_| prefix.as_slice());
        assembly.add_file(Layer { path, kind, digest, size }, Arc::new(file), prefix);
    }
    assembly.encrypt_model_signature(inside.payload(), request.recipients, key)?;
    let release = ReleaseStatement { issued_at: request.issued_at, ..opened.release().clone() };
    let plaintext_root = release.encryption.as_ref().map_or(release.oms_root, |encryption| encryption.plaintext_root);
    assembly.into_bundle(release, encryption(request.recipients, plaintext_root))
}

/// The new header of a layer, and the length of the old one; the bundle was opened, so one of the identities fits.
fn header_for(request: &RewrapRequest<'_>, start: &[u8]) -> Result<(Vec<u8>, usize), AgeError> {
    let mut outcome = Err(AgeError::NoMatch);
    for secret in request.secrets {
        outcome = Envelope::rewrap(start, secret, request.recipients);
        if outcome != Err(AgeError::NoMatch) {
            break;
        }
    }
    outcome
}

/// An age file with another header.
struct Rewrapped<S> {
    header: Vec<u8>,
    /// The length of the old header.
    replaced: u64,
    file: S,
}

impl<S: Source> Source for Rewrapped<S> {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.length()? - self.replaced + self.header.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let header = self.header.len() as u64;
        if offset < header {
            return self.header.as_slice().read_at(buffer, offset);
        }
        self.file.read_at(buffer, offset - header + self.replaced)
    }
}

fn digest(source: &dyn Source) -> io::Result<(ampoule_bundle::Digest, u64)> {
    let (mut hasher, mut block, mut position) = (Hasher::new(), vec![0; STRIDE_BYTES], 0);
    loop {
        match source.read_at(&mut block, position)? {
            0 => return Ok((hasher.finish(), position)),
            count => {
                hasher.update(&block[..count]);
                position += count as u64;
            }
        }
    }
}
