//! The `.bundle` file: a tar of an OCI image layout, written and read in one canonical form.
//!
//! ```text
//! oci-layout                  fixed text
//! index.json                  follows from the manifest and the attestations
//! blobs/sha256/…              the model manifest
//! blobs/sha256/…              index of model and attestations (`bundle`), for `skopeo copy --all`
//! blobs/sha256/…              index of the attestations (`sha256-<manifest>`), the referrers fallback tag
//! blobs/sha256/…  (pairs)     each attestation: the manifest that attaches it, then the Sigstore bundle
//! blobs/sha256/44136f…        `{}`, the attaching manifests' config
//! blobs/sha256/…              the ModelPack config
//! PaxHeaders/… blobs/sha256/… each layer, padded so that its data starts at a multiple of 4096; weights last
//! 1024 zero bytes             end of archive
//! ```
//!
//! Writer and reader share one function, `Layout::derive`: the reader finds the few pieces that are free (manifest,
//! attestations, config), derives every other byte from them, and compares. So no byte of a file is free to differ.
//!
//! For the same reason a bundle need not lie in one file: [`Assembled`] presents the canonical file of parts that lie
//! apart, in a store or in an OCI layout that [`gather()`] reads, and [`ThinBundle`] is a file that lacks the layers which
//! an older bundle has.

mod assembled;
mod gather;
mod index;
mod layout;
mod placed;
mod read;
mod tar;
mod thin;

pub use assembled::{Assembled, read_blob};
pub use gather::gather;
pub use placed::{PlacedFile, SIGNATURE_FILE};
pub use read::Parts;
pub use thin::{Base, ThinBundle, write_thin};

pub(crate) use layout::{Layout, Piece};
pub(crate) use read::{read_parts, step_06_compare_with_layout};

use std::io::Write;

use crate::attestation::Attestation;
use crate::digest::{Digest, Hasher};
use crate::error::BundleError;
use crate::manifest::{Layer, Manifest};
use crate::source::{Source, read_exact_at};

/// One regular file of the archive.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// Everything that a bundle is made of. All other bytes of the file follow from it.
pub struct Contents<'a> {
    /// The model manifest.
    pub manifest: &'a Manifest,
    /// The ModelPack config's bytes, whose digest the manifest names.
    pub config: &'a [u8],
    /// The attestations in any order; they are written in canonical order.
    pub attestations: &'a [Attestation],
    /// The files' contents, in the order of [`Manifest::layers`].
    pub layers: &'a [&'a dyn Source],
}

/// Writes the canonical `.bundle` file. The same contents give the same bytes.
///
/// Each layer is read once and hashed on the way; the result is complete only if this returns `Ok`.
///
/// # Errors
/// [`BundleError::DigestMismatch`] or [`BundleError::Disagreement`] when a layer or the config is not what the manifest
/// names, [`BundleError::Io`] when reading fails, [`BundleError::Write`] when writing does, and what the limits refuse.
pub fn write(contents: &Contents<'_>, out: &mut dyn Write) -> Result<(), BundleError> {
    if contents.layers.len() != contents.manifest.layers().len() {
        return Err(BundleError::Disagreement {
            what: "the number of layers".to_owned(),
            left_name: "the manifest",
            left: contents.manifest.layers().len().to_string(),
            right_name: "the writer's caller",
            right: contents.layers.len().to_string(),
        });
    }
    let layout = Layout::derive(contents.manifest, contents.config, contents.attestations)?;
    for piece in &layout.form().pieces {
        match piece {
            Piece::Fixed { bytes, .. } => write_all(out, bytes)?,
            Piece::Layer { index, .. } => {
                write_layer(&contents.manifest.layers()[*index], contents.layers[*index], out)?;
            }
        }
    }
    Ok(())
}

/// Writes one layer from a file of its own.
fn write_layer(layer: &Layer, source: &dyn Source, out: &mut dyn Write) -> Result<(), BundleError> {
    check_length(layer, source)?;
    copy_checked(layer.path.as_str(), layer.digest, layer.size, source, 0, out)
}

/// A layer's own file has the length that the manifest gives.
fn check_length(layer: &Layer, source: &dyn Source) -> Result<(), BundleError> {
    let length = source.length().map_err(|source| BundleError::Io { what: layer.path.to_string(), source })?;
    if length != layer.size {
        return Err(BundleError::Disagreement {
            what: format!("the length in bytes of `{}`", layer.path),
            left_name: "the manifest",
            left: layer.size.to_string(),
            right_name: "the file",
            right: length.to_string(),
        });
    }
    Ok(())
}

/// Copies the `size` bytes that start at `start` and are called `what`, and checks their digest on the way.
pub(crate) fn copy_checked(
    what: &str,
    expected: Digest,
    size: u64,
    source: &dyn Source,
    start: u64,
    out: &mut dyn Write,
) -> Result<(), BundleError> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; usize::try_from(size).map_or(COPY_BYTES, |size| size.min(COPY_BYTES))];
    let mut copied = 0;
    while copied < size {
        let count = usize::try_from(size - copied).map_or(COPY_BYTES, |rest| rest.min(COPY_BYTES));
        read_exact_at(source, &mut buffer[..count], start + copied, what)?;
        hasher.update(&buffer[..count]);
        write_all(out, &buffer[..count])?;
        copied += count as u64;
    }
    let found = hasher.finish();
    if found != expected {
        return Err(BundleError::DigestMismatch { what: what.to_owned(), found, expected });
    }
    Ok(())
}

/// How much is copied at once.
const COPY_BYTES: usize = 1 << 20;

fn write_all(out: &mut dyn Write, bytes: &[u8]) -> Result<(), BundleError> {
    out.write_all(bytes).map_err(|source| BundleError::Write { source })
}
