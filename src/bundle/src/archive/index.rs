//! The documents of the OCI layout that follow from manifest and attestations: indexes and attaching manifests.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::attestation::{Attestation, BUNDLE_MEDIA_TYPE};
use crate::digest::Digest;
use crate::json;
use crate::manifest::{Descriptor, MANIFEST_MEDIA_TYPE, MODEL_ARTIFACT_TYPE, Manifest};

/// The layout's marker file.
pub(super) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The config of every attaching manifest.
pub(super) const EMPTY_CONFIG: &[u8] = b"{}";

const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const EMPTY_MEDIA_TYPE: &str = "application/vnd.oci.empty.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The derived documents of one bundle.
pub(super) struct Derived {
    /// `index.json`.
    pub(super) index: Vec<u8>,
    /// The index of model and attestations.
    pub(super) bundle_index: Vec<u8>,
    /// The index of the attestations, found by the fallback tag.
    pub(super) referrers_index: Vec<u8>,
    /// The attaching manifest of each attestation.
    pub(super) referrers: Vec<Vec<u8>>,
}

/// Derives all documents. `attestations` are in canonical order.
pub(super) fn derive(manifest: &Manifest, attestations: &[&Attestation]) -> Derived {
    let digest = manifest.digest();
    let subject = Descriptor::new(MANIFEST_MEDIA_TYPE, digest, manifest.bytes().len() as u64);
    let referrers: Vec<Vec<u8>> = attestations.iter().map(|attestation| referrer(attestation, &subject)).collect();
    let descriptors: Vec<Descriptor> = attestations
        .iter()
        .zip(&referrers)
        .map(|(attestation, bytes)| Descriptor {
            annotations: Some(annotations(attestation)),
            artifact_type: Some(BUNDLE_MEDIA_TYPE.to_owned()),
            ..describe(MANIFEST_MEDIA_TYPE, bytes)
        })
        .collect();

    let model = Descriptor { artifact_type: Some(MODEL_ARTIFACT_TYPE.to_owned()), ..subject };
    let referrers_index = index(descriptors.clone());
    let bundle_index = index([vec![model.clone()], descriptors].concat());
    let named = |descriptor: Descriptor, name: String| Descriptor {
        annotations: Some(BTreeMap::from([(REF_NAME.to_owned(), name)])),
        ..descriptor
    };
    let mut model_entry = named(model, "model".to_owned());
    if let Some(annotations) = &mut model_entry.annotations {
        // cosign finds its target in a local layout by this annotation alone.
        annotations.insert("kind".to_owned(), "dev.cosignproject.cosign/image".to_owned());
    }
    let index = index(vec![
        model_entry,
        named(describe(INDEX_MEDIA_TYPE, &bundle_index), "bundle".to_owned()),
        named(describe(INDEX_MEDIA_TYPE, &referrers_index), format!("sha256-{}", digest.to_hex())),
    ]);
    Derived { index, bundle_index, referrers_index, referrers }
}

fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
}

fn annotations(attestation: &Attestation) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("dev.sigstore.bundle.content".to_owned(), "dsse-envelope".to_owned()),
        ("dev.sigstore.bundle.predicateType".to_owned(), attestation.predicate().uri().to_owned()),
    ])
}

fn referrer(attestation: &Attestation, subject: &Descriptor) -> Vec<u8> {
    json::canonical(&Referrer {
        annotations: annotations(attestation),
        artifact_type: BUNDLE_MEDIA_TYPE,
        config: describe(EMPTY_MEDIA_TYPE, EMPTY_CONFIG),
        layers: [describe(BUNDLE_MEDIA_TYPE, attestation.bytes())],
        media_type: MANIFEST_MEDIA_TYPE,
        schema_version: 2,
        subject,
    })
}

fn index(manifests: Vec<Descriptor>) -> Vec<u8> {
    json::canonical(&Index { manifests, media_type: INDEX_MEDIA_TYPE, schema_version: 2 })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    manifests: Vec<Descriptor>,
    media_type: &'static str,
    schema_version: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Referrer<'a> {
    annotations: BTreeMap<String, String>,
    artifact_type: &'static str,
    config: Descriptor,
    layers: [Descriptor; 1],
    media_type: &'static str,
    schema_version: u32,
    subject: &'a Descriptor,
}
