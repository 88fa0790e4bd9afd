//! Seals a model: the straight line from a folder to a signed bundle.
//!
//! ```text
//! ModelSource (─quantise─►) ─lay out─► WeightLayout ─digest─► Layer* ─► ModelConfig ─► Manifest ─► ReleaseStatement   (pack)
//! PackedBundle ─sign three statements─► Attestation* ─► the canonical .bundle file ─► VerifiedBundle     (write)
//! ```
//!
//! Packing needs no key and is deterministic: the same files and the same request give the same manifest, byte for byte.
//! Only the signatures differ from run to run, because ECDSA draws a fresh nonce for each. What is encrypted besides (see
//! `encrypt`) differs in every byte.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_bundle::age::Recipient;
use ampoule_bundle::archive;
use ampoule_bundle::statement::{AdapterBinding, ExpiryPolicy, WeightHeaderDigest};
use ampoule_bundle::{
    Attestation, BundleName, BundlePath, BundleVersion, Channel, CosignStatement, Counter, Digest, Epoch, Layer,
    LayerKind, Manifest, ModelConfig, OmsStatement, PAYLOAD_TYPE, PublicKey, ReleaseStatement, SealedBundle, Source,
    Statement, TensorInfo, Timestamp, TrustRoot, pre_authentication_encoding,
};
use ampoule_inference::Recording;

use crate::content::Content;
use crate::contract::Contract;
use crate::conversion::{self, ConversionError, Quantization};
use crate::describe;
use crate::error::SealingError;
use crate::files;
use crate::finite::FiniteCheck;
use crate::keys::SigningKey;
use crate::progress::Progress;
use crate::source::{ModelSource, SmallFile, SmallFileKind};
use crate::trust;
use crate::weights::{self, WeightLayout};

/// Weights are cut into shards of at most this many bytes, so that they are hashed and read in parallel.
pub const SHARD_BYTES: u64 = 1 << 30;

/// What to seal, and what to say about it.
#[derive(Clone, Debug)]
pub struct SealRequest {
    /// A Hugging Face folder or a `.gguf` file.
    pub from: PathBuf,
    /// Files of the folder that stay outside.
    pub leave_out: Vec<String>,
    /// The bundle's name.
    pub name: BundleName,
    /// Its version.
    pub version: BundleVersion,
    /// Its monotonic number; higher than any released under this name and epoch before.
    pub counter: Counter,
    /// The key epoch of the counter.
    pub epoch: Epoch,
    /// The channel it is released on.
    pub channel: Channel,
    /// When the statement is made.
    pub issued_at: Timestamp,
    /// Not to be used before.
    pub not_before: Option<Timestamp>,
    /// Not to be used from then on.
    pub expires: Option<Timestamp>,
    /// What happens at `expires`.
    pub expiry_policy: ExpiryPolicy,
    /// The lowest trust root version that may accept this bundle.
    pub trust_root_version: u64,
    /// The lowest revocation list version that must be present; 0 asks for none.
    pub revocation_min: u64,
    /// Requirements, constraints and the other parts of the contract.
    pub contract: Contract,
    /// For an adapter: what it belongs to.
    pub adapter: Option<AdapterBinding>,
    /// Whether and how its matrices are quantised first.
    pub quantize: Option<Quantization>,
    /// How many of its answers to record for the sites to reproduce, if any.
    pub known_answers: Option<Recording>,
    /// Who can open the layers; nobody but these then. Empty leaves them plain.
    pub encrypt_to: Vec<Recipient>,
    /// Where weights are cut; [`SHARD_BYTES`] unless a test wants small shards.
    pub shard_bytes: u64,
}

/// A bundle that has everything but its signatures.
pub struct PackedBundle {
    pub(crate) manifest: Manifest,
    pub(crate) config: Vec<u8>,
    pub(crate) release: ReleaseStatement,
    /// In the manifest's order.
    pub(crate) contents: Vec<Arc<dyn Source>>,
    pub(crate) left_out: Vec<(String, &'static str)>,
    pub(crate) notes: Vec<String>,
}

/// Packs and signs `request` and writes the bundle to `out`.
///
/// # Errors
/// What [`PackedBundle::pack`] and [`PackedBundle::write`] report.
pub fn seal(request: &SealRequest, key: &SigningKey, out: &Path) -> Result<PackedBundle, SealingError> {
    let mut packed = PackedBundle::pack(request)?;
    if let Some(recording) = &request.known_answers {
        packed = packed.with_known_answers(recording, key)?;
    }
    if !request.encrypt_to.is_empty() {
        packed = packed.encrypt(&request.encrypt_to, key)?;
    }
    packed.write(&packed.sign(key)?, &trust::of_key(key)?, out)?;
    Ok(packed)
}

impl PackedBundle {
    /// Reads the model, checks its headers with the runtime's own parser, and derives manifest and release statement.
    ///
    /// # Errors
    /// Anything in the folder that cannot be sealed, by name; nothing is written.
    pub fn pack(request: &SealRequest) -> Result<PackedBundle, SealingError> {
        let mut source = ModelSource::survey(&request.from, &request.leave_out, &request.contract.files())?;
        let notes = match &request.quantize {
            None => Vec::new(),
            Some(_) if request.adapter.is_some() => return Err(ConversionError::OfAdapter.into()),
            Some(quantization) => conversion::convert(&mut source, quantization)?,
        };
        let layout = weights::lay_out(&source.weights, request.shard_bytes)?;
        let mut files = small_files(source.small_files)?;
        if let Some(index) = &layout.index {
            let path = BundlePath::try_from("model.safetensors.index.json").expect("a fixed, valid path");
            files.push((path, LayerKind::Config, Content { head: index.clone(), pieces: Vec::new() }));
        }
        let model = describe::model(request, &layout, &files);
        let header_digests = header_digests(&layout);
        let mut tensors = BTreeMap::new();
        for layer in layout.layers {
            // A base is put to the proof where it is served; an adapter would spoil a base that is sound.
            if request.adapter.is_some() {
                let mut ordered = layer.tensors;
                ordered.sort_by_key(|tensor| tensor.offset);
                tensors.insert(layer.path.clone(), ordered);
            }
            files.push((layer.path, LayerKind::Weight, layer.content));
        }

        let (layers, contents) = digest_all(files, &tensors)?;
        let config = ModelConfig::new(model.descriptor, model.properties, &layers).to_bytes();
        let manifest = Manifest::new(&config, layers)?;
        let contents = in_manifest_order(&manifest, contents);
        let oms_root = OmsStatement::about(&request.name, manifest.layers()).predicate.root();
        let release = release_statement(request, oms_root, header_digests);
        Ok(PackedBundle { manifest, config, release, contents, left_out: source.left_out, notes })
    }

    /// Signs the three statements with `key`; two of them where the third is encrypted among the layers.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn sign(&self, key: &SigningKey) -> Result<Vec<Attestation>, SealingError> {
        let manifest = self.manifest.digest();
        let cosign = Statement { subject_name: String::new(), subject: manifest, predicate: CosignStatement {} };
        let mut payloads = vec![self.release.clone().about(manifest).to_payload(), cosign.to_payload()];
        if !self.manifest.is_encrypted() {
            payloads.push(OmsStatement::about(&self.release.name, self.manifest.layers()).to_payload());
        }
        payloads.iter().map(|payload| attest(payload, key)).collect()
    }

    /// Writes the canonical bundle with these attestations; the file appears whole and verified, or not at all.
    ///
    /// # Errors
    /// When a weight file changed since it was packed, writing fails, or a runtime that pins `root` would refuse it.
    pub fn write(&self, attestations: &[Attestation], root: &TrustRoot, out: &Path) -> Result<(), SealingError> {
        let write = |writer: &mut BufWriter<File>| {
            let progress = Progress::of_bytes(self.total_bytes(), "writing");
            let metered: Vec<_> = self.contents.iter().map(|content| progress.metering(content)).collect();
            let layers: Vec<&dyn Source> = metered.iter().map(|layer| layer as &dyn Source).collect();
            let contents =
                archive::Contents { manifest: &self.manifest, config: &self.config, attestations, layers: &layers };
            archive::write(&contents, writer).map_err(|error| SealingError::while_writing(out, error))
        };
        files::write_checked(out, write, |file| check_written(file, root))
    }

    /// The manifest: its digest is the bundle's identity.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What the release statement says.
    pub fn release(&self) -> &ReleaseStatement {
        &self.release
    }

    /// Files of the folder that stayed outside, each with the reason.
    pub fn left_out(&self) -> &[(String, &'static str)] {
        &self.left_out
    }

    /// What the vendor must be told about tensors that were not quantised as was asked.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The length in bytes of all files together.
    pub fn total_bytes(&self) -> u64 {
        self.manifest.layers().iter().map(|layer| layer.size).sum()
    }
}

impl fmt::Debug for PackedBundle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("PackedBundle").field("release", &self.release).finish_non_exhaustive()
    }
}

/// Reads the file back as a runtime does. That hashes the weights once more, and it is worth it: whatever the format
/// refuses and packing overlooked is noticed here and not at a customer's.
pub(crate) fn check_written(file: File, root: &TrustRoot) -> Result<(), SealingError> {
    let check = || {
        let verified = SealedBundle::open(file)?.verify(root)?;
        let progress = Progress::of_bytes(verified.weight_bytes(), "verifying");
        verified.check_weights(&|bytes| progress.advance(bytes))
    };
    check().map_err(|source| SealingError::UnusableBundle(Box::new(source)))
}

/// Signs one statement's payload and wraps both as a Sigstore bundle.
///
/// # Errors
/// When the key cannot sign.
pub fn attest(payload: &[u8], key: &SigningKey) -> Result<Attestation, SealingError> {
    let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload))?;
    if !key.certificates().is_empty() {
        return Ok(Attestation::certified(payload, &signature, key.certificates())?);
    }
    let id = PublicKey::from_pem(key.public_pem())?.id();
    Ok(Attestation::new(payload, &signature, id)?)
}

type UnsealedFile = (BundlePath, LayerKind, Content);

fn small_files(source: Vec<SmallFile>) -> Result<Vec<UnsealedFile>, SealingError> {
    let take = |file: SmallFile| {
        if file.path.as_str().ends_with(".json") {
            let parsed = serde_json::from_slice::<serde::de::IgnoredAny>(&file.content);
            parsed.map_err(|source| SealingError::NotJson { path: file.from, source })?;
        }
        let kind = match file.kind {
            SmallFileKind::Configuration => LayerKind::Config,
            SmallFileKind::Documentation => LayerKind::Doc,
        };
        Ok((file.path, kind, Content { head: file.content, pieces: Vec::new() }))
    };
    source.into_iter().map(take).collect()
}

/// Contents by path, in the order in which they were read.
pub(crate) type Contents = Vec<(BundlePath, Arc<dyn Source>)>;

/// Digests all files; those weights whose `tensors` are given must be finite in the very bytes that are digested.
fn digest_all(
    files: Vec<UnsealedFile>,
    tensors: &BTreeMap<BundlePath, Vec<TensorInfo>>,
) -> Result<(Vec<Layer>, Contents), SealingError> {
    let total = files.iter().map(|(_, _, content)| content.length()).sum();
    let progress = Progress::of_bytes(total, "hashing");
    let mut layers = Vec::with_capacity(files.len());
    let mut contents: Contents = Vec::with_capacity(files.len());
    for (path, kind, content) in files {
        let mut check = FiniteCheck::of(tensors.get(&path).map_or(&[], Vec::as_slice));
        let (digest, size) = (content.digest(&progress, |bytes| check.update(bytes))?, content.length());
        if let Some(tensor) = check.finish() {
            return Err(SealingError::NotFinite { tensor: tensor.to_owned() });
        }
        layers.push(Layer { path: path.clone(), kind, digest, size });
        contents.push((path, Arc::new(content)));
    }
    Ok((layers, contents))
}

pub(crate) fn in_manifest_order(manifest: &Manifest, mut contents: Contents) -> Vec<Arc<dyn Source>> {
    let order = manifest.layers().iter().map(|layer| {
        let index = contents.iter().position(|(path, _)| *path == layer.path);
        contents.swap_remove(index.expect("the manifest was made of these files")).1
    });
    order.collect()
}

fn header_digests(layout: &WeightLayout) -> Vec<WeightHeaderDigest> {
    let mut digests: Vec<WeightHeaderDigest> =
        layout.layers.iter().map(|layer| WeightHeaderDigest::new(layer.path.clone(), &layer.header)).collect();
    digests.sort_by(|left, right| left.path.cmp(&right.path));
    digests
}

/// The version of this release.
pub(crate) fn own_version() -> semver::Version {
    semver::Version::parse(env!("CARGO_PKG_VERSION")).expect("cargo checks the version of a package")
}

fn release_statement(request: &SealRequest, oms_root: Digest, weights: Vec<WeightHeaderDigest>) -> ReleaseStatement {
    // A bundle asks for at least the release it was sealed with: older runtimes were never tried with it.
    let plain = ReleaseStatement::new(request.name.clone(), request.version.clone(), request.issued_at, own_version());
    let contract = request.contract.clone();
    ReleaseStatement {
        counter: request.counter,
        epoch: request.epoch,
        channel: request.channel.clone(),
        not_before: request.not_before,
        expires: request.expires,
        expiry_policy: request.expiry_policy,
        oms_root,
        weights,
        requires: contract.requires.unwrap_or_else(|| plain.requires.clone()),
        constraints: contract.constraints,
        settings_schema: contract.settings_schema,
        slo: contract.slo,
        known_answers: contract.known_answers,
        reference_profile: contract.reference_profile,
        adapter: request.adapter.clone(),
        trust_root_version: request.trust_root_version,
        revocation_min: request.revocation_min,
        ..plain
    }
}
