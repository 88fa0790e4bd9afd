//! A bundle whose parts lie apart is the same bundle: put together from blobs, found in an OCI layout that other tools
//! rewrote, or completed from a thin one.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use ampoule_bundle::archive::{Assembled, Parts, ThinBundle, gather, write_thin};
use ampoule_bundle::{BundleError, Curve, Digest, LayerKind, SealedBundle, Source};
use serde_json::{Value, json};

use crate::sample::{Draft, Signer, draft, file, open_and_verify, root};

/// The files of an OCI layout, by name.
type Files = BTreeMap<String, Vec<u8>>;

fn layout_of(bundle: &[u8]) -> Files {
    let sealed = SealedBundle::open(bundle.to_vec()).unwrap();
    let content = |file: &ampoule_bundle::archive::PlacedFile<'_>| {
        let mut bytes = Vec::new();
        file.copy_to(&mut bytes).unwrap();
        bytes
    };
    sealed.layout_files().iter().map(|file| (file.path.to_string(), content(file))).collect()
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.to_hex())
}

/// Adds a document as a blob and returns its descriptor.
fn put(files: &mut Files, media_type: &str, document: &Value) -> Value {
    let bytes = serde_json::to_vec(document).unwrap();
    let digest = Digest::of(&bytes);
    let descriptor = json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() });
    files.insert(blob_name(digest), bytes);
    descriptor
}

fn open_blob(files: &Files, digest: Digest) -> Result<Arc<dyn Source>, BundleError> {
    match files.get(&blob_name(digest)) {
        Some(bytes) => Ok(Arc::new(bytes.clone())),
        None => Err(BundleError::Io { what: digest.to_string(), source: io::ErrorKind::NotFound.into() }),
    }
}

fn find(files: &Files, tag: Option<&str>) -> Result<Parts, BundleError> {
    gather(&files["index.json"], tag, &|digest| open_blob(files, digest))
}

/// The whole file that the parts in a layout give.
fn assemble(files: &Files, parts: &Parts) -> Result<Assembled, BundleError> {
    let layers: Vec<_> = parts.manifest.layers().iter().map(|layer| open_blob(files, layer.digest).unwrap()).collect();
    Assembled::new(parts, &layers)
}

fn bytes_of(source: &dyn Source, step: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        match source.read_at(&mut buffer, bytes.len() as u64).unwrap() {
            0 => return bytes,
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn sealed(draft: &Draft) -> (Signer, Vec<u8>) {
    let signer = Signer::new(Curve::P256);
    let bytes = draft.seal(&[&signer]);
    (signer, bytes)
}

/// The sample with files that share a blob with others, and with the empty config.
fn with_shared_blobs() -> Draft {
    let mut draft = draft();
    draft.files.push(file("special_tokens_map.json", LayerKind::Config, b"{}"));
    draft.files.push(file("copy.md", LayerKind::Doc, b"# A model\n"));
    draft.files.push(file("empty", LayerKind::Doc, b""));
    draft
}

#[test]
fn parts_that_lie_apart_give_the_one_file_at_every_step_of_reading() {
    let (signer, bundle) = sealed(&with_shared_blobs());
    let files = layout_of(&bundle);
    let parts = find(&files, None).unwrap();
    for step in [1, 511, 512, 4096, 1 << 20] {
        assert!(bytes_of(&assemble(&files, &parts).unwrap(), step) == bundle, "in steps of {step}");
    }
    let opened = SealedBundle::open(assemble(&files, &parts).unwrap()).unwrap();
    assert_eq!(opened.file_bytes(), bundle.len() as u64);
    let mut copy = Vec::new();
    opened.copy_to(&mut copy).unwrap();
    assert!(copy == bundle);
    opened.verify(&root(&[&signer], 1)).unwrap().check_weights(&|_| ()).unwrap();
}

#[test]
fn the_model_s_files_lie_beside_their_signature() {
    let (signer, bundle) = sealed(&draft());
    let opened = SealedBundle::open(bundle).unwrap();
    let signature = signer.attest(&draft().oms_payload());
    let content = |file: &ampoule_bundle::archive::PlacedFile<'_>| {
        let mut bytes = Vec::new();
        file.copy_to(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, file.size, "{}", file.path);
        (file.path.to_string(), bytes)
    };
    let found: Vec<_> = opened.model_files(Some(&signature)).iter().map(content).collect();
    let layers = opened.unverified_manifest().layers().iter();
    let mut expected: Vec<_> =
        layers.map(|layer| (layer.path.to_string(), draft().content(&layer.path).to_vec())).collect();
    assert_eq!(opened.model_files(None).len(), expected.len());
    expected.push(("model.sig".to_owned(), signature.bytes().to_vec()));
    assert!(found == expected);
}

#[test]
fn a_layer_of_another_length_is_refused_and_one_of_other_content_is_found_out() {
    let (signer, bundle) = sealed(&draft());
    let mut files = layout_of(&bundle);
    let parts = find(&files, None).unwrap();
    let tokenizer = parts.manifest.layers().iter().find(|layer| layer.path.as_str() == "tokenizer.json").unwrap();
    let name = blob_name(tokenizer.digest);
    let content = files[&name].clone();
    for length in [0, content.len() - 1, content.len() + 1] {
        files.insert(name.clone(), vec![b' '; length]);
        let refusal = assemble(&files, &parts).err();
        assert!(matches!(refusal, Some(BundleError::Disagreement { .. })), "{length}: {refusal:?}");
    }
    // THREATS C20: a blob of the right length under another one's name.
    files.insert(name, vec![b' '; content.len()]);
    let opened = SealedBundle::open(assemble(&files, &parts).unwrap()).unwrap();
    let refusal = opened.verify(&root(&[&signer], 1)).err();
    assert!(matches!(refusal, Some(BundleError::DigestMismatch { .. })), "{refusal:?}");
}

#[test]
fn what_skopeo_leaves_of_an_index_is_enough() {
    let (_, bundle) = sealed(&draft());
    let mut files = layout_of(&bundle);
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let tagged = index["manifests"].as_array().unwrap().iter();
    let tagged = tagged.filter(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == "bundle");
    let digest: Digest = tagged.clone().next().unwrap()["digest"].as_str().unwrap().parse().unwrap();
    // As skopeo writes it: no annotations, no artifact types, another order of members and of manifests.
    let mut nested: Value = serde_json::from_slice(&files[&blob_name(digest)]).unwrap();
    let manifests = nested["manifests"].as_array_mut().unwrap();
    manifests.reverse();
    for descriptor in manifests {
        descriptor.as_object_mut().unwrap().remove("annotations");
        descriptor.as_object_mut().unwrap().remove("artifactType");
    }
    files.remove(&blob_name(digest));
    let mut nested = put(&mut files, "application/vnd.oci.image.index.v1+json", &nested);
    nested["annotations"] = json!({ "org.opencontainers.image.ref.name": "1.0.0" });
    files.insert("index.json".to_owned(), serde_json::to_vec(&json!({ "manifests": [nested] })).unwrap());
    for tag in [None, Some("1.0.0")] {
        assert!(bytes_of(&assemble(&files, &find(&files, tag).unwrap()).unwrap(), 4096) == bundle);
    }
    let refusal = find(&files, Some("latest")).err();
    assert!(matches!(&refusal, Some(BundleError::NoModel { found, .. }) if found == "1.0.0"), "{refusal:?}");
}

#[test]
fn two_models_in_one_layout_are_told_apart_by_their_tags() {
    let (_, first) = sealed(&draft());
    let (_, second) = sealed(&with_shared_blobs());
    let (mut files, others) = (layout_of(&first), layout_of(&second));
    let entry = |files: &Files, tag: &str| {
        let digest = find(files, None).unwrap().manifest.digest().to_string();
        json!({ "digest": digest, "annotations": { "org.opencontainers.image.ref.name": tag } })
    };
    // The attestations are found by their subject, whatever the tag of the model alone leads to.
    let both: Vec<Value> = [(&files, "old"), (&others, "new")]
        .into_iter()
        .flat_map(|(files, tag)| {
            let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
            let mut untagged: Vec<Value> = index["manifests"].as_array().unwrap()[1..].to_vec();
            untagged.iter_mut().for_each(|entry| entry["annotations"] = json!({}));
            [vec![entry(files, tag)], untagged].concat()
        })
        .collect();
    files.extend(others.into_iter().filter(|(name, _)| name != "index.json"));
    files.insert("index.json".to_owned(), serde_json::to_vec(&json!({ "manifests": both })).unwrap());
    assert!(bytes_of(&assemble(&files, &find(&files, Some("old")).unwrap()).unwrap(), 4096) == first);
    assert!(bytes_of(&assemble(&files, &find(&files, Some("new")).unwrap()).unwrap(), 4096) == second);
    let refusal = find(&files, None).err();
    let told = refusal.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(
        matches!(refusal, Some(BundleError::SeveralModels { found: 2, .. })) && told.contains("new, old"),
        "{told}"
    );
}

#[test]
fn c01_a_digest_in_an_index_is_64_hex_digits_or_nothing() {
    for digest in ["sha256:../../../../etc/passwd", "../../index.json", "sha512:00", "sha256:AB", ""] {
        let index = json!({ "manifests": [{ "digest": digest }] });
        let asked = |digest: Digest| -> Result<Arc<dyn Source>, BundleError> { panic!("{digest} was asked for") };
        let refusal = gather(&serde_json::to_vec(&index).unwrap(), None, &asked).err();
        assert!(matches!(refusal, Some(BundleError::WrongField { field: "digest", .. })), "{digest}: {refusal:?}");
    }
}

#[test]
fn c22_a_compressed_layer_is_refused_by_its_media_type_and_never_unpacked() {
    let (_, bundle) = sealed(&draft());
    for ending in ["tar+gzip", "tar+zstd", "tar", "raw+gzip"] {
        let mut files = layout_of(&bundle);
        let parts = find(&files, None).unwrap();
        let text = String::from_utf8(parts.manifest.bytes().to_vec()).unwrap();
        let compressed = text.replacen("weight.v1.raw", &format!("weight.v1.{ending}"), 1);
        let compressed: Value = serde_json::from_str(&compressed).unwrap();
        let descriptor = put(&mut files, "application/vnd.oci.image.manifest.v1+json", &compressed);
        files.insert("index.json".to_owned(), serde_json::to_vec(&json!({ "manifests": [descriptor] })).unwrap());
        let refusal = find(&files, None).err();
        assert!(matches!(refusal, Some(BundleError::UnknownMediaType { .. })), "{ending}: {refusal:?}");
    }
}

#[test]
fn an_index_that_leads_nowhere_or_around_ends() {
    let mut files = Files::new();
    // Each index names the one below it many times over.
    let mut below = put(&mut files, "", &json!({ "artifactType": "an image" }));
    for _ in 0..2 {
        below = put(&mut files, "", &json!({ "manifests": vec![below; 40] }));
    }
    files.insert("index.json".to_owned(), serde_json::to_vec(&json!({ "manifests": [below.clone()] })).unwrap());
    assert!(matches!(find(&files, None).err(), Some(BundleError::NoModel { .. })));
    let many = json!({ "manifests": vec![below.clone(); 1025] });
    files.insert("index.json".to_owned(), serde_json::to_vec(&many).unwrap());
    assert!(matches!(find(&files, None).err(), Some(BundleError::TooLarge { limit: 1024, .. })));
    for _ in 0..2 {
        below = put(&mut files, "", &json!({ "manifests": [below] }));
    }
    files.insert("index.json".to_owned(), serde_json::to_vec(&json!({ "manifests": [below] })).unwrap());
    assert!(matches!(find(&files, None).err(), Some(BundleError::TooLarge { limit: 3, .. })));
}

/// The second version of the sample: one file changed, the weights the same.
fn next_version() -> Draft {
    let mut next = with_shared_blobs();
    next.files.retain(|(path, ..)| path.as_str() != "README.md");
    next.files.push(file("README.md", LayerKind::Doc, b"# A better model\n"));
    next
}

fn thin_of(old: &[u8], new: &[u8]) -> (Vec<u8>, u64) {
    let open = |bytes: &[u8]| SealedBundle::open(bytes.to_vec()).unwrap();
    let mut thin = Vec::new();
    let carried = write_thin(&open(old), &open(new), &mut thin).unwrap();
    (thin, carried)
}

#[test]
fn a_thin_bundle_and_the_old_one_give_the_new_one_byte_for_byte() {
    let ((_, old), (_, new)) = (sealed(&with_shared_blobs()), sealed(&next_version()));
    let (thin, carried) = thin_of(&old, &new);
    assert_eq!(carried, "# A better model\n".len() as u64, "nothing but what changed is carried");
    assert!(thin_of(&old, &new).0 == thin, "the same two give the same bytes");
    assert!(ThinBundle::is_one(&thin).unwrap() && !ThinBundle::is_one(&new).unwrap());
    let held = layout_of(&old);
    let opened = ThinBundle::open(thin).unwrap();
    assert_eq!((opened.base().name.as_str(), opened.base().version.to_string().as_str()), ("sample", "1.2.3"));
    let layers = opened.parts().manifest.layers().iter();
    let layers: Vec<_> = layers
        .map(|layer| opened.layer(layer.digest).unwrap_or_else(|| open_blob(&held, layer.digest).unwrap()))
        .collect();
    let whole = Assembled::new(opened.parts(), &layers).unwrap();
    assert!(bytes_of(&whole, 4096) == new);
    // Against nothing in common, a thin bundle carries everything once.
    let (_, carried) = thin_of(&sealed(&Draft { files: vec![], ..draft() }).1, &old);
    let distinct: BTreeMap<_, _> =
        with_shared_blobs().layers().into_iter().map(|layer| (layer.digest, layer.size)).collect();
    assert_eq!(carried, distinct.values().sum::<u64>());
}

#[test]
fn c03_a_thin_bundle_is_no_bundle_and_has_one_form() {
    let ((_, old), (_, new)) = (sealed(&with_shared_blobs()), sealed(&next_version()));
    let (thin, _) = thin_of(&old, &new);
    assert!(matches!(SealedBundle::open(thin.clone()), Err(BundleError::ThinBundle)));
    assert!(ThinBundle::open(new.clone()).is_err(), "a whole bundle is no thin one");
    let content = b"# A better model\n";
    let layer = thin.windows(content.len()).position(|window| window == content).unwrap();
    for position in 0..thin.len() {
        let mut bent = thin.clone();
        bent[position] ^= 0x20;
        let opened = ThinBundle::open(bent);
        // The content of a layer is held against its digest when it is read.
        let is_layer = (layer..layer + content.len()).contains(&position);
        // And a hint at the base is a hint: a letter of its name may be another one.
        let is_hint = opened.as_ref().is_ok_and(|opened| opened.base().name.as_str() != "sample");
        assert!(opened.is_err() || is_layer || is_hint, "byte {position} is free");
    }
    for length in (0..thin.len()).step_by(97) {
        assert!(ThinBundle::open(thin[..length].to_vec()).is_err(), "cut to {length}");
    }
    let longer = [&thin[..], &[0; 512]].concat();
    assert!(matches!(ThinBundle::open(longer), Err(BundleError::TrailingBytes { .. })));
}

#[test]
fn a_completed_bundle_is_verified_like_any_other() {
    let draft = next_version();
    let signer = Signer::new(Curve::P256);
    let new = draft.seal(&[&signer]);
    let (_, old) = sealed(&with_shared_blobs());
    let opened = ThinBundle::open(thin_of(&old, &new).0).unwrap();
    let mut held = layout_of(&old);
    let (name, weights) = held.iter().find(|(_, bytes)| bytes.len() > 100 && bytes[8] == b'{').unwrap();
    let (name, mut weights) = (name.clone(), weights.clone());
    *weights.last_mut().unwrap() ^= 1;
    held.insert(name, weights);
    let layers = opened.parts().manifest.layers().iter();
    let layers: Vec<_> = layers
        .map(|layer| opened.layer(layer.digest).unwrap_or_else(|| open_blob(&held, layer.digest).unwrap()))
        .collect();
    let whole = bytes_of(&Assembled::new(opened.parts(), &layers).unwrap(), 4096);
    let refusal = open_and_verify(whole, &root(&[&signer], 1)).unwrap().check_weights(&|_| ()).unwrap_err();
    assert!(matches!(refusal, BundleError::DigestMismatch { .. }), "{refusal}");
}

/// What is named a thousand times is read once, and what is looked at has a bound together: nobody has signed an index.
#[test]
fn a_manifest_that_is_named_again_and_again_is_read_once() {
    let signer = Signer::new(Curve::P256);
    let mut files = layout_of(&draft().seal(&[&signer]));
    let reads = std::cell::Cell::new(0);
    let mut index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let other = put(&mut files, "application/vnd.oci.image.manifest.v1+json", &json!({ "layers": [] }));
    let manifests = index["manifests"].as_array_mut().unwrap();
    manifests.extend(std::iter::repeat_n(other, 1000));
    let named = manifests.len();
    files.insert("index.json".to_owned(), index.to_string().into_bytes());
    let open = |digest| {
        reads.set(reads.get() + 1);
        open_blob(&files, digest)
    };
    gather(&files["index.json"], None, &open).unwrap();
    assert!(reads.get() < 20, "{named} are named, {} were read", reads.get());

    let long = "x".repeat(3 << 20);
    for number in 0..11 {
        let large = put(&mut files, "application/vnd.oci.image.manifest.v1+json", &json!({ "a": long, "n": number }));
        index["manifests"].as_array_mut().unwrap().push(large);
    }
    let error = gather(&index.to_string().into_bytes(), None, &|digest| open_blob(&files, digest)).err().unwrap();
    assert!(matches!(error, BundleError::TooLarge { limit: 33_554_432, .. }), "{error}");
}
