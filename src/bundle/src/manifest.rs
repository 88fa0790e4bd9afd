//! The ModelPack manifest: which files a bundle holds, in what order, by which digest.
//!
//! The manifest is what is signed (never the index), so it is read strictly: canonical JSON, no field that FORMAT.md does
//! not name, layers in the one canonical order.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::BundleError;
use crate::json;
use crate::limits;
use crate::names::BundlePath;

/// Media type of an OCI image manifest.
pub const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Artifact type of a ModelPack manifest.
pub const MODEL_ARTIFACT_TYPE: &str = "application/vnd.cncf.model.manifest.v1+json";
/// Media type of a ModelPack config.
pub const CONFIG_MEDIA_TYPE: &str = "application/vnd.cncf.model.config.v1+json";
/// Manifest annotation that holds the format version.
pub const FORMAT_ANNOTATION: &str = "dev.ampoule.bundle.format";

const FILEPATH_ANNOTATION: &str = "org.cncf.model.filepath";
const TITLE_ANNOTATION: &str = "org.opencontainers.image.title";

/// What a layer holds; decides its media type and its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerKind {
    /// Configuration, tokenizer, chat template: `application/vnd.cncf.model.weight.config.v1.raw`.
    Config,
    /// Documentation, licences, evaluation data: `application/vnd.cncf.model.doc.v1.raw`.
    Doc,
    /// Weights, safetensors or GGUF: `application/vnd.cncf.model.weight.v1.raw`.
    Weight,
    /// The model signing attestation of an encrypted bundle, which lists the digests of its plaintext and is therefore
    /// encrypted like the files. An encrypted bundle has exactly one, at `model.sig`; a plain one has none.
    ModelSignature,
}

impl LayerKind {
    const ALL: [Self; 4] = [Self::Config, Self::Doc, Self::Weight, Self::ModelSignature];

    /// The layer's media type, in a plain or in an encrypted bundle.
    #[must_use]
    pub fn media_type(self, encrypted: bool) -> &'static str {
        match (self, encrypted) {
            (Self::Config, false) => "application/vnd.cncf.model.weight.config.v1.raw",
            (Self::Config, true) => "application/vnd.cncf.model.weight.config.v1.raw+encrypted",
            (Self::Doc, false) => "application/vnd.cncf.model.doc.v1.raw",
            (Self::Doc, true) => "application/vnd.cncf.model.doc.v1.raw+encrypted",
            (Self::Weight, false) => "application/vnd.cncf.model.weight.v1.raw",
            (Self::Weight, true) => "application/vnd.cncf.model.weight.v1.raw+encrypted",
            (Self::ModelSignature, _) => "application/vnd.dev.sigstore.bundle.v0.3+json+encrypted",
        }
    }

    /// The kind of a layer with this media type, and whether it is encrypted.
    fn from_media_type(text: &str) -> Option<(Self, bool)> {
        let both = Self::ALL.into_iter().flat_map(|kind| [(kind, true), (kind, false)]);
        both.into_iter().find(|(kind, encrypted)| kind.media_type(*encrypted) == text)
    }
}

/// One file of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its path in the bundle.
    pub path: BundlePath,
    /// What it holds.
    pub kind: LayerKind,
    /// SHA-256 of its content, as it lies in the bundle: of an encrypted layer, that of the age file.
    pub digest: Digest,
    /// Its length in bytes, likewise.
    pub size: u64,
}

/// The manifest of a bundle: its config and its files in canonical order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    config_digest: Digest,
    config_size: u64,
    layers: Vec<Layer>,
    bytes: Vec<u8>,
}

impl Manifest {
    /// A manifest of `layers` (in any order) with the ModelPack config whose bytes are `config`. With a
    /// [`LayerKind::ModelSignature`] among them it is that of an encrypted bundle.
    ///
    /// # Errors
    /// As [`Manifest::parse`]: limits, colliding paths, contradictions.
    pub fn new(config: &[u8], mut layers: Vec<Layer>) -> Result<Self, BundleError> {
        layers.sort_by(|left, right| order_key(left).cmp(&order_key(right)));
        let encrypted = has_model_signature(&layers);
        let wire = WireManifest {
            annotations: BTreeMap::from([(FORMAT_ANNOTATION.to_owned(), limits::FORMAT_VERSION.to_string())]),
            artifact_type: MODEL_ARTIFACT_TYPE.to_owned(),
            config: Descriptor::new(CONFIG_MEDIA_TYPE, Digest::of(config), config.len() as u64),
            layers: layers.iter().map(|layer| layer_descriptor(layer, encrypted)).collect(),
            media_type: MANIFEST_MEDIA_TYPE.to_owned(),
            schema_version: 2,
        };
        Self::parse(json::canonical(&wire))
    }

    /// Reads a manifest from its canonical bytes.
    ///
    /// # Errors
    /// Any deviation from FORMAT.md §4; see [`BundleError`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BundleError> {
        check_limit("the manifest's length in bytes", bytes.len() as u64, limits::MAX_MANIFEST_BYTES)?;
        let tree = json::parse_value(DOCUMENT, &bytes)?;
        check_format(&tree)?;
        let wire: WireManifest = json::tree_to_canonical(DOCUMENT, &bytes, tree)?;
        let fixed = |field, found: &str, expected: &str| {
            if found == expected {
                return Ok(());
            }
            Err(wrong_field(DOCUMENT, field, found, expected))
        };
        fixed("mediaType", &wire.media_type, MANIFEST_MEDIA_TYPE)?;
        fixed("artifactType", &wire.artifact_type, MODEL_ARTIFACT_TYPE)?;
        fixed("schemaVersion", &wire.schema_version.to_string(), "2")?;
        if wire.annotations.len() != 1 {
            return Err(wrong_field(DOCUMENT, "annotations", "other annotations", FORMAT_ANNOTATION));
        }
        let config_bare = Descriptor::new(CONFIG_MEDIA_TYPE, wire.config.digest, wire.config.size);
        fixed("config", &wire.config.media_type, CONFIG_MEDIA_TYPE)?;
        if wire.config != config_bare {
            let expected = "digest, media type and size alone";
            return Err(wrong_field(DOCUMENT, "config", "a config with other members", expected));
        }
        check_limit("the config's length in bytes", wire.config.size, limits::MAX_CONFIG_BYTES)?;
        check_limit("the number of layers", wire.layers.len() as u64, limits::MAX_LAYERS as u64)?;
        let layers = wire.layers.into_iter().map(parse_layer).collect::<Result<Vec<_>, _>>()?;
        let layers = all_or_none_encrypted(layers)?;
        check_layers(&layers)?;
        Ok(Self { config_digest: wire.config.digest, config_size: wire.config.size, layers, bytes })
    }

    /// The manifest's canonical bytes: what is signed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of [`Manifest::bytes`]: the bundle's identity.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Digest of the ModelPack config.
    #[must_use]
    pub fn config_digest(&self) -> Digest {
        self.config_digest
    }

    /// Length in bytes of the ModelPack config.
    #[must_use]
    pub fn config_size(&self) -> u64 {
        self.config_size
    }

    /// The files in canonical order: sorted by path, weights after all others.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Whether the layers are encrypted: all of them are, or none.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        has_model_signature(&self.layers)
    }
}

fn has_model_signature(layers: &[Layer]) -> bool {
    layers.iter().any(|layer| layer.kind == LayerKind::ModelSignature)
}

const DOCUMENT: &str = "model manifest";

/// Small files first and weights last, so that authenticity is decided before the first weight byte.
pub(crate) fn order_key(layer: &Layer) -> (bool, &BundlePath) {
    (layer.kind == LayerKind::Weight, &layer.path)
}

/// Looks at the format version before all else, so that a later format is called that and not malformed.
fn check_format(tree: &serde_json::Value) -> Result<(), BundleError> {
    let found = tree.get("annotations").and_then(|annotations| annotations.get(FORMAT_ANNOTATION));
    match found.and_then(serde_json::Value::as_str) {
        Some(text) if text == limits::FORMAT_VERSION.to_string() => Ok(()),
        Some(text) => Err(BundleError::UnsupportedFormat {
            found: crate::digest::shorten(text),
            supported: limits::FORMAT_VERSION,
        }),
        None => Err(wrong_field(DOCUMENT, "annotations", "no format version", FORMAT_ANNOTATION)),
    }
}

fn layer_descriptor(layer: &Layer, encrypted: bool) -> Descriptor {
    let path = layer.path.as_str().to_owned();
    let annotations =
        BTreeMap::from([(FILEPATH_ANNOTATION.to_owned(), path.clone()), (TITLE_ANNOTATION.to_owned(), path)]);
    let media_type = layer.kind.media_type(encrypted);
    Descriptor { annotations: Some(annotations), ..Descriptor::new(media_type, layer.digest, layer.size) }
}

/// The layer, and whether it is encrypted.
fn parse_layer(descriptor: Descriptor) -> Result<(Layer, bool), BundleError> {
    let path = descriptor.annotations.as_ref().and_then(|annotations| annotations.get(FILEPATH_ANNOTATION));
    let path = path.ok_or_else(|| wrong_field(DOCUMENT, "layers", "a layer without a path", FILEPATH_ANNOTATION))?;
    let kind = LayerKind::from_media_type(&descriptor.media_type);
    let path = match kind {
        Some((LayerKind::ModelSignature, _)) if *path == *BundlePath::model_signature().as_str() => {
            BundlePath::model_signature()
        }
        Some((LayerKind::ModelSignature, _)) => {
            return Err(wrong_field(DOCUMENT, "layers", path, "model.sig, the path of the model signing attestation"));
        }
        _ => path.parse()?,
    };
    let (kind, encrypted) = kind.ok_or_else(|| BundleError::UnknownMediaType {
        path: path.to_string(),
        found: crate::digest::shorten(&descriptor.media_type),
    })?;
    let layer = Layer { path, kind, digest: descriptor.digest, size: descriptor.size };
    if layer_descriptor(&layer, encrypted) != descriptor {
        return Err(wrong_field(DOCUMENT, "layers", "a layer with other members", "path and title alone"));
    }
    Ok((layer, encrypted))
}

/// A bundle is encrypted whole, with its model signing statement inside, or not at all.
fn all_or_none_encrypted(layers: Vec<(Layer, bool)>) -> Result<Vec<Layer>, BundleError> {
    let expected = layers.iter().any(|(layer, _)| layer.kind == LayerKind::ModelSignature);
    if let Some((layer, _)) = layers.iter().find(|(_, encrypted)| *encrypted != expected) {
        return Err(BundleError::MixedEncryption { path: layer.path.to_string() });
    }
    Ok(layers.into_iter().map(|(layer, _)| layer).collect())
}

fn check_layers(layers: &[Layer]) -> Result<(), BundleError> {
    let mut small_total = 0u64;
    let mut blobs: HashMap<Digest, &Layer> = HashMap::new();
    for (index, layer) in layers.iter().enumerate() {
        if index > 0 && order_key(&layers[index - 1]) >= order_key(layer) {
            return Err(BundleError::LayerOrder { path: layer.path.to_string() });
        }
        match layer.kind {
            LayerKind::Weight => {
                check_limit("a weight layer's length in bytes", layer.size, limits::MAX_WEIGHT_LAYER_BYTES)?;
                if WeightFormat::of_path(&layer.path).is_none() {
                    return Err(BundleError::UnknownWeightFormat { path: layer.path.to_string() });
                }
            }
            LayerKind::Config | LayerKind::Doc | LayerKind::ModelSignature => {
                check_limit("a layer's length in bytes", layer.size, limits::MAX_SMALL_LAYER_BYTES)?;
                small_total += layer.size;
            }
        }
        let first = blobs.entry(layer.digest).or_insert(layer);
        let contradiction = |what| Err(BundleError::ContradictoryBlob { digest: layer.digest, what });
        if first.size != layer.size {
            return contradiction("its size");
        }
        if (first.kind == LayerKind::Weight) != (layer.kind == LayerKind::Weight) {
            return contradiction("whether it is a weight");
        }
    }
    check_limit(
        "the length in bytes of all layers but the weights",
        small_total,
        limits::MAX_SMALL_LAYERS_TOTAL_BYTES,
    )?;
    check_collisions(layers)
}

/// Refuses paths that are one file on a file system without case, and paths that are a folder of another.
fn check_collisions(layers: &[Layer]) -> Result<(), BundleError> {
    let collide = |first: &BundlePath, second: &BundlePath| {
        Err(BundleError::CollidingPaths { first: first.to_string(), second: second.to_string() })
    };
    let mut files: HashMap<String, &BundlePath> = HashMap::new();
    for layer in layers {
        if let Some(first) = files.insert(layer.path.as_str().to_ascii_lowercase(), &layer.path) {
            return collide(first, &layer.path);
        }
    }
    for layer in layers {
        let folded = layer.path.as_str().to_ascii_lowercase();
        for (end, _) in folded.match_indices('/') {
            if let Some(first) = files.get(&folded[..end]) {
                return collide(first, &layer.path);
            }
        }
    }
    Ok(())
}

/// The format of a weight file, decided by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// `*.safetensors`
    Safetensors,
    /// `*.gguf`
    Gguf,
}

impl WeightFormat {
    /// The format of the weight file at `path`, or `None` when its name has another ending.
    #[must_use]
    pub fn of_path(path: &BundlePath) -> Option<Self> {
        if path.as_str().ends_with(".safetensors") {
            return Some(Self::Safetensors);
        }
        path.as_str().ends_with(".gguf").then_some(Self::Gguf)
    }
}

/// An OCI descriptor, as the format writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Descriptor {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self { annotations: None, artifact_type: None, digest, media_type: media_type.to_owned(), size }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireManifest {
    annotations: BTreeMap<String, String>,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    media_type: String,
    schema_version: u32,
}

pub(crate) fn check_limit(what: &str, found: u64, limit: u64) -> Result<(), BundleError> {
    if found > limit {
        return Err(BundleError::TooLarge { what: what.to_owned(), found, limit });
    }
    Ok(())
}

pub(crate) fn wrong_field(document: &str, field: &'static str, found: &str, expected: &str) -> BundleError {
    BundleError::WrongField {
        document: document.to_owned(),
        field,
        found: crate::digest::shorten(found),
        expected: expected.to_owned(),
    }
}
