//! A bundle as a folder of files: the OCI layout that skopeo carries, or the plain model that OpenSSF's client checks.
//!
//! Which files there are, under which names and with which contents, is said here once; who writes the folder is the
//! caller, because this crate opens no path.

use std::borrow::Cow;
use std::io::Write;

use super::{Piece, copy_checked, write_all};
use crate::attestation::Attestation;
use crate::digest::Digest;
use crate::error::BundleError;
use crate::names::BundlePath;
use crate::sealed::SealedBundle;

/// The name of the model signing attestation beside the model's files, as OpenSSF's client expects it. No file of a
/// bundle can have it.
pub const SIGNATURE_FILE: &str = "model.sig";

/// One file of an exported folder.
pub struct PlacedFile<'a> {
    /// Its path in the folder: relative, without `..`.
    pub path: Cow<'a, str>,
    /// Its length in bytes.
    pub size: u64,
    digest: Digest,
    content: Content<'a>,
}

enum Content<'a> {
    /// So far into the bundle's own file.
    InBundle(&'a SealedBundle, u64),
    /// In memory.
    Bytes(&'a [u8]),
}

impl PlacedFile<'_> {
    /// Copies the file's content, and checks its digest on the way.
    ///
    /// # Errors
    /// [`BundleError::DigestMismatch`] when the bundle's file holds something else by now; [`BundleError::Io`] and
    /// [`BundleError::Write`].
    pub fn copy_to(&self, out: &mut dyn Write) -> Result<(), BundleError> {
        match self.content {
            Content::InBundle(bundle, offset) => {
                copy_checked(&self.path, self.digest, self.size, &*bundle.source, offset, out)
            }
            Content::Bytes(bytes) => write_all(out, bytes),
        }
    }
}

impl SealedBundle {
    /// The files of the OCI layout that this bundle is an archive of.
    #[must_use]
    pub fn layout_files(&self) -> Vec<PlacedFile<'_>> {
        let entries = &self.layout.form().entries;
        let placed = entries.iter().map(|entry| PlacedFile {
            path: Cow::from(entry.name.as_str()),
            size: entry.size,
            digest: entry.digest,
            content: Content::InBundle(self, entry.offset),
        });
        placed.collect()
    }

    /// The model's files under their own names, in the manifest's order, and after them `signature` as [`SIGNATURE_FILE`].
    /// Those of an encrypted bundle stay age files and are called so; the signature is one of them, and there is no other.
    #[must_use]
    pub fn model_files<'a>(&'a self, signature: Option<&'a Attestation>) -> Vec<PlacedFile<'a>> {
        let name = |path: &'a BundlePath| match self.manifest.is_encrypted() {
            true => Cow::from(format!("{path}.age")),
            false => Cow::from(path.as_str()),
        };
        let layers = self.manifest.layers().iter().enumerate().map(|(index, layer)| PlacedFile {
            path: name(&layer.path),
            size: layer.size,
            digest: layer.digest,
            content: Content::InBundle(self, self.layout.layer_offset(index)),
        });
        let signature = signature.filter(|_| !self.manifest.is_encrypted()).map(|signature| PlacedFile {
            path: Cow::from(SIGNATURE_FILE),
            size: signature.bytes().len() as u64,
            digest: signature.digest(),
            content: Content::Bytes(signature.bytes()),
        });
        layers.chain(signature).collect()
    }

    /// Writes the bundle's one file, every layer checked against its digest on the way.
    ///
    /// # Errors
    /// As [`PlacedFile::copy_to`].
    pub fn copy_to(&self, out: &mut dyn Write) -> Result<(), BundleError> {
        for piece in &self.layout.form().pieces {
            match piece {
                Piece::Fixed { bytes, .. } => write_all(out, bytes)?,
                Piece::Layer { index } => self.copy_layer(*index, out)?,
            }
        }
        Ok(())
    }

    /// The length in bytes of the bundle's one file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.layout.form().length
    }
}
