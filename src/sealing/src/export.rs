//! Unpacks a bundle into a plain model folder that other people's tools load and check.
//!
//! The folder holds the files under their own names and `model.sig`, the OpenSSF model signing attestation, so that
//! `model_signing verify key` accepts it. Each file's digest is compared with the manifest while it is written; whether
//! the manifest is authentic is known only when a trust root is given, or when that client has checked `model.sig`.
//! With a trust root, `model.sig` is an attestation by a key that the root authorises for this bundle.
//!
//! An encrypted bundle is exported as it lies: each file as an age file, `NAME.age`, which `age -d` opens, `model.sig`
//! among them. Nothing is decrypted to disk here.

use std::io::Write;
use std::path::{Path, PathBuf};

use ampoule_bundle::{Attestation, Digest, LayerKind, Manifest, Predicate, SealedBundle, TrustRoot};

use crate::error::SealingError;
use crate::files;
use crate::progress::Progress;

/// The attestation's name beside the model, as OpenSSF's client expects it.
pub const SIGNATURE_FILE: &str = "model.sig";

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The bundle's manifest digest.
    pub manifest: Digest,
    /// The files, without `model.sig`, in the manifest's order.
    pub files: Vec<PathBuf>,
    /// Whether they are age files.
    pub encrypted: bool,
}

/// Writes the files of the bundle at `bundle` into the new folder `folder`; with `root`, verifies its signatures first.
///
/// # Errors
/// `AlreadyExists` for the folder, and what opening and verifying refuse. The folder appears whole or not at all.
pub fn export(bundle: &Path, root: Option<&TrustRoot>, folder: &Path) -> Result<Exported, SealingError> {
    if folder.exists() {
        return Err(SealingError::AlreadyExists { path: folder.to_owned() });
    }
    let sealed = files::open_bundle(bundle)?;
    let signature = match root {
        // The clone reads from the same open file, and all that is written is compared with the manifest verified here.
        Some(root) => sealed.clone().verify(root)?.model_signature().cloned(),
        None => first_model_signature(&sealed)?,
    };
    let partial = files::partial_name(folder);
    // Not `create_dir_all`: what an interrupted export left there would be exported too.
    std::fs::create_dir(&partial).map_err(|source| SealingError::Write { path: partial.clone(), source })?;
    let written = write_folder(&sealed, signature.as_ref(), &partial);
    let placed = written.and_then(|files| {
        let in_context = |source| SealingError::Write { path: folder.to_owned(), source };
        std::fs::rename(&partial, folder).map_err(in_context)?;
        let manifest = sealed.unverified_manifest();
        Ok(Exported { manifest: manifest.digest(), files, encrypted: manifest.is_encrypted() })
    });
    placed.inspect_err(|_| {
        // The error that is reported is the one that stopped the export; a leftover is only untidy.
        let _ = std::fs::remove_dir_all(&partial);
    })
}

fn write_folder(
    sealed: &SealedBundle,
    signature: Option<&Attestation>,
    folder: &Path,
) -> Result<Vec<PathBuf>, SealingError> {
    let manifest = sealed.unverified_manifest();
    let progress = Progress::of_bytes(total_bytes(manifest), "exporting");
    let mut written = Vec::with_capacity(manifest.layers().len());
    for (index, layer) in manifest.layers().iter().enumerate() {
        // A BundlePath is relative and has no `..`, so this stays below the folder.
        let ending = if manifest.is_encrypted() { ".age" } else { "" };
        let name = format!("{}{ending}", layer.path);
        let path = folder.join(&name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|source| SealingError::Write { path: parent.to_owned(), source })?;
        files::write_new(&path, |writer| {
            let copied = sealed.copy_layer(index, &mut progress.counting(writer));
            copied.map_err(|error| SealingError::while_writing(&path, error))
        })?;
        if layer.kind != LayerKind::ModelSignature {
            written.push(PathBuf::from(name));
        }
    }
    let Some(signature) = signature else { return Ok(written) };
    let path = folder.join(SIGNATURE_FILE);
    files::write_new(&path, |writer| {
        let written = writer.write_all(signature.bytes());
        written.map_err(|source| SealingError::Write { path: path.clone(), source })
    })?;
    Ok(written)
}

/// Without a trust root one signature is as good as another. That of an encrypted bundle is among its layers.
fn first_model_signature(sealed: &SealedBundle) -> Result<Option<Attestation>, SealingError> {
    if sealed.unverified_manifest().is_encrypted() {
        return Ok(None);
    }
    let mut attestations = sealed.unverified_attestations().iter();
    let first = attestations.find(|attestation| attestation.predicate() == Predicate::ModelSigning);
    first.cloned().map(Some).ok_or(SealingError::NoModelSignature)
}

fn total_bytes(manifest: &Manifest) -> u64 {
    manifest.layers().iter().map(|layer| layer.size).sum()
}
