//! What an export writes: every file under its own name, and a signature that the trust root stands behind.

use std::collections::BTreeSet;

use ampoule_bundle::{Attestation, LayerKind, Predicate, PublicKey, Role, RootDocument, SealedBundle, TrustRoot};
use ampoule_sealing::SealingError;
use ampoule_sealing::export::{SIGNATURE_FILE, export};

use crate::draft::Draft;
use crate::support::{other_key, root, safetensors, test_key};

/// The good bundle, signed by a stranger too, with the stranger's model signature before the pinned key's.
fn stranger_first() -> Vec<u8> {
    let draft = Draft::good();
    let pinned = PublicKey::from_pem(test_key().public_pem()).unwrap().id();
    loop {
        // Attestations lie in the order of their digests, and signatures of one payload differ from time to time.
        let attestations = [draft.attestations(test_key()), draft.attestations(other_key())].concat();
        let bytes = draft.with_attestations(&attestations);
        let sealed = SealedBundle::open(bytes.clone()).unwrap();
        let mut attestations = sealed.unverified_attestations().iter();
        let first = attestations.find(|attestation| attestation.predicate() == Predicate::ModelSigning);
        if first.unwrap().key() != pinned {
            return bytes;
        }
    }
}

#[test]
fn with_a_trust_root_the_signature_beside_the_files_is_by_a_key_that_it_pins() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("m.bundle");
    std::fs::write(&bundle, stranger_first()).unwrap();
    let signer = |root, name: &str| {
        let plain = folder.path().join(name);
        export(&bundle, root, &plain).unwrap();
        Attestation::parse(name, std::fs::read(plain.join(SIGNATURE_FILE)).unwrap()).unwrap().key()
    };
    let root = root();
    let id = |pem| PublicKey::from_pem(pem).unwrap().id();
    assert_eq!(signer(Some(&root), "verified"), id(test_key().public_pem()));
    let both = [id(test_key().public_pem()), id(other_key().public_pem())];
    assert_eq!(Some(signer(None, "unverified")), both.into_iter().min());
}

#[test]
fn of_several_signatures_the_same_one_is_written_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let keys = [test_key(), other_key()].map(|key| PublicKey::from_pem(key.public_pem()).unwrap());
    let expires = "2100-01-01T00:00:00Z".parse().unwrap();
    let both = RootDocument::new(1, expires, &[(Role::Release, &keys, 2)]);
    let both = TrustRoot::pin(&both.to_bytes()).unwrap();
    let smallest = keys.iter().map(PublicKey::id).min();
    let draft = Draft::good();
    let mut first_to_lie_there = BTreeSet::new();
    for number in 0.. {
        let attestations = [draft.attestations(test_key()), draft.attestations(other_key())].concat();
        let bytes = draft.with_attestations(&attestations);
        let sealed = SealedBundle::open(bytes.clone()).unwrap();
        let mut attestations = sealed.unverified_attestations().iter();
        let first = attestations.find(|attestation| attestation.predicate() == Predicate::ModelSigning);
        let is_new = first_to_lie_there.insert(first.unwrap().key());
        if is_new {
            let bundle = folder.path().join(format!("{number}.bundle"));
            std::fs::write(&bundle, bytes).unwrap();
            for (name, root) in [("with", Some(&both)), ("without", None)] {
                let plain = folder.path().join(format!("{number}-{name}"));
                let exported = export(&bundle, root, &plain).unwrap();
                let written = std::fs::read(plain.join(SIGNATURE_FILE)).unwrap();
                let written = Attestation::parse(name, written).unwrap().key();
                assert_eq!((Some(written), exported.signer), (smallest, smallest), "{name} a root");
            }
        }
        if first_to_lie_there.len() == 2 {
            break;
        }
    }
}

#[test]
fn no_file_is_lost_to_a_name_of_the_export_s_own() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("m.bundle");
    // Weights and the signature are written after all of these.
    let files = [("model.safetensors.partial", &b"one"[..]), ("model.sig.partial", b"two"), ("x", b"three")];
    let mut layers: Vec<_> = files.map(|(name, bytes)| (name, LayerKind::Doc, bytes.to_vec())).into();
    layers.push(("model.safetensors", LayerKind::Weight, safetensors(&[("a", "U8", &[2], b"ab")])));
    std::fs::write(&bundle, Draft::of(layers).to_bytes()).unwrap();
    let plain = folder.path().join("plain");
    let exported = export(&bundle, Some(&root()), &plain).unwrap();
    assert_eq!(exported.files.len(), 4);
    for (name, bytes) in files {
        assert_eq!(std::fs::read(plain.join(name)).unwrap(), bytes, "{name}");
    }
    let again = export(&bundle, Some(&root()), &plain);
    assert!(matches!(again, Err(SealingError::AlreadyExists { .. })));
}
