//! A thin bundle: a bundle without the layers that an older one has, for links over which every byte is carried by hand.
//!
//! It is no bundle and cannot be mistaken for one, because it begins with another name. It says which bundle it completes
//! to and from which base it was made; with the layers that it lacks it gives the whole bundle's parts, which then take
//! the same way as any others. Like the whole, it has one form (FORMAT.md §3.5): all is derived from what is free.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::layout::{Builder, Form, Layout, Piece, in_canonical_order};
use super::read::Walker;
use super::{Parts, step_06_compare_with_layout, write_all};
use crate::attestation::Attestation;
use crate::digest::Digest;
use crate::error::BundleError;
use crate::json;
use crate::limits;
use crate::manifest::{Manifest, check_limit, wrong_field};
use crate::names::{BundleName, BundleVersion};
use crate::sealed::SealedBundle;
use crate::source::Source;

/// The name of the first entry, which no whole bundle begins with.
const HEADER: &str = "thin-bundle.json";
/// What a file begins with that is a thin bundle.
pub(super) const FIRST_BYTES: &[u8] = b"thin-bundle.json\0";
/// The version of the thin form.
const FORMAT: u32 = 1;

/// The bundle that a thin one was made against. CAUTION: unverified, a hint to find the layers by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Its name.
    pub name: BundleName,
    /// Its version.
    pub version: BundleVersion,
}

/// The first entry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    /// In canonical order.
    attestations: Vec<Digest>,
    base: Base,
    /// Each once, in the order of the manifest.
    carried: Vec<Digest>,
    /// The digest of the whole bundle's `index.json`.
    content: Digest,
    format: u32,
}

/// Where the layers lie that a thin bundle carries: offset and length of each.
type Carried = HashMap<Digest, (u64, u64)>;

/// An opened thin bundle; nothing in it is trusted yet.
pub struct ThinBundle {
    source: Arc<dyn Source>,
    parts: Parts,
    base: Base,
    carried: Carried,
}

impl ThinBundle {
    /// Whether this file begins as a thin bundle does.
    ///
    /// # Errors
    /// [`BundleError::Io`].
    pub fn is_one(source: &dyn Source) -> Result<bool, BundleError> {
        Walker::new(source, measure(source)?).begins_with(FIRST_BYTES)
    }

    /// Opens a thin bundle, reading everything but the layers' contents within the format's limits.
    ///
    /// # Errors
    /// [`BundleError`] when it differs in any byte from its canonical form.
    pub fn open(source: impl Source + 'static) -> Result<Self, BundleError> {
        let length = measure(&source)?;
        let mut walker = Walker::new(&source, length);
        let header: Header = json::parse_canonical(HEADER, &walker.named(HEADER, limits::MAX_INDEX_BYTES)?)?;
        if header.format != FORMAT {
            let (found, expected) = (header.format.to_string(), FORMAT.to_string());
            return Err(wrong_field(HEADER, "format", &found, &expected));
        }
        let manifest = Manifest::parse(walker.blob("the model manifest", limits::MAX_MANIFEST_BYTES)?)?;
        let config = walker.blob("the model config", limits::MAX_CONFIG_BYTES)?;
        let count = header.attestations.len();
        check_limit("the number of attestations", count as u64, limits::MAX_ATTESTATIONS as u64)?;
        let mut attestations = Vec::with_capacity(count);
        let mut total = 0u64;
        for number in 1..=count {
            let bytes = walker.blob("an attestation", limits::MAX_ATTESTATION_BYTES)?;
            total += bytes.len() as u64;
            check_limit("the length in bytes of all attestations", total, limits::MAX_ATTESTATIONS_TOTAL_BYTES)?;
            attestations.push(Attestation::parse(&format!("attestation {number}"), bytes)?);
        }
        let parts = Parts { manifest, config, attestations };
        let named: HashSet<Digest> = header.carried.iter().copied().collect();
        let (form, carried) = derive(&parts, &header.base, |digest| named.contains(&digest))?;
        step_06_compare_with_layout(&source, length, &form)?;
        Ok(Self { source: Arc::new(source), parts, base: header.base, carried })
    }

    /// The whole bundle's parts.
    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The bundle that has the layers which this one lacks.
    #[must_use]
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// The content of a layer, if this file carries it.
    #[must_use]
    pub fn layer(&self, digest: Digest) -> Option<Arc<dyn Source>> {
        let (start, length) = *self.carried.get(&digest)?;
        Some(Arc::new(Section { source: Arc::clone(&self.source), start, length }))
    }
}

/// Writes the thin bundle that makes `bundle` from `base`, and returns how many bytes of layers it carries. The same two
/// bundles give the same bytes.
///
/// # Errors
/// What reading the bundle or writing refuses.
pub fn write_thin(base: &SealedBundle, bundle: &SealedBundle, out: &mut dyn Write) -> Result<u64, BundleError> {
    let held: HashSet<Digest> = base.manifest.layers().iter().map(|layer| layer.digest).collect();
    let descriptor = &base.config.descriptor;
    let named =
        Base { manifest: base.manifest.digest(), name: descriptor.name.clone(), version: descriptor.version.clone() };
    let parts = bundle.unverified_parts();
    let (form, carried) = derive(&parts, &named, |digest| !held.contains(&digest))?;
    for piece in &form.pieces {
        match piece {
            Piece::Fixed { bytes, .. } => write_all(out, bytes)?,
            Piece::Layer { index } => bundle.copy_layer(*index, out)?,
        }
    }
    Ok(carried.values().map(|(_, size)| size).sum())
}

/// The form of a thin bundle, and where the layers lie that it carries: those for which `is_carried`.
fn derive(parts: &Parts, base: &Base, is_carried: impl Fn(Digest) -> bool) -> Result<(Form, Carried), BundleError> {
    let whole = Layout::derive(&parts.manifest, &parts.config, &parts.attestations)?;
    let attestations = in_canonical_order(&parts.attestations)?;
    let mut seen = HashSet::new();
    let layers: Vec<_> = parts
        .manifest
        .layers()
        .iter()
        .enumerate()
        .filter(|(_, layer)| is_carried(layer.digest) && seen.insert(layer.digest))
        .collect();
    let header = Header {
        attestations: attestations.iter().map(|attestation| attestation.digest()).collect(),
        base: base.clone(),
        carried: layers.iter().map(|(_, layer)| layer.digest).collect(),
        content: whole.index_digest(),
        format: FORMAT,
    };
    let mut builder = Builder::default();
    builder.file(HEADER, &json::canonical(&header), "`thin-bundle.json`");
    builder.blob(parts.manifest.bytes(), "the model manifest");
    builder.blob(&parts.config, "the model config");
    for attestation in attestations {
        builder.blob(attestation.bytes(), "an attestation");
    }
    let carried = layers
        .into_iter()
        .map(|(index, layer)| (layer.digest, (builder.layer(index, layer.digest, layer.size), layer.size)))
        .collect();
    Ok((builder.end(), carried))
}

fn measure(source: &dyn Source) -> Result<u64, BundleError> {
    source.length().map_err(|source| BundleError::Io { what: "the thin bundle's length".to_owned(), source })
}

/// A stretch of another source.
struct Section {
    source: Arc<dyn Source>,
    start: u64,
    length: u64,
}

impl Source for Section {
    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.length.saturating_sub(offset);
        let count = usize::try_from(rest).map_or(buffer.len(), |rest| rest.min(buffer.len()));
        self.source.read_at(&mut buffer[..count], self.start + offset)
    }
}
