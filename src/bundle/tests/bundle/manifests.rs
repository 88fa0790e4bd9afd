//! Manifests that contradict the format are refused before anything that they name is read.

use ampoule_bundle::{BundleError, BundlePath, Digest, FORMAT_ANNOTATION, Layer, LayerKind, Manifest, json};
use serde_json::{Value, json};

use crate::sample::draft;

fn layer(path: &str, kind: LayerKind, content: &[u8], size: u64) -> Layer {
    Layer { path: BundlePath::try_from(path).unwrap(), kind, digest: Digest::of(content), size }
}

fn refusal(layers: Vec<Layer>) -> BundleError {
    Manifest::new(b"{}", layers).expect_err("the manifest must be refused")
}

/// The refusal of the sample's manifest after `change`.
fn edited(change: impl FnOnce(&mut Value)) -> BundleError {
    let mut tree: Value = serde_json::from_slice(draft().manifest().bytes()).unwrap();
    change(&mut tree);
    Manifest::parse(json::canonical(&tree)).expect_err("the manifest must be refused")
}

#[test]
fn c01_unsafe_paths_and_digests_are_refused() {
    for path in ["../../etc/x", "/etc/x", "a\\..\\b", "a\0b", "a/../b", ""] {
        let error = edited(|tree| {
            tree["layers"][0]["annotations"]["org.cncf.model.filepath"] = json!(path);
            tree["layers"][0]["annotations"]["org.opencontainers.image.title"] = json!(path);
        });
        // U+0000 is refused with the text itself, before anything asks whether it is a path.
        let expected = if path.contains('\0') {
            matches!(error, BundleError::MalformedJson { .. })
        } else {
            matches!(error, BundleError::InvalidText { .. })
        };
        assert!(expected, "{path:?}: {error}");
    }
    for digest in ["sha256:../x", "sha256:../../../../etc/passwd", "sha512:00", "md5:00", ""] {
        let error = edited(|tree| tree["layers"][0]["digest"] = json!(digest));
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{digest:?}: {error}");
    }
}

#[test]
fn c09_repeated_keys_and_free_spelling_are_refused() {
    let text = String::from_utf8(draft().manifest().bytes().to_vec()).unwrap();
    let repeated = text.replacen(r#""schemaVersion":2"#, r#""schemaVersion":1,"schemaVersion":2"#, 1);
    assert!(matches!(Manifest::parse(repeated.into_bytes()), Err(BundleError::MalformedJson { .. })));
    for other in [format!("{text}\n"), text.replacen(':', " :", 1), text.replacen("/vnd", "\\/vnd", 1)] {
        assert!(matches!(Manifest::parse(other.into_bytes()), Err(BundleError::NotCanonicalJson { .. })));
    }
}

#[test]
fn fixed_fields_have_one_value() {
    for (field, value) in [
        ("mediaType", json!("application/vnd.docker.distribution.manifest.v2+json")),
        ("artifactType", json!("application/vnd.cnai.model.manifest.v1+json")),
        ("schemaVersion", json!(1)),
    ] {
        let error = edited(|tree| tree[field] = value);
        assert!(matches!(error, BundleError::WrongField { .. }), "{field}: {error}");
    }
    let error = edited(|tree| tree["config"]["mediaType"] = json!("application/vnd.oci.image.config.v1+json"));
    assert!(matches!(error, BundleError::WrongField { field: "config", .. }), "{error}");
    let error = edited(|tree| tree["config"]["annotations"] = json!({}));
    assert!(matches!(error, BundleError::WrongField { field: "config", .. }), "{error}");
    assert!(error.to_string().contains("a config with other members"), "{error}");
    let error = edited(|tree| tree["annotations"]["extra"] = json!("x"));
    assert!(matches!(error, BundleError::WrongField { field: "annotations", .. }), "{error}");
    let error = edited(|tree| tree["layers"][0]["annotations"]["extra"] = json!("x"));
    assert!(matches!(error, BundleError::WrongField { field: "layers", .. }), "{error}");
    let error = edited(|tree| tree["layers"][0]["annotations"]["org.opencontainers.image.title"] = json!("other"));
    assert!(matches!(error, BundleError::WrongField { field: "layers", .. }), "{error}");
    let error = edited(|tree| tree["layers"][0]["urls"] = json!(["https://example.com"]));
    assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
}

#[test]
fn a_later_format_is_called_that() {
    let error = edited(|tree| {
        tree["annotations"][FORMAT_ANNOTATION] = json!("2");
        tree["newMember"] = json!({});
    });
    assert!(matches!(error, BundleError::UnsupportedFormat { ref found, supported: 1 } if found == "2"), "{error}");
}

#[test]
fn c51_media_types_that_could_run_code_are_refused() {
    for media_type in [
        "application/vnd.cncf.model.code.v1.raw",
        "application/vnd.cncf.model.dataset.v1.raw",
        "application/vnd.cncf.model.weight.v1.tar",
        "application/vnd.cncf.model.weight.v1.tar+gzip",
        "application/octet-stream",
    ] {
        let error = edited(|tree| tree["layers"][0]["mediaType"] = json!(media_type));
        assert!(matches!(error, BundleError::UnknownMediaType { .. }), "{error}");
    }
    for path in ["model.bin", "model.pt", "model.pkl", "model.npy", "safetensors", "x.SAFETENSORS"] {
        let error = refusal(vec![layer(path, LayerKind::Weight, b"", 0)]);
        assert!(matches!(error, BundleError::UnknownWeightFormat { .. }), "{path}: {error}");
    }
}

#[test]
fn layers_have_one_order() {
    let error = edited(|tree| tree["layers"].as_array_mut().unwrap().swap(0, 1));
    assert!(matches!(error, BundleError::LayerOrder { .. }), "{error}");
    let error = edited(|tree| tree["layers"].as_array_mut().unwrap().rotate_right(1));
    assert!(matches!(error, BundleError::LayerOrder { .. }), "{error}");
}

#[test]
fn paths_that_are_one_file_somewhere_are_refused() {
    use LayerKind::{Config, Doc};
    for (first, second) in [("a", "A"), ("a/b", "A/B"), ("a", "a/b"), ("A", "a/b/c"), ("x/a", "x/A/b")] {
        let error = refusal(vec![layer(first, Config, b"1", 1), layer(second, Doc, b"2", 1)]);
        assert!(matches!(error, BundleError::CollidingPaths { .. }), "{first} {second}: {error}");
    }
    let error = refusal(vec![layer("a", Config, b"1", 1), layer("a", Doc, b"2", 1)]);
    assert!(matches!(error, BundleError::LayerOrder { .. }), "{error}");
}

#[test]
fn sizes_and_counts_are_capped() {
    use LayerKind::{Config, Weight};
    let too_large = [
        vec![layer("a", Config, b"1", (128 << 20) + 1)],
        vec![layer("w.gguf", Weight, b"1", 8 << 30)],
        (0..5).map(|index| layer(&format!("f{index}"), Config, &[index], 128 << 20)).collect(),
        (0..4097u32).map(|index| layer(&format!("f{index:04}"), Config, &index.to_le_bytes(), 4)).collect(),
    ];
    for layers in too_large {
        let error = refusal(layers);
        assert!(matches!(error, BundleError::TooLarge { .. }), "{error}");
    }
    assert!(matches!(Manifest::parse(vec![b' '; (4 << 20) + 1]), Err(BundleError::TooLarge { .. })));
    let error = edited(|tree| tree["config"]["size"] = json!((4 << 20) + 1));
    assert!(matches!(error, BundleError::TooLarge { .. }), "{error}");
    for size in [json!(-1), json!(1.0), json!("1"), Value::Null] {
        let error = edited(|tree| tree["layers"][0]["size"] = size);
        assert!(matches!(error, BundleError::MalformedJson { .. }), "{error}");
    }
}

#[test]
fn one_blob_has_one_size_and_is_a_weight_or_not() {
    use LayerKind::{Config, Weight};
    let error = refusal(vec![layer("a", Config, b"1", 1), layer("b", Config, b"1", 2)]);
    assert!(matches!(error, BundleError::ContradictoryBlob { .. }), "{error}");
    let error = refusal(vec![layer("a", Config, b"1", 1), layer("b.gguf", Weight, b"1", 1)]);
    assert!(matches!(error, BundleError::ContradictoryBlob { .. }), "{error}");
}
