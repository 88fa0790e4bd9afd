//! Unpacks a bundle into a plain model folder that other people's tools load and check.
//!
//! The folder holds the files under their own names and `model.sig`, the OpenSSF model signing attestation, so that
//! `model_signing verify key` accepts it. Each file's digest is compared with the manifest while it is written; whether
//! the manifest is authentic is known only when a trust root is given, or when that client has checked `model.sig`.
//! With a trust root, `model.sig` is the attestation by the first key that the root authorises for this bundle.
//!
//! An encrypted bundle is exported as it lies: each file as an age file, `NAME.age`, which `age -d` opens, `model.sig`
//! among them. Nothing is decrypted to disk here.

use std::path::{Path, PathBuf};

use ampoule_bundle::archive::PlacedFile;
use ampoule_bundle::{Attestation, Digest, KeyId, Predicate, SealedBundle, TrustRoot};

pub use ampoule_bundle::archive::SIGNATURE_FILE;

use crate::error::SealingError;
use crate::files;
use crate::progress::Progress;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// The bundle's manifest digest.
    pub manifest: Digest,
    /// The files, without `model.sig`, in the manifest's order.
    pub files: Vec<PathBuf>,
    /// Whether they are age files.
    pub encrypted: bool,
    /// Whose signature `model.sig` is; none where that is an age file too.
    pub signer: Option<KeyId>,
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
        None => some_model_signature(&sealed)?,
    };
    let partial = files::partial_name(folder);
    // Not `create_dir_all`: what an interrupted export left there would be exported too.
    std::fs::create_dir(&partial).map_err(|source| SealingError::Write { path: partial.clone(), source })?;
    let files = sealed.model_files(signature.as_ref());
    let written = write_folder(&files, &partial);
    let placed = written.and_then(|()| {
        let in_context = |source| SealingError::Write { path: folder.to_owned(), source };
        std::fs::rename(&partial, folder).map_err(in_context)?;
        let is_signature = |name: &str| name.trim_end_matches(".age") == SIGNATURE_FILE;
        let files = files.iter().filter(|file| !is_signature(&file.path));
        let files = files.map(|file| PathBuf::from(&*file.path)).collect();
        let manifest = sealed.unverified_manifest();
        let signer = signature.as_ref().map(Attestation::key);
        Ok(Exported { manifest: manifest.digest(), files, encrypted: manifest.is_encrypted(), signer })
    });
    placed.inspect_err(|_| {
        // The error that is reported is the one that stopped the export; a leftover is only untidy.
        let _ = std::fs::remove_dir_all(&partial);
    })
}

fn write_folder(files: &[PlacedFile<'_>], folder: &Path) -> Result<(), SealingError> {
    let progress = Progress::of_bytes(files.iter().map(|file| file.size).sum(), "exporting");
    for file in files {
        // Relative and without `..`, so this stays below the folder.
        let path = folder.join(&*file.path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|source| SealingError::Write { path: parent.to_owned(), source })?;
        files::write_new(&path, |writer| {
            let copied = file.copy_to(&mut progress.counting(writer));
            copied.map_err(|error| SealingError::while_writing(&path, error))
        })?;
    }
    Ok(())
}

/// Without a trust root one signature is as good as another: it is that of the smallest key id, so that it is the same
/// one each time. That of an encrypted bundle is among its layers.
fn some_model_signature(sealed: &SealedBundle) -> Result<Option<Attestation>, SealingError> {
    if sealed.unverified_manifest().is_encrypted() {
        return Ok(None);
    }
    let attestations = sealed.unverified_attestations().iter();
    let signatures = attestations.filter(|attestation| attestation.predicate() == Predicate::ModelSigning);
    let chosen = signatures.min_by_key(|attestation| attestation.key());
    chosen.cloned().map(Some).ok_or(SealingError::NoModelSignature)
}
