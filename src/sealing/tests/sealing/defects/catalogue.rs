//! The defects, each a function that makes a bundle with that one thing wrong.

use ampoule_bundle::{Attestation, LayerKind, OmsStatement, PAYLOAD_TYPE, PublicKey, pre_authentication_encoding};
use ampoule_sealing::seal::attest;

use super::{Expected, encrypted};
use crate::draft::Draft;
use crate::loose::LooseArchive;
use crate::support::{other_key, safetensors, safetensors_with_header, test_key, time};

/// A defect: the folder's name, the bundle, and what must come of it.
pub(crate) type Defect = (&'static str, fn() -> Vec<u8>, Expected);

/// Nothing is wrong with this one.
pub(crate) fn good() -> Vec<u8> {
    Draft::good().to_bytes()
}

pub(crate) fn all() -> Vec<Defect> {
    let row = |name, make: fn() -> Vec<u8>, stage: &str, error: &str, exit, message: &str| {
        let (stage, error, message_contains) = (stage.to_owned(), error.to_owned(), message.to_owned());
        (name, make, Expected { stage, error, message_contains, exit, accepted_counter: None, identity: None })
    };
    let mut rows = vec![
        // The file.
        row("not-a-bundle", not_a_bundle, "open", "not_a_bundle", 10, "not a .bundle file"),
        row("truncated", truncated, "open", "truncated", 10, "cut short"),
        row("trailing-bytes", trailing_bytes, "open", "trailing_bytes", 10, "goes on after its end"),
        row("header-not-canonical", header_not_canonical, "open", "not_canonical", 10, "the tar header of"),
        row("pax-size", pax_size, "open", "not_canonical", 10, "the PAX header of"),
        row("symlink-entry", symlink_entry, "open", "not_canonical", 10, "the tar header of"),
        row("duplicate-entry", duplicate_entry, "open", "unexpected_entry", 10, "`index.json`"),
        row("oversized-manifest", oversized_manifest, "open", "too_large", 10, "the model manifest"),
        row("index-rewritten", index_rewritten, "open", "not_canonical", 10, "index.json"),
        // The manifest.
        row("duplicate-json-key", duplicate_json_key, "open", "malformed_json", 10, "occurs twice"),
        row("manifest-not-canonical", manifest_not_canonical, "open", "not_canonical_json", 10, "RFC 8785"),
        row("format-too-new", format_too_new, "open", "unsupported_format", 10, "`2` is not supported"),
        row("path-traversal", path_traversal, "open", "invalid_text", 10, "../../etc/passwd"),
        row("path-collision", path_collision, "open", "colliding_paths", 10, "CONFIG.JSON"),
        row("layer-order", layer_order, "open", "layer_order", 10, "out of order"),
        row("unknown-media-type", unknown_media_type, "open", "unknown_media_type", 10, "raw+zstd"),
        row("mixed-encryption", mixed_encryption, "open", "mixed_encryption", 10, "config.json"),
        row("pickle-weights", pickle_weights, "open", "unknown_weight_format", 10, "pytorch_model.bin"),
        // The attestations.
        row("wrong-payload-type", wrong_payload_type, "open", "wrong_field", 10, "payloadType"),
        row("unknown-statement", unknown_statement, "open", "wrong_field", 10, "predicateType"),
        row("two-signatures", two_signatures, "open", "malformed_json", 10, "attestation"),
        row("bad-signature", bad_signature, "verify", "bad_signature", 11, "release statement is wrong"),
        row("signature-not-der", signature_not_der, "verify", "bad_signature", 11, "release statement is wrong"),
        row("signature-of-zeros", signature_of_zeros, "verify", "bad_signature", 11, "release statement is wrong"),
        row("unknown-key", unknown_key, "verify", "too_few_signatures", 11, "signed by 0 of"),
        row("forged-hint", forged_hint, "verify", "bad_signature", 11, "release statement is wrong"),
        row("missing-release-statement", missing_release, "verify", "missing_statement", 11, "no release statement"),
        row("missing-model-signature", missing_oms, "verify", "missing_statement", 11, "no model signing statement"),
        row(
            "differing-statements",
            differing_statements,
            "verify",
            "differing_statements",
            11,
            "two release statements",
        ),
        row(
            "statement-of-another-bundle",
            another_subject,
            "verify",
            "wrong_subject",
            11,
            "release statement is about",
        ),
        row("oms-mismatch", oms_mismatch, "verify", "disagreement", 11, "config.json"),
        // The contents.
        row("layer-digest", layer_digest, "verify", "digest_mismatch", 11, "config.json"),
        row("weights-digest", weights_digest, "weights", "digest_mismatch", 11, "model.safetensors"),
        row("weight-header-digest", weight_header_digest, "verify", "digest_mismatch", 11, "the header of"),
        row("oversized-header", oversized_header, "verify", "weight_header", 10, "more than the limit"),
        row("safetensors-overlap", safetensors_overlap, "verify", "weight_header", 10, "overlaps another tensor"),
        row("gguf-overflow-dims", gguf_overflow_dimensions, "verify", "weight_header", 10, "dimensions overflow"),
        row("gguf-outside-file", gguf_outside_file, "verify", "weight_header", 10, "beyond the end"),
        row("gguf-long-key", gguf_long_key, "verify", "weight_header", 10, "more than the limit"),
        row("gguf-many-entries", gguf_many_entries, "verify", "weight_header", 10, "more than the limit"),
        row("repeated-tensor", repeated_tensor, "verify", "repeated_tensor", 10, "occurs in"),
        // The contract.
        row("expired", expired, "admit", "expiry", 12, "when the bundle expires"),
        row("not-yet-valid", not_yet_valid, "admit", "not_before", 12, "not before 2999"),
        row("runtime-too-old", runtime_too_old, "admit", "runtime_version", 12, "at least 999.0.0"),
        row("feature-missing", feature_missing, "admit", "runtime_features", 12, "time-travel"),
        row("trust-root-too-old", trust_root_too_old, "admit", "trust_root_version", 12, "at least 2"),
    ];
    let mut rollback = row("counter-rollback", good, "admit", "rollback", 13, "counter 7 in epoch 1");
    rollback.2.accepted_counter = Some(8);
    rows.push(rollback);
    let inside = [
        row("age-chunks-exchanged", encrypted::chunks_exchanged, "weights", "encrypted_chunk", 11, "chunk 1"),
        row("age-cut-at-a-chunk", encrypted::cut_at_a_chunk, "verify", "weight_header", 10, "beyond the end"),
        row("age-continued", encrypted::continued, "verify", "weight_header", 10, "belong to no tensor"),
    ];
    rows.extend(inside.map(|(name, make, expected)| {
        (name, make, Expected { identity: Some(encrypted::IDENTITY.to_owned()), ..expected })
    }));
    rows
}

/// The good bundle, taken apart, with one thing changed.
fn edited(edit: impl FnOnce(&mut LooseArchive)) -> Vec<u8> {
    let mut archive = LooseArchive::read(&good());
    edit(&mut archive);
    archive.to_bytes()
}

fn not_a_bundle() -> Vec<u8> {
    b"#!/bin/sh\necho not a bundle\n".repeat(40)
}

fn truncated() -> Vec<u8> {
    let mut bytes = good();
    bytes.truncate(bytes.len() - 700);
    bytes
}

fn trailing_bytes() -> Vec<u8> {
    let mut bytes = good();
    bytes.extend_from_slice(&[0; 512]);
    bytes
}

/// A time of change other than 0, with a right checksum: GNU tar would not mind.
fn header_not_canonical() -> Vec<u8> {
    edited(|archive| archive.manifest().set(136, b"00000000001"))
}

/// THREATS C03: a PAX record that says another size than the header.
fn pax_size() -> Vec<u8> {
    edited(|archive| {
        let pax = archive.first_pax();
        let comment = format!("{} comment=", pax.data.len() - 11);
        let mut data = format!("11 size=99\n{comment}").into_bytes();
        data.resize(pax.data.len() - 1, b' ');
        data.push(b'\n');
        pax.data = data;
    })
}

/// THREATS C02.
fn symlink_entry() -> Vec<u8> {
    edited(|archive| {
        archive.manifest().set(156, b"2");
        archive.manifest().set(157, b"/etc/passwd");
    })
}

fn duplicate_entry() -> Vec<u8> {
    edited(|archive| {
        let index = crate::loose::LooseEntry { header: archive.0[1].header, data: archive.0[1].data.clone() };
        archive.0.insert(1, index);
    })
}

fn oversized_manifest() -> Vec<u8> {
    edited(|archive| archive.manifest().set_size((4 << 20) + 1))
}

/// What another tool does when it writes the layout anew.
fn index_rewritten() -> Vec<u8> {
    edited(|archive| {
        let index = &mut archive.0[1];
        let text =
            String::from_utf8(index.data.clone()).unwrap().replace("dev.cosignproject.cosign", "dev.example.other");
        index.set_size(text.len());
        index.data = text.into_bytes();
    })
}

/// THREATS C09.
fn duplicate_json_key() -> Vec<u8> {
    edited(|archive| archive.manifest().edit_text(r#""schemaVersion":2"#, r#""schemaVersion":1,"schemaVersion":2"#))
}

fn manifest_not_canonical() -> Vec<u8> {
    edited(|archive| archive.manifest().edit_text(r#""schemaVersion":2"#, r#""schemaVersion": 2"#))
}

fn format_too_new() -> Vec<u8> {
    edited(|archive| {
        archive.manifest().edit_text(r#""dev.ampoule.bundle.format":"1""#, r#""dev.ampoule.bundle.format":"2""#);
    })
}

/// THREATS C01.
fn path_traversal() -> Vec<u8> {
    edited(|archive| {
        archive
            .manifest()
            .edit_text(r#""org.cncf.model.filepath":"config.json""#, r#""org.cncf.model.filepath":"../../etc/passwd""#);
    })
}

/// Two names that are one file where case does not count.
fn path_collision() -> Vec<u8> {
    edited_draft(three_files(), |archive| {
        let text = String::from_utf8(archive.manifest().data.clone()).unwrap().replace("a.json", "CONFIG.JSON");
        archive.manifest().replace_blob(text.into_bytes());
    })
}

fn layer_order() -> Vec<u8> {
    edited_draft(three_files(), |archive| {
        let text = String::from_utf8(archive.manifest().data.clone()).unwrap().replace("a.json", "z.json");
        archive.manifest().replace_blob(text.into_bytes());
    })
}

fn three_files() -> Draft {
    Draft::of(vec![
        ("a.json", LayerKind::Config, b"[]".to_vec()),
        ("config.json", LayerKind::Config, b"{ }".to_vec()),
        ("model.safetensors", LayerKind::Weight, safetensors(&[("a", "U8", &[2], b"ab")])),
    ])
}

fn edited_draft(draft: Draft, edit: impl FnOnce(&mut LooseArchive)) -> Vec<u8> {
    let mut archive = LooseArchive::read(&draft.to_bytes());
    edit(&mut archive);
    archive.to_bytes()
}

fn unknown_media_type() -> Vec<u8> {
    edited(|archive| {
        archive.manifest().edit_text("model.weight.config.v1.raw", "model.weight.config.v1.raw+zstd");
    })
}

fn mixed_encryption() -> Vec<u8> {
    edited(|archive| {
        archive.manifest().edit_text("model.weight.config.v1.raw", "model.weight.config.v1.raw+encrypted");
    })
}

/// THREATS C51.
fn pickle_weights() -> Vec<u8> {
    edited(|archive| {
        let text = String::from_utf8(archive.manifest().data.clone()).unwrap();
        archive.manifest().replace_blob(text.replace("model.safetensors", "pytorch_model.bin").into_bytes());
    })
}

/// THREATS C13.
fn wrong_payload_type() -> Vec<u8> {
    edited(|archive| archive.first_attestation().edit_text("application/vnd.in-toto+json", "application/json"))
}

/// A statement that is signed with the right key and says something that this format does not know.
fn unknown_statement() -> Vec<u8> {
    let payload = String::from_utf8(Draft::good().payloads()[0].clone()).unwrap();
    let other = payload.replace("urn:ampoule:bundle-release:v1", "https://slsa.dev/provenance/v1");
    edited(|archive| {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        archive.first_attestation().edit_text(&encode(&payload), &encode(&other));
    })
}

/// A Sigstore bundle holds exactly one signature; the second would be one that nobody counts.
fn two_signatures() -> Vec<u8> {
    edited(|archive| {
        archive.first_attestation().edit_text(r#""signatures":[{"#, r#""signatures":[{"keyid":"","sig":"AA=="},{"#);
    })
}

/// The bundle with another attestation in place of the release statement's.
fn with_release(draft: &Draft, release: Option<Attestation>) -> Vec<u8> {
    let mut attestations = draft.attestations(test_key());
    attestations.remove(0);
    attestations.extend(release);
    draft.with_attestations(&attestations)
}

fn test_key_id() -> ampoule_bundle::KeyId {
    PublicKey::from_pem(test_key().public_pem()).unwrap().id()
}

/// The right key's signature of something else.
fn bad_signature() -> Vec<u8> {
    let draft = Draft::good();
    let signature = test_key().sign(b"something else").unwrap();
    with_release(&draft, Some(Attestation::new(&draft.payloads()[0], &signature, test_key_id()).unwrap()))
}

/// THREATS C11: the right signature as bare r and s, as JOSE writes it.
fn signature_not_der() -> Vec<u8> {
    let draft = Draft::good();
    let payload = &draft.payloads()[0];
    let der = test_key().sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload)).unwrap();
    let (r, rest) = integer(&der[2..]);
    let (s, _) = integer(rest);
    let bare = [r, s].concat();
    with_release(&draft, Some(Attestation::new(payload, &bare, test_key_id()).unwrap()))
}

/// The 32-byte magnitude of the DER integer that `der` begins with, and what follows.
fn integer(der: &[u8]) -> (Vec<u8>, &[u8]) {
    let (bytes, rest) = der[2..].split_at(usize::from(der[1]));
    let significant: Vec<u8> = bytes.iter().copied().skip_while(|&byte| byte == 0).collect();
    ([vec![0; 32 - significant.len()], significant].concat(), rest)
}

/// THREATS C12: r and s are 0, which a careless verifier takes for a signature of everything.
fn signature_of_zeros() -> Vec<u8> {
    let draft = Draft::good();
    let zeros = [0x30, 6, 2, 1, 0, 2, 1, 0];
    with_release(&draft, Some(Attestation::new(&draft.payloads()[0], &zeros, test_key_id()).unwrap()))
}

fn unknown_key() -> Vec<u8> {
    let draft = Draft::good();
    draft.with_attestations(&draft.attestations(other_key()))
}

/// THREATS C14: signed by another key, with the pinned key's hint.
fn forged_hint() -> Vec<u8> {
    let draft = Draft::good();
    let payload = &draft.payloads()[0];
    let signature = other_key().sign(&pre_authentication_encoding(PAYLOAD_TYPE, payload)).unwrap();
    with_release(&draft, Some(Attestation::new(payload, &signature, test_key_id()).unwrap()))
}

/// THREATS C10.
fn missing_release() -> Vec<u8> {
    with_release(&Draft::good(), None)
}

/// THREATS C10.
fn missing_oms() -> Vec<u8> {
    let draft = Draft::good();
    let mut attestations = draft.attestations(test_key());
    attestations.remove(1);
    draft.with_attestations(&attestations)
}

fn differing_statements() -> Vec<u8> {
    let mut draft = Draft::good();
    let mut attestations = draft.attestations(test_key());
    draft.release.counter.0 += 1;
    attestations.push(attest(&draft.payloads()[0], test_key()).unwrap());
    draft.with_attestations(&attestations)
}

/// THREATS C20: the release statement of another bundle by the same vendor.
fn another_subject() -> Vec<u8> {
    let other = three_files();
    with_release(&Draft::good(), Some(attest(&other.payloads()[0], test_key()).unwrap()))
}

/// A model signature over other files than the manifest's.
fn oms_mismatch() -> Vec<u8> {
    let mut draft = Draft::good();
    let mut layers = draft.manifest.layers().to_vec();
    layers[0].digest = ampoule_bundle::Digest::of(b"another config");
    draft.oms = OmsStatement::about(&draft.release.name, &layers);
    draft.to_bytes()
}

/// The good bundle with one byte changed at the end of the first stretch that equals `needle`.
fn flipped(needle: &[u8]) -> Vec<u8> {
    let mut bytes = good();
    let start = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[start + needle.len() - 1] ^= 1;
    bytes
}

fn layer_digest() -> Vec<u8> {
    flipped(br#"{"model_type":"llama""#)
}

fn weights_digest() -> Vec<u8> {
    let data: Vec<u8> = (0..16).collect();
    flipped(&data)
}

fn weight_header_digest() -> Vec<u8> {
    flipped(br#""a.weight":{"dtype":"F3"#)
}

/// THREATS C08: a header length of 2^63.
fn oversized_header() -> Vec<u8> {
    let mut weights = safetensors(&[("a", "U8", &[2], b"ab")]);
    weights[..8].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    Draft::with_weights("model.safetensors", weights).to_bytes()
}

/// THREATS C08.
fn safetensors_overlap() -> Vec<u8> {
    let tensor = r#"{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    let weights = safetensors_with_header(&format!(r#"{{"a":{tensor},"b":{tensor}}}"#), b"abcd");
    Draft::with_weights("model.safetensors", weights).to_bytes()
}

/// THREATS C05 and C07: 2^40 times 2^40 elements wrap to none.
fn gguf_overflow_dimensions() -> Vec<u8> {
    gguf(|file| {
        file.extend(gguf_counts(1, 0));
        file.extend(gguf_tensor(&[1 << 40, 1 << 40], 0));
    })
}

/// THREATS C04: a tensor that lies beyond the end of the file.
fn gguf_outside_file() -> Vec<u8> {
    gguf(|file| {
        file.extend(gguf_counts(1, 0));
        file.extend(gguf_tensor(&[1 << 20], 0));
    })
}

/// THREATS C06: a key of 2^62 bytes, which must not be allocated to find out that it is not there.
fn gguf_long_key() -> Vec<u8> {
    gguf(|file| {
        file.extend(gguf_counts(0, 1));
        file.extend((1_u64 << 62).to_le_bytes());
    })
}

/// THREATS C06: 2^63 entries.
fn gguf_many_entries() -> Vec<u8> {
    gguf(|file| file.extend(gguf_counts(0, 1 << 63)))
}

fn gguf(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut weights = b"GGUF".to_vec();
    weights.extend(3_u32.to_le_bytes());
    write(&mut weights);
    weights.resize(weights.len().next_multiple_of(32), 0);
    Draft::with_weights("model.gguf", weights).to_bytes()
}

fn gguf_counts(tensors: u64, entries: u64) -> Vec<u8> {
    [tensors, entries].map(u64::to_le_bytes).concat()
}

/// A tensor `a` of single precision.
fn gguf_tensor(dimensions: &[u64], offset: u64) -> Vec<u8> {
    let mut tensor = [&1_u64.to_le_bytes()[..], b"a"].concat();
    tensor.extend(u32::try_from(dimensions.len()).unwrap().to_le_bytes());
    tensor.extend(dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
    tensor.extend(0_u32.to_le_bytes());
    tensor.extend(offset.to_le_bytes());
    tensor
}

fn repeated_tensor() -> Vec<u8> {
    let first = safetensors(&[("a", "U8", &[2], b"ab")]);
    let second = safetensors(&[("a", "U8", &[2], b"cd")]);
    Draft::of(vec![
        ("model-1.safetensors", LayerKind::Weight, first),
        ("model-2.safetensors", LayerKind::Weight, second),
    ])
    .to_bytes()
}

/// The good bundle with another contract, rightly signed.
fn stating(change: impl FnOnce(&mut ampoule_bundle::ReleaseStatement)) -> Vec<u8> {
    let mut draft = Draft::good();
    change(&mut draft.release);
    draft.to_bytes()
}

fn expired() -> Vec<u8> {
    stating(|release| release.expires = Some(time("2001-01-01T00:00:00Z")))
}

fn not_yet_valid() -> Vec<u8> {
    stating(|release| release.not_before = Some(time("2999-01-01T00:00:00Z")))
}

fn runtime_too_old() -> Vec<u8> {
    stating(|release| release.requires.runtime.min = semver::Version::new(999, 0, 0))
}

fn feature_missing() -> Vec<u8> {
    stating(|release| {
        release.requires.runtime.features.insert("time-travel".to_owned());
    })
}

fn trust_root_too_old() -> Vec<u8> {
    stating(|release| release.trust_root_version = 2)
}
