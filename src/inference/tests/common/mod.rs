//! Seals a folder with a throw-away key and takes the bundle the whole way to an admitted one, as the runtime does:
//! a model has no other way into the engine, not even in tests.
#![allow(clippy::unwrap_used, dead_code, reason = "each test binary uses its own part of this module")]

pub(crate) mod generation;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ampoule_bundle::archive::{self, Contents};
use ampoule_bundle::statement::{Endpoint, WeightHeaderDigest};
use ampoule_bundle::{
    AdmittedBundle, Attestation, Digest, HighWaterMarks, HostFacts, Layer, LayerKind, Manifest, ModelConfig,
    ModelDescriptor, ModelProperties, OmsStatement, PAYLOAD_TYPE, PublicKey, ReleaseStatement, Role, RootDocument,
    RuntimePolicy, SealedBundle, Source, TrustRoot, VerifiedBundle, WeightFormat, WeightHeader,
    pre_authentication_encoding,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

/// A folder of `tests/fixtures`.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// Seals the fixture folder, with changes to its release statement, and admits it.
pub(crate) fn admitted(folder: &Path, change: impl FnOnce(&mut ReleaseStatement)) -> AdmittedBundle {
    let key = Key::new();
    let bytes = seal(folder, &key, change);
    verified(bytes, &key)
}

/// As [`admitted`], but with the last bit of the weights flipped after they were signed.
pub(crate) fn admitted_with_changed_weights(folder: &Path) -> AdmittedBundle {
    let key = Key::new();
    let mut bytes = seal(folder, &key, |_| ());
    let weights = std::fs::read(folder.join("model.safetensors")).unwrap();
    let tail = &weights[weights.len() - 64..];
    let at = bytes.windows(64).rposition(|window| window == tail).unwrap();
    bytes[at + 63] ^= 1;
    verified(bytes, &key)
}

fn verified(bytes: Vec<u8>, key: &Key) -> AdmittedBundle {
    let keys = [key.public.clone()];
    let root = RootDocument::new(1, "2036-01-01T00:00:00Z".parse().unwrap(), &[(Role::Release, &keys, 1)]);
    let root = TrustRoot::pin(&root.to_bytes()).unwrap();
    admit(SealedBundle::open(bytes).unwrap().verify(&root).unwrap())
}

/// Admits a verified bundle on a host that has everything.
pub(crate) fn admit(bundle: VerifiedBundle) -> AdmittedBundle {
    let endpoints = [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Embeddings];
    let policy = RuntimePolicy::new(env!("CARGO_PKG_VERSION").parse().unwrap(), endpoints);
    let host = HostFacts {
        now: "2026-06-01T00:00:00Z".parse().unwrap(),
        cpu_features: BTreeSet::new(),
        memory_bytes: 1 << 40,
        accelerators: BTreeSet::new(),
    };
    bundle.admit(&policy, &host, &HighWaterMarks::none()).unwrap()
}

struct Key {
    pair: EcdsaKeyPair,
    public: PublicKey,
}

impl Key {
    fn new() -> Key {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random).unwrap();
        // SubjectPublicKeyInfo of a P-256 key, up to the point.
        let mut spki =
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"
                .to_vec();
        spki.extend_from_slice(pair.public_key().as_ref());
        let public = PublicKey::from_spki_der(&spki).unwrap();
        Key { pair, public }
    }

    fn attest(&self, payload: &[u8]) -> Attestation {
        let message = pre_authentication_encoding(PAYLOAD_TYPE, payload);
        let signature = self.pair.sign(&SystemRandom::new(), &message).unwrap();
        Attestation::new(payload, signature.as_ref(), self.public.id()).unwrap()
    }
}

fn seal(folder: &Path, key: &Key, change: impl FnOnce(&mut ReleaseStatement)) -> Vec<u8> {
    let mut files = Vec::new();
    collect(folder, "", &mut files);
    let layers: Vec<Layer> = files.iter().map(|(path, content)| layer(path, content)).collect();
    let issued = "2026-01-01T00:00:00Z".parse().unwrap();
    let runtime = env!("CARGO_PKG_VERSION").parse().unwrap();
    let mut release = ReleaseStatement::new("fixture".parse().unwrap(), "1.0.0".parse().unwrap(), issued, runtime);
    change(&mut release);
    let descriptor = ModelDescriptor::new(release.name.clone(), release.version.clone());
    let config = ModelConfig::new(descriptor, ModelProperties::default(), &layers).to_bytes();
    let manifest = Manifest::new(&config, layers).unwrap();
    let content = |layer: &Layer| &files.iter().find(|(path, _)| *path == layer.path.to_string()).unwrap().1;
    release.oms_root = OmsStatement::about(&release.name, manifest.layers()).subject;
    for layer in manifest.layers().iter().filter(|layer| layer.kind == LayerKind::Weight) {
        let format = WeightFormat::of_path(&layer.path).unwrap();
        let (_, header) = WeightHeader::read(&layer.path, format, content(layer)).unwrap();
        release.weights.push(WeightHeaderDigest::new(layer.path.clone(), &header));
    }
    let oms = OmsStatement::about(&release.name, manifest.layers()).to_payload();
    let attestations = [key.attest(&release.about(manifest.digest()).to_payload()), key.attest(&oms)];
    let layers: Vec<&dyn Source> = manifest.layers().iter().map(|layer| content(layer) as &dyn Source).collect();
    let contents = Contents { manifest: &manifest, config: &config, attestations: &attestations, layers: &layers };
    let mut bytes = Vec::new();
    archive::write(&contents, &mut bytes).unwrap();
    bytes
}

/// All files below a folder by their path in it, but for what the tests themselves expect.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            collect(&entry.path(), &format!("{path}/"), files);
        } else if !path.starts_with("expected") {
            files.push((path, std::fs::read(entry.path()).unwrap()));
        }
    }
}

fn layer(path: &str, content: &[u8]) -> Layer {
    let weight = path.ends_with(".safetensors") || path.ends_with(".gguf");
    let kind = if weight { LayerKind::Weight } else { LayerKind::Config };
    Layer { path: path.parse().unwrap(), kind, digest: Digest::of(content), size: content.len() as u64 }
}
