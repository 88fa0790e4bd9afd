//! OpenSSF model signing (OMS) 1.0: the statement that lists every file with its digest.

use serde::{Deserialize, Serialize};

use super::Statement;
use crate::digest::{Digest, Hasher, bare_hex};
use crate::manifest::{Layer, LayerKind};
use crate::names::{BundleName, BundlePath};

/// The predicate of an OMS statement: the files, and how they were hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OmsStatement {
    /// Every file, sorted by name.
    pub resources: Vec<OmsResource>,
    /// How the files were hashed.
    pub serialization: OmsSerialization,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OmsResource {
    /// Its SHA-256.
    #[serde(with = "bare_hex")]
    pub digest: Digest,
    /// The hash function.
    pub algorithm: OmsHash,
    /// Its path.
    pub name: BundlePath,
}

/// How the files were hashed: whole files, no links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OmsSerialization {
    /// Always `false`: a bundle holds regular files only.
    pub allow_symlinks: bool,
    /// The hash function.
    pub hash_type: OmsHash,
    /// Whole files.
    pub method: OmsMethod,
}

impl OmsSerialization {
    /// The one that format 1 uses.
    pub const WHOLE_FILES: Self = Self { allow_symlinks: false, hash_type: OmsHash::Sha256, method: OmsMethod::Files };
}

/// The one hash function that format 1 uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OmsHash {
    /// SHA-256.
    Sha256,
}

/// The one serialisation method that format 1 uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OmsMethod {
    /// One resource for each file.
    Files,
}

impl OmsStatement {
    /// The statement about a bundle's files, in any order. A [`LayerKind::ModelSignature`] is not among them: it is the
    /// statement itself.
    #[must_use]
    pub fn about(name: &BundleName, layers: &[Layer]) -> Statement<Self> {
        let mut resources: Vec<OmsResource> = layers
            .iter()
            .filter(|layer| layer.kind != LayerKind::ModelSignature)
            .map(|layer| OmsResource { digest: layer.digest, algorithm: OmsHash::Sha256, name: layer.path.clone() })
            .collect();
        resources.sort_by(|left, right| left.name.cmp(&right.name));
        let predicate = Self { resources, serialization: OmsSerialization::WHOLE_FILES };
        Statement { subject_name: name.to_string(), subject: predicate.root(), predicate }
    }

    /// The root over all files: SHA-256 of their raw digests in the order of the resources.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut hasher = Hasher::new();
        for resource in &self.resources {
            hasher.update(resource.digest.as_bytes());
        }
        hasher.finish()
    }
}
