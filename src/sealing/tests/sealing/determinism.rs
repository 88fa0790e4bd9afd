//! The same input gives the same layers and the same manifest, byte for byte.

use ampoule_bundle::SealedBundle;
use ampoule_sealing::seal::{PackedBundle, SealRequest, seal};

use crate::loose::LooseArchive;
use crate::support::{request, test_key, time, write_model};

#[test]
fn the_same_files_elsewhere_and_later_give_the_same_manifest_and_layers() {
    let folder = tempfile::tempdir().unwrap();
    let mut sealed = Vec::new();
    for (name, issued_at) in [("first", "2026-01-01T00:00:00Z"), ("a-longer-name", "2027-02-03T04:05:06Z")] {
        let model = folder.path().join(name);
        write_model(&model);
        let out = folder.path().join(format!("{name}.bundle"));
        seal(&SealRequest { issued_at: time(issued_at), ..request(&model) }, test_key(), &out).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        let manifest = SealedBundle::open(bytes.clone()).unwrap().unverified_manifest().bytes().to_vec();
        sealed.push((manifest, layer_entries(&bytes)));
    }
    assert_eq!(sealed[0].0, sealed[1].0, "the manifests");
    assert_eq!(sealed[0].1, sealed[1].1, "the layers' tar entries");
}

/// Headers and data of everything from the empty config on: the part that signatures do not touch.
fn layer_entries(bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let archive = LooseArchive::read(bytes);
    let start = archive.0.iter().position(|entry| entry.data == b"{}").unwrap();
    // The length of a PAX comment follows from what lies before it, and signatures vary by a byte or two.
    let layers = archive.0[start..].iter().filter(|entry| entry.header[156] != b'x');
    layers.map(|entry| (entry.header.to_vec(), entry.data.clone())).collect()
}

#[test]
fn with_the_time_given_the_signed_statements_are_the_same_too() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    let payloads = || -> Vec<Vec<u8>> {
        let attestations = PackedBundle::pack(&request(&model)).unwrap().sign(test_key()).unwrap();
        attestations.iter().map(|attestation| attestation.payload().to_vec()).collect()
    };
    assert_eq!(payloads(), payloads());
}

#[test]
fn a_contract_reaches_the_statement_and_not_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    let plain = PackedBundle::pack(&request(&model)).unwrap();
    let mut strict = request(&model);
    strict.contract.constraints.max_context_length = Some(512);
    let strict = PackedBundle::pack(&strict).unwrap();
    assert_eq!(strict.release().constraints.max_context_length, Some(512));
    assert_eq!(strict.manifest().digest(), plain.manifest().digest());
}
