//! The CNCF ModelPack config: what kind of model the bundle holds, for people and for other tools.
//!
//! The config is inside the signed scope (the manifest names its digest) but it decides nothing: name and version must
//! agree with the release statement, the diffIds with the layers, and the rest is shown, never acted on.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::BundleError;
use crate::json;
use crate::manifest::Layer;
use crate::names::{BundleName, BundleVersion};
use crate::timestamp::Timestamp;

/// A ModelPack config (`application/vnd.cncf.model.config.v1+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// What the model is.
    pub config: ModelProperties,
    /// Whose it is and what it is called.
    pub descriptor: ModelDescriptor,
    /// The files' digests.
    pub modelfs: ModelFileSystem,
}

/// Technical properties of the model, all for information.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are those of the ModelPack specification")]
pub struct ModelProperties {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub param_size: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
}

/// What goes into the model and comes out of it, for information.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are those of the ModelPack specification")]
pub struct Capabilities {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input_types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output_types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub knowledge_cutoff: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_usage: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
}

/// Whose model it is and what it is called. Name and version are those of the release statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are those of the ModelPack specification")]
pub struct ModelDescriptor {
    pub name: BundleName,
    pub version: BundleVersion,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub authors: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    #[serde(default, rename = "docURL", skip_serializing_if = "Option::is_none")]
    pub doc_url: Option<String>,
    #[serde(default, rename = "sourceURL", skip_serializing_if = "Option::is_none")]
    pub source_url: Option<String>,
    #[serde(default, rename = "datasetsURL", skip_serializing_if = "Vec::is_empty")]
    pub datasets_url: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub licenses: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

impl ModelDescriptor {
    /// A descriptor that says no more than it must.
    #[must_use]
    pub fn new(name: BundleName, version: BundleVersion) -> Self {
        Self {
            name,
            version,
            created_at: None,
            authors: Vec::new(),
            family: None,
            doc_url: None,
            source_url: None,
            datasets_url: Vec::new(),
            revision: None,
            vendor: None,
            licenses: Vec::new(),
            title: None,
            description: None,
        }
    }
}

/// The files' digests in the manifest's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelFileSystem {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: ModelFileSystemKind,
    /// The digest of each uncompressed layer; layers are raw, so these are the layers' own digests.
    pub diff_ids: Vec<Digest>,
}

/// The one kind of file system that ModelPack knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelFileSystemKind {
    /// A list of layers.
    Layers,
}

impl ModelConfig {
    /// A config for `layers`, which are put in the manifest's order.
    #[must_use]
    pub fn new(descriptor: ModelDescriptor, config: ModelProperties, layers: &[Layer]) -> Self {
        let mut ordered: Vec<&Layer> = layers.iter().collect();
        ordered.sort_by(|left, right| crate::manifest::order_key(left).cmp(&crate::manifest::order_key(right)));
        let diff_ids = ordered.into_iter().map(|layer| layer.digest).collect();
        Self { config, descriptor, modelfs: ModelFileSystem { kind: ModelFileSystemKind::Layers, diff_ids } }
    }

    /// Reads a config from its canonical bytes.
    ///
    /// # Errors
    /// When it is not canonical JSON of this shape.
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        json::parse_canonical("model config", bytes)
    }

    /// The config's canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        json::canonical(self)
    }
}
