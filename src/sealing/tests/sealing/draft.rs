//! A bundle that is put together by hand, so that what it states can be wrong while every byte is canonical.

use ampoule_bundle::archive::{self, Contents};
use ampoule_bundle::statement::WeightHeaderDigest;
use ampoule_bundle::{
    Attestation, BundlePath, CosignStatement, Counter, Digest, Layer, LayerKind, Manifest, ModelConfig,
    ModelDescriptor, ModelProperties, OmsStatement, ReleaseStatement, SafetensorsHeader, Source, Statement,
};
use ampoule_sealing::keys::SigningKey;
use ampoule_sealing::seal::attest;

use crate::support::{safetensors, test_key, time};

/// Files, and what is stated about them.
pub(crate) struct Draft {
    files: Vec<(BundlePath, Vec<u8>)>,
    config: Vec<u8>,
    pub(crate) manifest: Manifest,
    pub(crate) release: ReleaseStatement,
    pub(crate) oms: Statement<OmsStatement>,
}

impl Draft {
    /// A config and a good weight file: nothing is wrong with this one yet.
    pub(crate) fn good() -> Draft {
        let data: Vec<u8> = (0..16).collect();
        Draft::of(vec![
            ("config.json", LayerKind::Config, br#"{"model_type":"llama"}"#.to_vec()),
            ("model.safetensors", LayerKind::Weight, safetensors(&[("a.weight", "F32", &[4], &data)])),
        ])
    }

    /// A config and this one weight file, whatever is in it.
    pub(crate) fn with_weights(name: &str, weights: Vec<u8>) -> Draft {
        Draft::of(vec![
            ("config.json", LayerKind::Config, br#"{"model_type":"llama"}"#.to_vec()),
            (name, LayerKind::Weight, weights),
        ])
    }

    pub(crate) fn of(files: Vec<(&str, LayerKind, Vec<u8>)>) -> Draft {
        let path = |name: &str| match name {
            "model.sig" => BundlePath::model_signature(),
            _ => BundlePath::try_from(name).unwrap(),
        };
        let layers: Vec<Layer> = files
            .iter()
            .map(|(name, kind, bytes)| Layer {
                path: path(name),
                kind: *kind,
                digest: Digest::of(bytes),
                size: bytes.len() as u64,
            })
            .collect();
        let headers = files.iter().filter(|(_, kind, _)| *kind == LayerKind::Weight);
        let weights: Vec<WeightHeaderDigest> =
            headers.map(|(name, _, bytes)| header_digest(path(name), bytes)).collect();
        let release = release(weights, &layers);
        let descriptor = ModelDescriptor::new(release.name.clone(), release.version.clone());
        let config = ModelConfig::new(descriptor, ModelProperties::default(), &layers).to_bytes();
        let oms = OmsStatement::about(&release.name, &layers);
        let manifest = Manifest::new(&config, layers).unwrap();
        let files = files.into_iter().map(|(name, _, bytes)| (path(name), bytes)).collect();
        Draft { files, config, manifest, release, oms }
    }

    /// The three payloads: release, model signing, cosign.
    pub(crate) fn payloads(&self) -> [Vec<u8>; 3] {
        let cosign =
            Statement { subject_name: String::new(), subject: self.manifest.digest(), predicate: CosignStatement {} };
        [self.release.clone().about(self.manifest.digest()).to_payload(), self.oms.to_payload(), cosign.to_payload()]
    }

    pub(crate) fn attestations(&self, key: &SigningKey) -> Vec<Attestation> {
        self.payloads().iter().map(|payload| attest(payload, key).unwrap()).collect()
    }

    /// The canonical file, signed with the test key.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.with_attestations(&self.attestations(test_key()))
    }

    pub(crate) fn with_attestations(&self, attestations: &[Attestation]) -> Vec<u8> {
        let in_order = self.manifest.layers().iter().map(|layer| {
            let file = self.files.iter().find(|(path, _)| *path == layer.path);
            &file.unwrap().1 as &dyn Source
        });
        let layers: Vec<&dyn Source> = in_order.collect();
        let contents = Contents { manifest: &self.manifest, config: &self.config, attestations, layers: &layers };
        let mut bytes = Vec::new();
        archive::write(&contents, &mut bytes).unwrap();
        bytes
    }
}

/// A header that no parser takes is signed whole.
fn header_digest(path: BundlePath, bytes: &[u8]) -> WeightHeaderDigest {
    let length = SafetensorsHeader::parse(bytes).map_or(bytes.len() as u64, |header| header.length());
    WeightHeaderDigest::new(path, &bytes[..usize::try_from(length).unwrap()])
}

fn release(weights: Vec<WeightHeaderDigest>, layers: &[Layer]) -> ReleaseStatement {
    let (name, version) = ("fixture".parse().unwrap(), "1.2.3".parse().unwrap());
    let issued = time("2000-01-01T00:00:00Z");
    let mut release = ReleaseStatement::new(name, version, issued, semver::Version::new(0, 1, 0));
    release.counter = Counter(7);
    release.oms_root = OmsStatement::about(&release.name, layers).predicate.root();
    release.weights = weights;
    release
}
