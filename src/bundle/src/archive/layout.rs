//! Where every byte of a bundle lies and what it is, derived from the pieces that are free.

use std::collections::HashMap;

use super::{Entry, index, tar};
use crate::attestation::Attestation;
use crate::digest::Digest;
use crate::error::BundleError;
use crate::limits;
use crate::manifest::{Manifest, check_limit};

/// The canonical form of one bundle.
#[derive(Clone)]
pub(crate) struct Layout {
    form: Form,
    layer_offsets: Vec<u64>,
    index_digest: Digest,
}

/// Every byte of a file, of which only the layers' contents are not known yet.
#[derive(Clone)]
pub(crate) struct Form {
    pub(crate) pieces: Vec<Piece>,
    /// The regular files in it, which are what another tool would unpack.
    pub(crate) entries: Vec<Placed>,
    pub(crate) length: u64,
}

/// One regular file of the archive and where its content lies.
#[derive(Clone)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) offset: u64,
}

/// A stretch of the file.
#[derive(Clone)]
pub(crate) enum Piece {
    /// Bytes that follow from manifest, attestations and config.
    Fixed {
        /// Offset in the file.
        offset: u64,
        /// What the bytes are, for messages.
        what: &'static str,
        /// The bytes themselves.
        bytes: Vec<u8>,
    },
    /// The content of a layer, which its digest decides.
    Layer {
        /// The first layer of the manifest that has this content.
        index: usize,
    },
}

impl Layout {
    /// Derives the canonical form.
    ///
    /// # Errors
    /// When the config is not the one that the manifest names, an attestation occurs twice, or a limit is passed.
    pub(crate) fn derive(
        manifest: &Manifest,
        config: &[u8],
        attestations: &[Attestation],
    ) -> Result<Self, BundleError> {
        check_config(manifest, config)?;
        let attestations = in_canonical_order(attestations)?;
        let derived = index::derive(manifest, &attestations);

        let mut builder = Builder::default();
        builder.file("oci-layout", index::OCI_LAYOUT, "`oci-layout`");
        builder.file("index.json", &derived.index, "`index.json`");
        builder.blob(manifest.bytes(), "the model manifest");
        builder.blob(&derived.bundle_index, "the index `bundle`");
        builder.blob(&derived.referrers_index, "the index of attestations");
        for (attestation, referrer) in attestations.iter().zip(&derived.referrers) {
            builder.blob(referrer, "the manifest of an attestation");
            builder.blob(attestation.bytes(), "an attestation");
        }
        builder.blob(index::EMPTY_CONFIG, "the empty config");
        builder.blob(config, "the model config");
        let mut layer_offsets = Vec::with_capacity(manifest.layers().len());
        for (index, layer) in manifest.layers().iter().enumerate() {
            layer_offsets.push(builder.layer(index, layer.digest, layer.size));
        }
        let index_digest = Digest::of(&derived.index);
        Ok(Self { form: builder.end(), layer_offsets, index_digest })
    }

    /// Every byte of the file.
    pub(crate) fn form(&self) -> &Form {
        &self.form
    }

    /// Where the data of the manifest's layer `index` starts.
    pub(crate) fn layer_offset(&self, index: usize) -> u64 {
        self.layer_offsets[index]
    }

    /// The digest of `index.json`, which names manifest and attestations: all other bytes follow from these.
    pub(crate) fn index_digest(&self) -> Digest {
        self.index_digest
    }
}

fn check_config(manifest: &Manifest, config: &[u8]) -> Result<(), BundleError> {
    let found = Digest::of(config);
    let expected = manifest.config_digest();
    if found != expected {
        return Err(BundleError::DigestMismatch { what: "the model config".to_owned(), found, expected });
    }
    if config.len() as u64 != manifest.config_size() {
        return Err(BundleError::Disagreement {
            what: "the length in bytes of the model config".to_owned(),
            left_name: "the manifest",
            left: manifest.config_size().to_string(),
            right_name: "the file",
            right: config.len().to_string(),
        });
    }
    Ok(())
}

/// Sorts by statement (release, model signing, cosign) and then by digest.
pub(super) fn in_canonical_order(attestations: &[Attestation]) -> Result<Vec<&Attestation>, BundleError> {
    check_limit("the number of attestations", attestations.len() as u64, limits::MAX_ATTESTATIONS as u64)?;
    let mut total = 0u64;
    for attestation in attestations {
        let length = attestation.bytes().len() as u64;
        check_limit("an attestation's length in bytes", length, limits::MAX_ATTESTATION_BYTES)?;
        total += length;
    }
    check_limit("the length in bytes of all attestations", total, limits::MAX_ATTESTATIONS_TOTAL_BYTES)?;
    let mut sorted: Vec<&Attestation> = attestations.iter().collect();
    sorted.sort_by_key(|attestation| (attestation.predicate(), attestation.digest()));
    for pair in sorted.windows(2) {
        if pair[0].digest() == pair[1].digest() {
            return Err(BundleError::RepeatedAttestation { digest: pair[0].digest() });
        }
    }
    Ok(sorted)
}

/// Lays stretch after stretch.
#[derive(Default)]
pub(super) struct Builder {
    pieces: Vec<Piece>,
    entries: Vec<Placed>,
    offset: u64,
    /// Where each blob's data lies. A blob that occurs again is not written again.
    blobs: HashMap<Digest, u64>,
}

impl Builder {
    fn fixed(&mut self, bytes: &[u8], what: &'static str) {
        if bytes.is_empty() {
            return;
        }
        self.pieces.push(Piece::Fixed { offset: self.offset, what, bytes: bytes.to_vec() });
        self.offset += bytes.len() as u64;
    }

    pub(super) fn file(&mut self, name: &str, content: &[u8], what: &'static str) {
        let entry = Entry { name: name.to_owned(), size: content.len() as u64 };
        self.fixed(&tar::file_header(&entry), what);
        self.place(&entry, Digest::of(content));
        self.fixed(content, what);
        self.pad(entry.size);
    }

    pub(super) fn blob(&mut self, content: &[u8], what: &'static str) {
        let digest = Digest::of(content);
        if self.blobs.contains_key(&digest) {
            return;
        }
        let name = blob_name(digest);
        self.file(&name, content, what);
        self.blobs.insert(digest, self.offset - tar::padding_after(content.len() as u64) - content.len() as u64);
    }

    /// Lays a layer and says where its data starts.
    pub(super) fn layer(&mut self, index: usize, digest: Digest, size: u64) -> u64 {
        if let Some(&offset) = self.blobs.get(&digest) {
            return offset;
        }
        let entry = Entry { name: blob_name(digest), size };
        self.fixed(&tar::padding_header(self.offset, &entry), "the PAX header of a layer");
        self.fixed(&tar::file_header(&entry), "the tar header of a layer");
        let offset = self.offset;
        self.place(&entry, digest);
        self.pieces.push(Piece::Layer { index });
        self.offset += size;
        self.pad(size);
        self.blobs.insert(digest, offset);
        offset
    }

    pub(super) fn end(mut self) -> Form {
        self.fixed(&[0; 2 * tar::BLOCK as usize], "the end of the archive");
        Form { pieces: self.pieces, entries: self.entries, length: self.offset }
    }

    /// The content of this entry begins here.
    fn place(&mut self, entry: &Entry, digest: Digest) {
        let Entry { name, size } = entry;
        self.entries.push(Placed { name: name.clone(), digest, size: *size, offset: self.offset });
    }

    fn pad(&mut self, size: u64) {
        let padding = [0; tar::BLOCK as usize];
        let count = usize::try_from(tar::padding_after(size)).expect("below 512");
        self.fixed(&padding[..count], "the padding after an entry");
    }
}

pub(super) fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}
