//! A small valid bundle, its parts within reach, and keys that live as long as the test.

use std::sync::Arc;

use ampoule_bundle::archive::{self, Contents};
use ampoule_bundle::statement::{Endpoint, WeightHeaderDigest};
use ampoule_bundle::trust::{SignedPart, TrustDocument};
use ampoule_bundle::{
    Attestation, BundleError, BundlePath, CosignStatement, Counter, Curve, Digest, KeyId, Layer, LayerKind, Manifest,
    ModelConfig, ModelDescriptor, ModelProperties, OmsStatement, PAYLOAD_TYPE, PublicKey, ReleaseStatement, Role,
    RootDocument, SealedBundle, Source, Statement, Timestamp, TrustRoot, VerifiedBundle, WeightFormat, WeightHeader,
    pre_authentication_encoding,
};
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair};

/// A key pair made for one test.
pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    pub(crate) public: PublicKey,
}

impl Signer {
    pub(crate) fn new(curve: Curve) -> Self {
        let algorithm = match curve {
            Curve::P256 => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            Curve::P384 => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        };
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        Self::of_pkcs8(curve, document.as_ref())
    }

    /// The key that somebody else made.
    pub(crate) fn of_pkcs8(curve: Curve, pkcs8: &[u8]) -> Self {
        let (algorithm, prefix): (&'static EcdsaSigningAlgorithm, &str) = match curve {
            Curve::P256 => {
                (&signature::ECDSA_P256_SHA256_ASN1_SIGNING, "3059301306072a8648ce3d020106082a8648ce3d030107034200")
            }
            Curve::P384 => {
                (&signature::ECDSA_P384_SHA384_ASN1_SIGNING, "3076301006072a8648ce3d020106052b81040022036200")
            }
        };
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8, &random).unwrap();
        let mut spki = hex::decode(prefix).unwrap();
        spki.extend_from_slice(pair.public_key().as_ref());
        Self { pair, public: PublicKey::from_spki_der(&spki).unwrap() }
    }

    pub(crate) fn id(&self) -> KeyId {
        self.public.id()
    }

    /// The DER signature over a payload of this type.
    pub(crate) fn signature(&self, payload_type: &str, payload: &[u8]) -> Vec<u8> {
        self.sign(&pre_authentication_encoding(payload_type, payload))
    }

    /// The DER signature over these bytes.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    pub(crate) fn attest(&self, payload: &[u8]) -> Attestation {
        Attestation::new(payload, &self.signature(PAYLOAD_TYPE, payload), self.id()).unwrap()
    }
}

/// The parts of a bundle before it is signed.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) files: Vec<(BundlePath, LayerKind, Vec<u8>)>,
    /// The release statement; root and weight headers are filled in when it is signed.
    pub(crate) release: ReleaseStatement,
}

/// A bundle of three small files and one weight file.
pub(crate) fn draft() -> Draft {
    let weights = safetensors(
        r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I64","shape":[],"data_offsets":[24,32]}}"#,
        32,
    );
    Draft {
        files: vec![
            file("config.json", LayerKind::Config, br#"{"model_type":"llama"}"#),
            file("tokenizer.json", LayerKind::Config, br#"{"version":"1.0"}"#),
            file("README.md", LayerKind::Doc, b"# A model\n"),
            file("model.safetensors", LayerKind::Weight, &weights),
        ],
        release: release(),
    }
}

pub(crate) fn file(path: &str, kind: LayerKind, content: &[u8]) -> (BundlePath, LayerKind, Vec<u8>) {
    (path.parse().unwrap(), kind, content.to_vec())
}

fn release() -> ReleaseStatement {
    let issued = time("2026-01-01T00:00:00Z");
    let runtime = semver::Version::new(0, 1, 0);
    let mut release = ReleaseStatement::new("sample".parse().unwrap(), "1.2.3".parse().unwrap(), issued, runtime);
    release.counter = Counter(7);
    release.expires = Some(time("2027-01-01T00:00:00Z"));
    release.requires.runtime.below = Some(semver::Version::new(1, 0, 0));
    release.requires.cpu_features.insert("avx2".to_owned());
    release.requires.memory_bytes = Some(1 << 20);
    release.requires.endpoints.insert(Endpoint::ChatCompletions);
    release
}

pub(crate) fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

impl Draft {
    pub(crate) fn layers(&self) -> Vec<Layer> {
        let layer = |(path, kind, content): &(BundlePath, LayerKind, Vec<u8>)| Layer {
            path: path.clone(),
            kind: *kind,
            digest: Digest::of(content),
            size: content.len() as u64,
        };
        self.files.iter().map(layer).collect()
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        let descriptor = ModelDescriptor::new(self.release.name.clone(), self.release.version.clone());
        ModelConfig::new(descriptor, ModelProperties::default(), &self.layers()).to_bytes()
    }

    pub(crate) fn manifest(&self) -> Manifest {
        Manifest::new(&self.config(), self.layers()).unwrap()
    }

    /// The release statement as it is signed. Weight files whose header does not parse get the header of 8 bytes.
    pub(crate) fn release_statement(&self) -> Statement<ReleaseStatement> {
        let mut release = self.release.clone();
        release.oms_root = OmsStatement::about(&release.name, &self.layers()).subject;
        release.weights = Vec::new();
        let manifest = self.manifest();
        for layer in manifest.layers().iter().filter(|layer| layer.kind == LayerKind::Weight) {
            let content = self.content(&layer.path);
            let header =
                WeightHeader::read(&layer.path, WeightFormat::of_path(&layer.path).unwrap(), &content.to_vec());
            let bytes = header.map_or_else(|_| content[..8].to_vec(), |(_, bytes)| bytes);
            release.weights.push(WeightHeaderDigest::new(layer.path.clone(), &bytes));
        }
        release.about(manifest.digest())
    }

    pub(crate) fn release_payload(&self) -> Vec<u8> {
        self.release_statement().to_payload()
    }

    pub(crate) fn oms_payload(&self) -> Vec<u8> {
        OmsStatement::about(&self.release.name, &self.layers()).to_payload()
    }

    pub(crate) fn cosign_payload(&self) -> Vec<u8> {
        let subject = self.manifest().digest();
        Statement { subject_name: String::new(), subject, predicate: CosignStatement {} }.to_payload()
    }

    /// All three statements, each signed by every signer.
    pub(crate) fn attestations(&self, signers: &[&Signer]) -> Vec<Attestation> {
        let payloads = [self.release_payload(), self.oms_payload(), self.cosign_payload()];
        payloads.iter().flat_map(|payload| signers.iter().map(|signer| signer.attest(payload))).collect()
    }

    /// The bundle file with these attestations.
    pub(crate) fn write(&self, attestations: &[Attestation]) -> Vec<u8> {
        let manifest = self.manifest();
        let contents: Vec<&[u8]> = manifest.layers().iter().map(|layer| self.content(&layer.path)).collect();
        let layers: Vec<&dyn Source> = contents.iter().map(|content| content as &dyn Source).collect();
        let mut bytes = Vec::new();
        let config = self.config();
        archive::write(&Contents { manifest: &manifest, config: &config, attestations, layers: &layers }, &mut bytes)
            .unwrap();
        bytes
    }

    pub(crate) fn seal(&self, signers: &[&Signer]) -> Vec<u8> {
        self.write(&self.attestations(signers))
    }

    pub(crate) fn content(&self, path: &BundlePath) -> &[u8] {
        &self.files.iter().find(|(name, _, _)| name == path).unwrap().2
    }
}

/// A root in which `threshold` of these keys must sign releases.
pub(crate) fn root(signers: &[&Signer], threshold: usize) -> TrustRoot {
    root_with(&[(Role::Release, signers, threshold)])
}

/// A root of this version with these roles, for a test to change and to sign.
pub(crate) fn root_document(version: u64, roles: &[(Role, &[&Signer], usize)]) -> RootDocument {
    let keys: Vec<Vec<PublicKey>> =
        roles.iter().map(|(_, signers, _)| signers.iter().map(|signer| signer.public.clone()).collect()).collect();
    let roles: Vec<(Role, &[PublicKey], usize)> =
        roles.iter().zip(&keys).map(|((role, _, threshold), keys)| (*role, keys.as_slice(), *threshold)).collect();
    RootDocument::new(version, time("2036-01-01T00:00:00Z"), &roles)
}

pub(crate) fn root_with(roles: &[(Role, &[&Signer], usize)]) -> TrustRoot {
    TrustRoot::pin(&root_document(1, roles).to_bytes()).unwrap()
}

/// The file of a root, a revocation list or a downgrade token, signed by these.
pub(crate) fn signed<T: SignedPart + Clone>(document: &TrustDocument<T>, signers: &[&Signer]) -> Vec<u8> {
    let mut document = document.clone();
    for signer in signers {
        document.add_signature(signer.id(), &signer.sign(&document.payload()));
    }
    document.to_bytes()
}

pub(crate) fn open_and_verify(source: impl Source + 'static, root: &TrustRoot) -> Result<VerifiedBundle, BundleError> {
    SealedBundle::open(source)?.verify(root)
}

/// Opening, verifying and hashing the weights: all that `ampoule verify` does.
pub(crate) fn check(source: impl Source + 'static, root: &TrustRoot) -> Result<(), BundleError> {
    open_and_verify(source, root)?.check_weights(&|_| ())
}

/// The refusal of a bundle that must be refused.
pub(crate) fn refusal(bytes: Vec<u8>, root: &TrustRoot) -> BundleError {
    check(bytes, root).expect_err("the bundle must be refused")
}

/// A safetensors file with this header and as many bytes of data.
pub(crate) fn safetensors(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..data_bytes).map(|index| (index % 251) as u8 + 1));
    bytes
}

/// A file with one byte changed, without a copy of the rest.
pub(crate) struct Changed {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) position: usize,
    pub(crate) mask: u8,
}

impl Source for Changed {
    fn length(&self) -> std::io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let count = (&*self.bytes).read_at(buffer, offset)?;
        if let Some(byte) = self.position.checked_sub(offset as usize).and_then(|index| buffer[..count].get_mut(index))
        {
            *byte ^= self.mask;
        }
        Ok(count)
    }
}

/// The beginning of a file.
pub(crate) struct Cut {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) length: usize,
}

impl Source for Cut {
    fn length(&self) -> std::io::Result<u64> {
        Ok(self.length as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        (&self.bytes[..self.length]).read_at(buffer, offset)
    }
}
