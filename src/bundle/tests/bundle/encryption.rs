//! Encrypted bundles: what can be checked without the key, what opens, and what must never come out (C19, C20, C21).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ampoule_bundle::age::{AgeError, Envelope, Recipient};
use ampoule_bundle::archive::{self, Contents};
use ampoule_bundle::statement::{Encryption, Endpoint, WeightHeaderDigest};
use ampoule_bundle::{
    AdmittedBundle, Attestation, BundleError, BundlePath, CosignStatement, Curve, Digest, ErrorClass, HighWaterMarks,
    HostFacts, Layer, LayerKind, LoadError, Manifest, ModelConfig, ModelDescriptor, ModelProperties, OmsStatement,
    PAYLOAD_TYPE, PolicyViolation, Rule, RuntimePolicy, SealedBundle, Source, Statement, VerifiedBundle, WeightFormat,
    WeightHeader, WeightHeaderError,
};

use crate::age::read_in_strides;
use crate::loading::{Counting, Keep};
use crate::sample::{Draft, Signer, draft, file, open_and_verify, root, safetensors, time};

const SECRET: [u8; 32] = [9; 32];

/// An encrypted bundle, in parts that can be exchanged before it is signed.
struct Encrypted {
    files: Vec<(BundlePath, LayerKind, Vec<u8>)>,
    /// How much of each weight file is signed apart.
    prefixes: BTreeMap<BundlePath, u64>,
    draft: Draft,
}

/// The sample with a weight file of several chunks.
fn sample() -> Draft {
    let mut draft = draft();
    let weights = safetensors(r#"{"c":{"dtype":"U8","shape":[300000],"data_offsets":[0,300000]}}"#, 300_000);
    draft.files.push(file("second.safetensors", LayerKind::Weight, &weights));
    draft
}

fn encrypt(draft: Draft, signer: &Signer) -> Encrypted {
    let recipients = [Recipient::of_secret(&SECRET)];
    let mut encrypted = Encrypted { files: Vec::new(), prefixes: BTreeMap::new(), draft };
    for (path, kind, content) in encrypted.draft.files.clone() {
        encrypted.add(path, kind, &content, &recipients);
    }
    let statement = OmsStatement::about(&encrypted.draft.release.name, &encrypted.draft.layers());
    let recipient = recipients[0].to_string();
    encrypted.draft.release.encryption = Some(Encryption {
        scheme: Encryption::AGE.to_owned(),
        recipients: [recipient].into(),
        plaintext_root: statement.subject,
    });
    let signature = signer.attest(&statement.to_payload());
    encrypted.add(BundlePath::model_signature(), LayerKind::ModelSignature, signature.bytes(), &recipients);
    encrypted
}

impl Encrypted {
    fn add(&mut self, path: BundlePath, kind: LayerKind, content: &[u8], recipients: &[Recipient]) {
        let envelope = Envelope::new(recipients).unwrap();
        if kind == LayerKind::Weight {
            let format = WeightFormat::of_path(&path).unwrap();
            let (header, _) = WeightHeader::read(&path, format, &content.to_vec()).unwrap();
            let prefix = envelope.prefix_bytes(header.length(), content.len() as u64);
            self.prefixes.insert(path.clone(), prefix);
        }
        self.files.push((path, kind, read_in_strides(&envelope.around(content), 1 << 20)));
    }

    /// The layer at `path`, as it lies in the bundle.
    fn layer(&mut self, path: &str) -> &mut Vec<u8> {
        &mut self.files.iter_mut().find(|(found, _, _)| found.as_str() == path).unwrap().2
    }

    fn layers(&self) -> Vec<Layer> {
        let layer = |(path, kind, content): &(BundlePath, LayerKind, Vec<u8>)| Layer {
            path: path.clone(),
            kind: *kind,
            digest: Digest::of(content),
            size: content.len() as u64,
        };
        self.files.iter().map(layer).collect()
    }

    /// The bundle, with an outer signature over whatever it holds.
    fn seal(&self, signer: &Signer) -> Vec<u8> {
        let mut release = self.draft.release.clone();
        let descriptor = ModelDescriptor::new(release.name.clone(), release.version.clone());
        let config = ModelConfig::new(descriptor, ModelProperties::default(), &self.layers()).to_bytes();
        let manifest = Manifest::new(&config, self.layers()).unwrap();
        let content = |path: &BundlePath| self.files.iter().find(|(found, _, _)| found == path).unwrap().2.as_slice();
        release.oms_root = OmsStatement::about(&release.name, manifest.layers()).subject;
        let header = |(path, length): (&BundlePath, &u64)| {
            WeightHeaderDigest::new(path.clone(), &content(path)[..content(path).len().min(*length as usize)])
        };
        release.weights = self.prefixes.iter().map(header).collect();
        let cosign =
            Statement { subject_name: String::new(), subject: manifest.digest(), predicate: CosignStatement {} };
        let attestations =
            [release.about(manifest.digest()).to_payload(), cosign.to_payload()].map(|payload| signer.attest(&payload));
        let contents: Vec<&[u8]> = manifest.layers().iter().map(|layer| content(&layer.path)).collect();
        let layers: Vec<&dyn Source> = contents.iter().map(|content| content as &dyn Source).collect();
        let mut bytes = Vec::new();
        let contents = Contents { manifest: &manifest, config: &config, attestations: &attestations, layers: &layers };
        archive::write(&contents, &mut bytes).unwrap();
        bytes
    }
}

fn unlocked(encrypted: &Encrypted, signer: &Signer) -> Result<VerifiedBundle, BundleError> {
    open_and_verify(encrypted.seal(signer), &root(&[signer], 1))?.unlock(&[[8; 32], SECRET])
}

fn admit(bundle: VerifiedBundle) -> Result<AdmittedBundle, PolicyViolation> {
    let policy = RuntimePolicy::new(semver::Version::new(0, 1, 0), [Endpoint::ChatCompletions]);
    let host = HostFacts {
        now: time("2026-06-01T00:00:00Z"),
        cpu_features: ["avx2".to_owned()].into(),
        memory_bytes: 1 << 30,
        accelerators: Default::default(),
    };
    bundle.admit(&policy, &host, &HighWaterMarks::none())
}

/// What comes of loading, with the key.
fn load(encrypted: &Encrypted, signer: &Signer) -> Result<Vec<String>, BundleError> {
    let bundle = unlocked(encrypted, signer)?;
    bundle.check_weights(&|_| ())?;
    let admitted = admit(bundle).unwrap();
    match admitted.load_weights(Keep::default(), &|_| ()) {
        Ok(tensors) => Ok(tensors.into_keys().collect()),
        Err(LoadError::Bundle(error)) => Err(error),
        Err(LoadError::Sink(_)) => panic!("the sink takes everything"),
    }
}

#[test]
fn with_the_key_everything_comes_out_as_it_was() {
    let signer = Signer::new(Curve::P256);
    let encrypted = encrypt(sample(), &signer);
    let bundle = unlocked(&encrypted, &signer).unwrap();
    assert!(!bundle.is_locked() && bundle.model_signature().is_some());
    for (path, bytes) in bundle.files() {
        assert_eq!(bytes, encrypted.draft.content(path), "{path}");
    }
    assert_eq!(bundle.files().count(), 3, "the attestation is none of the model's files");
    let plain = encrypted.draft.files.iter().filter(|(_, kind, _)| *kind == LayerKind::Weight);
    assert_eq!(bundle.weight_bytes(), plain.map(|(_, _, content)| content.len() as u64).sum::<u64>());
    bundle.check_weights(&|_| ()).unwrap();
    let admitted = admit(bundle).unwrap();
    let tensors = admitted.load_weights(Keep::default(), &|_| ()).unwrap();
    assert_eq!(tensors["a"].2, (1..=24).collect::<Vec<u8>>());
    assert_eq!(tensors["c"].2, encrypted.draft.files[4].2[encrypted.draft.files[4].2.len() - 300_000..]);
}

#[test]
fn without_the_key_all_that_is_signed_outside_is_checked_and_nothing_is_used() {
    let signer = Signer::new(Curve::P256);
    let mut encrypted = encrypt(sample(), &signer);
    let bytes = encrypted.seal(&signer);
    let locked = || open_and_verify(bytes.clone(), &root(&[&signer], 1)).unwrap();
    assert!(locked().is_locked() && locked().files().next().is_none() && locked().model_signature().is_none());
    locked().check_weights(&|_| ()).unwrap();
    let stored = admit(locked().leave_locked()).unwrap();
    assert!(stored.is_locked());
    let refused = stored.load_weights(Keep::default(), &|_| ());
    assert!(matches!(refused, Err(LoadError::Bundle(BundleError::Locked))));

    let refuse = |bundle| {
        let violation = admit(bundle).err().unwrap();
        assert_eq!(violation.rule, Rule::Encryption);
        violation.to_string()
    };
    let mine = Recipient::of_secret(&SECRET);
    let none = refuse(locked());
    assert!(none.contains(&mine.to_string()) && none.contains("decryption_identity_file"), "{none}");
    let stranger = Recipient::of_secret(&[8; 32]);
    let other = refuse(locked().unlock(&[[8; 32]]).unwrap());
    assert!(other.contains(&stranger.to_string()) && other.contains("rewrap"), "{other}");
    encrypted.draft.release.encryption.as_mut().unwrap().scheme = "hpke/v9".to_owned();
    let scheme = refuse(unlocked(&encrypted, &signer).unwrap().leave_locked());
    assert!(scheme.contains("hpke/v9") && scheme.contains("age/v1"), "{scheme}");

    // One bit of a weight, of a small file.
    for needle in ["second.safetensors", "tokenizer.json"] {
        let content = encrypted.layer(needle).clone();
        let start = bytes.windows(64).position(|window| *window == content[..64]).unwrap();
        let mut spoilt = bytes.clone();
        spoilt[start + content.len() - 1] ^= 1;
        let spoilt = open_and_verify(spoilt, &root(&[&signer], 1)).and_then(|bundle| bundle.check_weights(&|_| ()));
        assert!(matches!(spoilt, Err(BundleError::DigestMismatch { .. })), "{needle}: {spoilt:?}");
    }
}

/// What somebody may do to an age file.
type Edit = fn(&mut Vec<u8>);

/// A chunk with its tag.
const CHUNK: usize = 65_552;

/// Where the payload's chunks begin.
fn chunks_at(file: &[u8]) -> usize {
    let mac = file.windows(5).position(|window| window == b"\n--- ").unwrap();
    mac + 5 + 43 + 1 + 16
}

#[test]
fn c21_a_payload_that_was_not_sealed_so_never_reaches_the_sink() {
    let signer = Signer::new(Curve::P256);
    let edits: [(&str, Edit); 7] = [
        ("reordered", |file| {
            let start = chunks_at(file) + CHUNK;
            let (first, second) = file[start..start + 2 * CHUNK].split_at_mut(CHUNK);
            first.swap_with_slice(second);
        }),
        ("doubled", |file| {
            let start = chunks_at(file) + CHUNK;
            let (first, second) = file[start..start + 2 * CHUNK].split_at_mut(CHUNK);
            second.copy_from_slice(first);
        }),
        ("cut at the edge of a chunk", |file| file.truncate(chunks_at(file) + 3 * CHUNK)),
        ("cut within a chunk", |file| file.truncate(file.len() - 1)),
        ("with an empty last chunk", |file| {
            file.truncate(chunks_at(file) + 4 * CHUNK + 16);
        }),
        ("extended", |file| file.extend_from_slice(&[0; 40])),
        ("of one bit changed", |file| {
            let last = file.len() - 1;
            file[last] ^= 1;
        }),
    ];
    for (what, edit) in edits {
        let mut encrypted = encrypt(sample(), &signer);
        edit(encrypted.layer("second.safetensors"));
        let error = load(&encrypted, &signer).expect_err(what);
        // Where the length says it already, the header's tensors do not fit the file.
        let fits = matches!(
            error,
            BundleError::Encrypted { defect: AgeError::Chunk { .. } | AgeError::Payload { .. }, .. }
                | BundleError::WeightHeader { .. }
        );
        assert!(fits, "{what}: {error}");
        // In a file that is opened whole, nothing but the chunks can tell.
        let mut encrypted = encrypt(sample(), &signer);
        let mut big = Encrypted { files: Vec::new(), prefixes: BTreeMap::new(), draft: sample() };
        big.add("big.json".parse().unwrap(), LayerKind::Config, &[5; 300_000], &[Recipient::of_secret(&SECRET)]);
        let mut content = big.files.remove(0).2;
        edit(&mut content);
        *encrypted.layer("tokenizer.json") = content;
        let error = load(&encrypted, &signer).expect_err(what);
        let defect =
            matches!(error, BundleError::Encrypted { defect: AgeError::Chunk { .. } | AgeError::Payload { .. }, .. });
        assert!(defect, "{what}: {error}");
    }
}

#[test]
fn c21_a_header_for_somebody_else_or_with_a_wrong_mac_opens_nothing() {
    let signer = Signer::new(Curve::P256);
    for path in ["tokenizer.json", "second.safetensors", "model.sig"] {
        let mut encrypted = encrypt(sample(), &signer);
        let layer = encrypted.layer(path);
        let mac = chunks_at(layer) - 16 - 44;
        layer[mac] = if layer[mac] == b'A' { b'B' } else { b'A' };
        let error = load(&encrypted, &signer).unwrap_err();
        assert!(matches!(error, BundleError::Encrypted { defect: AgeError::HeaderMac, .. }), "{path}: {error}");
        assert_eq!(error.class(), ErrorClass::Signature);

        let mut encrypted = encrypt(sample(), &signer);
        let stranger = Envelope::new(&[Recipient::of_secret(&[8; 32])]).unwrap();
        *encrypted.layer(path) = read_in_strides(&stranger.around(&[0; 400_000][..]), 1 << 20);
        let error = load(&encrypted, &signer).unwrap_err();
        assert!(matches!(error, BundleError::Encrypted { defect: AgeError::NoMatch, .. }), "{path}: {error}");
    }
}

#[test]
fn no_more_of_a_weight_file_is_signed_than_its_header_s_chunks() {
    let signer = Signer::new(Curve::P256);
    let mut encrypted = encrypt(sample(), &signer);
    *encrypted.prefixes.get_mut("second.safetensors").unwrap() += CHUNK as u64;
    let error = load(&encrypted, &signer).unwrap_err();
    let length = matches!(&error, BundleError::WeightHeader { defect: WeightHeaderError::Length { .. }, .. });
    assert!(length, "{error}");
}

#[test]
fn c20_layers_that_were_exchanged_inside_disagree_with_what_was_signed_inside() {
    let signer = Signer::new(Curve::P256);
    // Two files of one bundle, under each other's path, and a file of another bundle.
    let mut swapped = encrypt(sample(), &signer);
    let (config, tokenizer) = (swapped.layer("config.json").clone(), swapped.layer("tokenizer.json").clone());
    *swapped.layer("config.json") = tokenizer;
    *swapped.layer("tokenizer.json") = config;
    let mut foreign = encrypt(sample(), &signer);
    let mut other = draft();
    other.files[1].2 = br#"{"version":"2.0"}"#.to_vec();
    *foreign.layer("tokenizer.json") = encrypt(other, &signer).layer("tokenizer.json").clone();
    for bundle in [&swapped, &foreign] {
        let error = load(bundle, &signer).unwrap_err();
        assert!(matches!(error, BundleError::DigestMismatch { .. }), "{error}");
        assert!(error.to_string().contains("the plaintext of"), "{error}");
    }
    // Weights of one size and one header: only the digest of the whole can tell.
    let mut weights = encrypt(sample(), &signer);
    let mut changed = sample();
    let last = changed.files[4].2.len() - 1;
    changed.files[4].2[last] ^= 1;
    *weights.layer("second.safetensors") = encrypt(changed, &signer).layer("second.safetensors").clone();
    let error = load(&weights, &signer).unwrap_err();
    assert!(error.to_string().contains("the plaintext of `second.safetensors`"), "{error}");
}

#[test]
fn what_is_signed_inside_is_signed_by_the_role_that_signed_outside() {
    let (signer, stranger) = (Signer::new(Curve::P256), Signer::new(Curve::P256));
    let error = load(&encrypt(sample(), &stranger), &signer).unwrap_err();
    assert!(matches!(error, BundleError::TooFewSignatures { found: 0, required: 1, .. }), "{error}");

    // Somebody else signs and names the key that counts.
    let mut forged = encrypt(sample(), &signer);
    let payload = OmsStatement::about(&forged.draft.release.name, &forged.draft.layers()).to_payload();
    let attestation = Attestation::new(&payload, &stranger.signature(PAYLOAD_TYPE, &payload), signer.id()).unwrap();
    let mut apart = Encrypted { files: Vec::new(), prefixes: BTreeMap::new(), draft: sample() };
    let recipients = [Recipient::of_secret(&SECRET)];
    apart.add(BundlePath::model_signature(), LayerKind::ModelSignature, attestation.bytes(), &recipients);
    *forged.layer("model.sig") = apart.files.remove(0).2;
    let error = load(&forged, &signer).unwrap_err();
    assert!(matches!(error, BundleError::BadSignature { key, .. } if key == signer.id()), "{error}");

    let mut other_root = encrypt(sample(), &signer);
    other_root.draft.release.encryption.as_mut().unwrap().plaintext_root = Digest::of(b"another");
    let error = load(&other_root, &signer).unwrap_err();
    assert!(matches!(&error, BundleError::Disagreement { what, .. } if what.contains("plaintext")), "{error}");

    let mut fewer = sample();
    fewer.files.remove(2);
    let mut missing = encrypt(sample(), &signer);
    *missing.layer("model.sig") = encrypt(fewer, &signer).layer("model.sig").clone();
    let error = load(&missing, &signer).unwrap_err();
    assert!(matches!(error, BundleError::Disagreement { .. }), "{error}");
}

#[test]
fn a_bundle_is_encrypted_whole_and_says_so() {
    let signer = Signer::new(Curve::P256);
    let mut silent = encrypt(sample(), &signer);
    silent.draft.release.encryption = None;
    let error = open_and_verify(silent.seal(&signer), &root(&[&signer], 1)).err().unwrap();
    assert!(matches!(&error, BundleError::Disagreement { what, .. } if what.contains("encrypted")), "{error}");

    let encrypted = encrypt(sample(), &signer);
    let manifest = Manifest::new(b"{}", encrypted.layers()).unwrap();
    assert!(manifest.is_encrypted());
    let text = String::from_utf8(manifest.bytes().to_vec()).unwrap();
    let mixed = text.replacen("weight.config.v1.raw+encrypted", "weight.config.v1.raw", 1);
    let error = Manifest::parse(mixed.into_bytes()).unwrap_err();
    assert!(matches!(&error, BundleError::MixedEncryption { path } if path == "config.json"), "{error}");
    let elsewhere = text.replace("model.sig", "model.sih");
    let error = Manifest::parse(elsewhere.into_bytes()).unwrap_err();
    assert!(matches!(error, BundleError::WrongField { .. }), "{error}");

    let sealed = SealedBundle::open(encrypted.seal(&signer)).unwrap();
    // No second signature comes to lie beside the one that is inside.
    let files = sealed.model_files(sealed.unverified_attestations().first());
    let names: Vec<&str> = files.iter().map(|file| &*file.path).collect();
    assert!(names.iter().all(|name| name.ends_with(".age")) && names.contains(&"model.sig.age"), "{names:?}");
    let claims = sealed.claims().to_string();
    let recipient = Recipient::of_secret(&SECRET);
    assert!(claims.contains(&format!("encryption  age/v1\nrecipient   {recipient}\n")), "{claims}");

    // A readable statement beside it names the digests of what nobody should be able to guess.
    let statement = OmsStatement::about(&encrypted.draft.release.name, &encrypted.draft.layers());
    let bytes = encrypted.seal(&signer);
    let sealed = SealedBundle::open(bytes).unwrap();
    let mut attestations = sealed.unverified_attestations().to_vec();
    attestations.push(signer.attest(&statement.to_payload()));
    let contents: Vec<Vec<u8>> = (0..sealed.unverified_manifest().layers().len())
        .map(|index| {
            let mut content = Vec::new();
            sealed.copy_layer(index, &mut content).unwrap();
            content
        })
        .collect();
    let layers: Vec<&dyn Source> = contents.iter().map(|content| content as &dyn Source).collect();
    let mut bytes = Vec::new();
    let (manifest, config) = (sealed.unverified_manifest(), sealed.unverified_config().to_bytes());
    let contents = Contents { manifest, config: &config, attestations: &attestations, layers: &layers };
    archive::write(&contents, &mut bytes).unwrap();
    let error = open_and_verify(bytes, &root(&[&signer], 1)).err().unwrap();
    assert!(matches!(error, BundleError::ReadableModelSigning), "{error}");
}

#[test]
fn c19_no_byte_of_an_encrypted_layer_is_read_twice() {
    let signer = Signer::new(Curve::P256);
    let encrypted = encrypt(sample(), &signer);
    let bytes = encrypted.seal(&signer);
    let counts = Arc::new(Mutex::new(vec![0; bytes.len()]));
    let source = Counting { bytes: bytes.clone(), counts: Arc::clone(&counts) };
    let bundle = open_and_verify(source, &root(&[&signer], 1)).unwrap().unlock(&[SECRET]).unwrap();
    let admitted = admit(bundle).unwrap();
    admitted.load_weights(Keep::default(), &|_| ()).unwrap();
    let counts = counts.lock().unwrap();
    for (path, _, content) in &encrypted.files {
        let start = bytes.windows(200).position(|window| *window == content[..200]).unwrap();
        assert!(counts[start..start + content.len()].iter().all(|&count| count == 1), "{path}");
    }
}
