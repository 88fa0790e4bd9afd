//! Finds a bundle's parts in an OCI layout that other tools may have rewritten.
//!
//! skopeo and registries write indexes anew and drop what stands in them; manifests and blobs they leave alone. So an
//! index says here only where to look: what a manifest is, it says itself, and an attestation is one of the model whose
//! manifest its own manifest names as `subject`. Nothing found is trusted; it takes the way of every bundle afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::{Parts, read_blob};
use crate::attestation::{Attestation, BUNDLE_MEDIA_TYPE};
use crate::digest::Digest;
use crate::error::BundleError;
use crate::json;
use crate::limits;
use crate::manifest::{MODEL_ARTIFACT_TYPE, Manifest, check_limit, wrong_field};
use crate::source::Source;

/// Indexes within indexes: `index.json`, the index that skopeo copied, and one more.
const MAX_DEPTH: u64 = 3;
/// Manifests and indexes of one layout that are looked at.
const MAX_DOCUMENTS: u64 = 1024;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Finds the parts of the bundle in the layout whose `index.json` is `index`: the one under `tag`, or the only one. `blob`
/// opens a blob by its digest.
///
/// # Errors
/// [`BundleError::NoModel`] and [`BundleError::SeveralModels`], whatever a part is refused for, and `blob`'s own errors.
pub fn gather<E: From<BundleError>>(
    index: &[u8],
    tag: Option<&str>,
    blob: &dyn Fn(Digest) -> Result<Arc<dyn Source>, E>,
) -> Result<Parts, E> {
    let mut found = Found { blob, attestations: BTreeMap::new(), looks: 0, bytes: 0, models: BTreeMap::new() };
    let tree = json::parse_value("index.json", index)?;
    let mut tags = BTreeSet::new();
    let mut under_tag = BTreeSet::new();
    for descriptor in members(&tree, "manifests") {
        let name = descriptor.pointer("/annotations").and_then(|annotations| annotations.get(REF_NAME));
        let name = name.and_then(Value::as_str);
        tags.extend(name.map(crate::digest::shorten));
        let reached = found.look_at(digest_of("index.json", descriptor)?, 1)?;
        if tag.is_none() || tag == name {
            under_tag.extend(reached);
        }
    }
    let tags = tags.into_iter().collect::<Vec<_>>().join(", ");
    let model = match Vec::from_iter(under_tag).as_slice() {
        [model] => *model,
        [] => {
            let tag = tag.map_or("any tag".to_owned(), |tag| format!("the tag {}", crate::digest::shorten(tag)));
            return Err(BundleError::NoModel { tag, found: tags }.into());
        }
        several => return Err(BundleError::SeveralModels { found: several.len(), tags }.into()),
    };
    found.parts(model)
}

/// What was reached so far.
struct Found<'a, E> {
    blob: &'a dyn Fn(Digest) -> Result<Arc<dyn Source>, E>,
    /// The attestations that manifests attach, by the digest of their `subject`.
    attestations: BTreeMap<Digest, BTreeSet<Digest>>,
    /// How many documents were named, one that is named twice counted twice.
    looks: u64,
    /// The length of all that were read.
    bytes: u64,
    /// The models that each of them leads to, so that none is read twice.
    models: BTreeMap<Digest, Vec<Digest>>,
}

impl<E: From<BundleError>> Found<'_, E> {
    /// Looks at a manifest, or at an index and what it names, and returns the models among them.
    fn look_at(&mut self, digest: Digest, depth: u64) -> Result<Vec<Digest>, E> {
        self.looks += 1;
        check_limit("the number of manifests", self.looks, MAX_DOCUMENTS)?;
        check_limit("the depth of indexes", depth, MAX_DEPTH)?;
        if let Some(models) = self.models.get(&digest) {
            return Ok(models.clone());
        }
        let models = self.read(digest, depth)?;
        self.models.insert(digest, models.clone());
        Ok(models)
    }

    fn read(&mut self, digest: Digest, depth: u64) -> Result<Vec<Digest>, E> {
        let what = format!("the manifest {digest}");
        let bytes = read_blob(&*(self.blob)(digest)?, digest, &what, limits::MAX_MANIFEST_BYTES)?;
        self.bytes += bytes.len() as u64;
        check_limit("the length in bytes of all manifests", self.bytes, limits::MAX_LAYOUT_DOCUMENTS_BYTES)?;
        let tree = json::parse_value(&what, &bytes)?;
        let artifact_type = tree.get("artifactType").and_then(Value::as_str);
        if tree.get("manifests").is_some() {
            let mut models = Vec::new();
            for descriptor in members(&tree, "manifests") {
                models.extend(self.look_at(digest_of(&what, descriptor)?, depth + 1)?);
            }
            return Ok(models);
        }
        if artifact_type == Some(MODEL_ARTIFACT_TYPE) {
            return Ok(vec![digest]);
        }
        if let (Some(BUNDLE_MEDIA_TYPE), Some(subject)) = (artifact_type, tree.get("subject")) {
            let subject = digest_of(&what, subject)?;
            for layer in members(&tree, "layers") {
                self.attestations.entry(subject).or_default().insert(digest_of(&what, layer)?);
            }
        }
        // Anything else is another tool's business: a software bill of materials, an image.
        Ok(Vec::new())
    }

    fn parts(mut self, model: Digest) -> Result<Parts, E> {
        let read = |digest, what: &str, limit| -> Result<Vec<u8>, E> {
            Ok(read_blob(&*(self.blob)(digest)?, digest, what, limit)?)
        };
        let manifest = Manifest::parse(read(model, "the model manifest", limits::MAX_MANIFEST_BYTES)?)?;
        let config = read(manifest.config_digest(), "the model config", limits::MAX_CONFIG_BYTES)?;
        let attached = self.attestations.remove(&model).unwrap_or_default();
        check_limit("the number of attestations", attached.len() as u64, limits::MAX_ATTESTATIONS as u64)?;
        let mut attestations = Vec::with_capacity(attached.len());
        let mut total = 0u64;
        for digest in attached {
            let what = format!("the attestation {digest}");
            let bytes = read(digest, &what, limits::MAX_ATTESTATION_BYTES)?;
            total += bytes.len() as u64;
            check_limit("the length in bytes of all attestations", total, limits::MAX_ATTESTATIONS_TOTAL_BYTES)?;
            attestations.push(Attestation::parse(&what, bytes)?);
        }
        Ok(Parts { manifest, config, attestations })
    }
}

fn members<'a>(tree: &'a Value, name: &str) -> &'a [Value] {
    tree.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The digest of a descriptor: the only member by which anything is found, and 64 hex digits or nothing.
fn digest_of(document: &str, descriptor: &Value) -> Result<Digest, BundleError> {
    let found = descriptor.get("digest").and_then(Value::as_str).unwrap_or_default();
    found.parse().map_err(|_| wrong_field(document, "digest", found, "`sha256:` and 64 lower-case hex digits"))
}
