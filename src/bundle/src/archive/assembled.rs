//! A bundle that does not lie in one file: its parts, each opened by somebody, presented as the one canonical file.
//!
//! Manifest, attestations and config give every byte of the file but the contents of the layers, so the file need not
//! exist: who reads at an offset gets a derived byte or one of a layer. The line from opening to loading cannot tell the
//! difference, and there is no second one.

use std::io;
use std::sync::Arc;

use super::layout::{Layout, Piece};
use super::{Parts, check_length};
use crate::digest::Digest;
use crate::error::BundleError;
use crate::manifest::check_limit;
use crate::source::{Source, read_exact_at};

/// The canonical file of a bundle whose parts lie apart.
pub struct Assembled {
    stretches: Vec<Stretch>,
    length: u64,
}

struct Stretch {
    start: u64,
    length: u64,
    content: Arc<dyn Source>,
}

impl Assembled {
    /// Puts the parts together. `layers` are the layers' contents in the order of
    /// [`Manifest::layers`](crate::Manifest::layers).
    ///
    /// # Errors
    /// What `Layout::derive` refuses, and [`BundleError::Disagreement`] when a layer has another length than the manifest
    /// says. Contents are not looked at; verifying does that.
    ///
    /// # Panics
    /// If there is not one source for each layer.
    pub fn new(parts: &Parts, layers: &[Arc<dyn Source>]) -> Result<Self, BundleError> {
        let described = parts.manifest.layers();
        assert_eq!(layers.len(), described.len(), "one source for each layer");
        for (layer, source) in described.iter().zip(layers) {
            check_length(layer, &**source)?;
        }
        let layout = Layout::derive(&parts.manifest, &parts.config, &parts.attestations)?;
        let stretches = layout.form().pieces.iter().map(|piece| match piece {
            Piece::Fixed { offset, bytes, .. } => {
                Stretch { start: *offset, length: bytes.len() as u64, content: Arc::new(bytes.clone()) }
            }
            Piece::Layer { index } => Stretch {
                start: layout.layer_offset(*index),
                length: described[*index].size,
                content: Arc::clone(&layers[*index]),
            },
        });
        Ok(Self { stretches: stretches.collect(), length: layout.form().length })
    }
}

impl Source for Assembled {
    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let after = self.stretches.partition_point(|stretch| stretch.start + stretch.length <= offset);
        let Some(stretch) = self.stretches.get(after) else { return Ok(0) };
        let within = offset - stretch.start;
        let count = usize::try_from(stretch.length - within).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        stretch.content.read_at(&mut buffer[..count], within)
    }
}

/// Reads a small blob whole and holds it against the digest that it was found by.
///
/// # Errors
/// [`BundleError::TooLarge`] before anything is read, [`BundleError::DigestMismatch`] and [`BundleError::Io`].
pub fn read_blob(source: &dyn Source, digest: Digest, what: &str, limit: u64) -> Result<Vec<u8>, BundleError> {
    let length = source.length().map_err(|source| BundleError::Io { what: what.to_owned(), source })?;
    check_limit(&format!("the length in bytes of {what}"), length, limit)?;
    let mut bytes = vec![0; usize::try_from(length).expect("the limit fits")];
    read_exact_at(source, &mut bytes, 0, what)?;
    let found = Digest::of(&bytes);
    if found != digest {
        return Err(BundleError::DigestMismatch { what: what.to_owned(), found, expected: digest });
    }
    Ok(bytes)
}
