//! Encrypts a packed bundle to its recipients: each layer becomes an age v1 file, and the model signing statement, whose
//! digests of small files could be guessed, becomes a layer among them.
//!
//! ```text
//! PackedBundle ─sign what is inside─► model.sig ─encrypt every layer─► digests of the age files ─► Manifest, ReleaseStatement
//! ```
//!
//! Nothing is written here. A layer is encrypted while it is read, the same way each time: once for its digest, once for
//! the bundle. So no plaintext and no second copy lies anywhere.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ampoule_bundle::age::{AgeError, Envelope, Recipient};
use ampoule_bundle::statement::{Encryption, WeightHeaderDigest};
use ampoule_bundle::{
    BundlePath, Digest, Hasher, Layer, LayerKind, Manifest, ModelConfig, ModelDescriptor, ModelProperties,
    OmsStatement, ReleaseStatement, Source,
};

use crate::error::SealingError;
use crate::keys::SigningKey;
use crate::progress::Progress;
use crate::seal::{self, PackedBundle, attest};

impl PackedBundle {
    /// The same bundle, encrypted to `recipients`, with its model signing statement signed by `key` inside.
    ///
    /// # Errors
    /// When a file changed since it was packed, or the key cannot sign.
    pub fn encrypt(self, recipients: &[Recipient], key: &SigningKey) -> Result<PackedBundle, SealingError> {
        let inside = OmsStatement::about(&self.release.name, self.manifest.layers());
        let progress = Progress::of_bytes(self.total_bytes(), "encrypting");
        let mut assembly = Assembly::default();
        for (layer, content) in self.manifest.layers().iter().zip(self.contents) {
            let header = self.release.weights.iter().find(|weight| weight.path == layer.path);
            let header_length = header.map(|header| header.header_length);
            let plaintext = Plaintext { path: &layer.path, kind: layer.kind, content, header_length };
            let digest = assembly.encrypt(plaintext, recipients, &progress)?;
            if digest != layer.digest {
                return Err(SealingError::ChangedMeanwhile { path: layer.path.to_string() });
            }
        }
        assembly.encrypt_model_signature(&inside.to_payload(), recipients, key)?;
        let bundle = assembly.into_bundle(self.release, encryption(recipients, inside.subject))?;
        Ok(PackedBundle { left_out: self.left_out, notes: self.notes, ..bundle })
    }
}

/// What the release statement says about the encryption.
pub(crate) fn encryption(recipients: &[Recipient], plaintext_root: Digest) -> Encryption {
    let recipients: BTreeSet<String> = recipients.iter().map(ToString::to_string).collect();
    Encryption { scheme: Encryption::AGE.to_owned(), recipients, plaintext_root }
}

/// A file that is to be encrypted.
pub(crate) struct Plaintext<'a> {
    pub(crate) path: &'a BundlePath,
    pub(crate) kind: LayerKind,
    pub(crate) content: Arc<dyn Source>,
    /// How long the header of a weight file is.
    pub(crate) header_length: Option<u64>,
}

/// The layers of an encrypted bundle, as far as they are made.
#[derive(Default)]
pub(crate) struct Assembly {
    layers: Vec<Layer>,
    contents: Vec<(BundlePath, Arc<dyn Source>)>,
    weights: Vec<WeightHeaderDigest>,
}

impl Assembly {
    /// Adds a file as an age file of its own, and returns the digest of its plaintext.
    pub(crate) fn encrypt(
        &mut self,
        Plaintext { path, kind, content, header_length }: Plaintext<'_>,
        recipients: &[Recipient],
        progress: &Progress,
    ) -> Result<Digest, SealingError> {
        let in_context = |source| SealingError::Read { path: PathBuf::from(path.as_str()), source };
        let envelope = Envelope::new(recipients).map_err(|defect| encrypting(path, defect))?;
        let length = content.length().map_err(in_context)?;
        let prefix = header_length.map_or(0, |header| envelope.prefix_bytes(header, length));
        let (mut inside, mut outside, mut start) = (Hasher::new(), Hasher::new(), Vec::new());
        let read = envelope.each_chunk(&*content, |plain, sealed| {
            inside.update(plain);
            outside.update(sealed);
            if (start.len() as u64) < prefix {
                start.extend_from_slice(sealed);
            }
            progress.advance(plain.len() as u64);
        });
        read.map_err(in_context)?;
        self.weights.extend(header_length.map(|_| WeightHeaderDigest::new(path.clone(), &start)));
        let (digest, size) = (outside.finish(), envelope.file_bytes(length));
        self.add(Layer { path: path.clone(), kind, digest, size }, Arc::new(EncryptedFile { content, envelope }));
        Ok(inside.finish())
    }

    /// Adds the model signing attestation.
    pub(crate) fn encrypt_model_signature(
        &mut self,
        payload: &[u8],
        recipients: &[Recipient],
        key: &SigningKey,
    ) -> Result<(), SealingError> {
        let (path, content) = (BundlePath::model_signature(), attest(payload, key)?.bytes().to_vec());
        let progress = Progress::of_bytes(content.len() as u64, "encrypting");
        let kind = LayerKind::ModelSignature;
        let plaintext = Plaintext { path: &path, kind, content: Arc::new(content), header_length: None };
        self.encrypt(plaintext, recipients, &progress).map(drop)
    }

    /// Adds an age file that is there already; of a weight file, `start` is the part that holds its header.
    pub(crate) fn add_file(&mut self, layer: Layer, file: Arc<dyn Source>, start: Option<&[u8]>) {
        self.weights.extend(start.map(|start| WeightHeaderDigest::new(layer.path.clone(), start)));
        self.add(layer, file);
    }

    fn add(&mut self, layer: Layer, file: Arc<dyn Source>) {
        self.contents.push((layer.path.clone(), file));
        self.layers.push(layer);
    }

    /// The bundle of these layers. Its config says nothing of the model but name and version, because everybody can read it.
    pub(crate) fn into_bundle(
        mut self,
        release: ReleaseStatement,
        encryption: Encryption,
    ) -> Result<PackedBundle, SealingError> {
        let descriptor = ModelDescriptor::new(release.name.clone(), release.version.clone());
        let config = ModelConfig::new(descriptor, ModelProperties::default(), &self.layers).to_bytes();
        let manifest = Manifest::new(&config, self.layers)?;
        let contents = seal::in_manifest_order(&manifest, self.contents);
        self.weights.sort_by(|left, right| left.path.cmp(&right.path));
        let oms_root = OmsStatement::about(&release.name, manifest.layers()).subject;
        let release = ReleaseStatement { oms_root, weights: self.weights, encryption: Some(encryption), ..release };
        Ok(PackedBundle { manifest, config, release, contents, left_out: Vec::new(), notes: Vec::new() })
    }
}

pub(crate) fn encrypting(path: &BundlePath, source: AgeError) -> SealingError {
    SealingError::Encrypting { path: path.to_string(), source }
}

/// A layer that is encrypted while it is read.
struct EncryptedFile {
    content: Arc<dyn Source>,
    envelope: Envelope,
}

impl Source for EncryptedFile {
    fn length(&self) -> io::Result<u64> {
        self.envelope.around(&*self.content).length()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.envelope.around(&*self.content).read_at(buffer, offset)
    }
}
