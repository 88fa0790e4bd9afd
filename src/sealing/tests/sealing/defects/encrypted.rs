//! Defects inside an encrypted bundle: each layer's age file is rightly signed as it lies there, so that nothing but its
//! decryption can notice.

use ampoule_bundle::age::{Envelope, Recipient, decrypt};
use ampoule_bundle::statement::{Encryption, WeightHeaderDigest};
use ampoule_bundle::{BundlePath, LayerKind, OmsStatement, SafetensorsHeader, Source};
use ampoule_sealing::seal::attest;

use crate::draft::Draft;
use crate::support::{safetensors, test_key};

/// Who opens these bundles: nobody's secret but that of the tests.
pub(crate) const SECRET: [u8; 32] = [3; 32];
/// The same, as age writes it.
pub(crate) const IDENTITY: &str = "AGE-SECRET-KEY-1QVPSXQCRQVPSXQCRQVPSXQCRQVPSXQCRQVPSXQCRQVPSXQCRQVPS2PGGME";

/// A chunk of 64 KiB with its tag.
const CHUNK: usize = (64 << 10) + 16;

/// THREATS C21: two chunks of the weights change places.
pub(super) fn chunks_exchanged() -> Vec<u8> {
    with_weights(|file, start| {
        let (first, second) = file[start + CHUNK..start + 3 * CHUNK].split_at_mut(CHUNK);
        first.swap_with_slice(second);
    })
}

/// THREATS C21: the weights end with a chunk that was not the last one.
pub(super) fn cut_at_a_chunk() -> Vec<u8> {
    with_weights(|file, start| file.truncate(start + 3 * CHUNK))
}

/// THREATS C21: something stands behind the chunk that says that it is the last one.
pub(super) fn continued() -> Vec<u8> {
    with_weights(|file, _| file.extend_from_slice(&[0; 40]))
}

/// An encrypted bundle whose weights, as they lie there, were changed before the outer signatures were made. The edit is
/// told where the first chunk begins.
fn with_weights(edit: impl FnOnce(&mut Vec<u8>, usize)) -> Vec<u8> {
    let data = vec![7; 3 * (64 << 10)];
    let plaintext = safetensors(&[("a", "U8", &[data.len()], &data)]);
    let header = SafetensorsHeader::parse(&plaintext).unwrap().length();
    let plain = Draft::with_weights("model.safetensors", plaintext.clone());
    let inside = OmsStatement::about(&plain.release.name, plain.manifest.layers());
    let signature = attest(&inside.to_payload(), test_key()).unwrap();

    let (config, _) = sealed(br#"{"model_type":"llama"}"#, 0);
    let (signature, _) = sealed(signature.bytes(), 0);
    let (mut weights, prefix) = sealed(&plaintext, header);
    assert_eq!(decrypt(weights.clone(), &SECRET).unwrap(), plaintext, "before the edit it is right");
    // The chunks reach to the end of the file, each with a tag of 16 bytes.
    let start = weights.len() - plaintext.len() - 16 * plaintext.len().div_ceil(64 << 10);
    edit(&mut weights, start);

    let mut draft = Draft::of(vec![
        ("config.json", LayerKind::Config, config),
        ("model.sig", LayerKind::ModelSignature, signature),
        ("model.safetensors", LayerKind::Weight, weights.clone()),
    ]);
    let path = BundlePath::try_from("model.safetensors").unwrap();
    let prefix = usize::try_from(prefix).unwrap();
    draft.release.weights = vec![WeightHeaderDigest::new(path, &weights[..prefix])];
    draft.release.encryption = Some(Encryption {
        scheme: Encryption::AGE.to_owned(),
        recipients: [Recipient::of_secret(&SECRET).to_string()].into(),
        plaintext_root: inside.subject,
    });
    let [release, _, cosign] = draft.payloads();
    draft.with_attestations(&[release, cosign].map(|payload| attest(&payload, test_key()).unwrap()))
}

/// A content as an age file, and how much of it is signed apart for a weight header of this length.
fn sealed(content: &[u8], header_length: u64) -> (Vec<u8>, u64) {
    let envelope = Envelope::new(&[Recipient::of_secret(&SECRET)]).unwrap();
    let file = envelope.around(content);
    let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
    let mut done = 0;
    while done < bytes.len() {
        done += file.read_at(&mut bytes[done..], done as u64).unwrap();
    }
    (bytes, envelope.prefix_bytes(header_length, content.len() as u64))
}
