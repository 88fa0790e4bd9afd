//! C08: safetensors headers that no model parser may see.

use ampoule_bundle::{BundleError, Curve, LayerKind, SafetensorsHeader, TensorKind, WeightHeaderError};
use proptest::prelude::*;

use crate::sample::{Signer, draft, file, refusal, root, safetensors};

fn check(header: &str, data_bytes: usize) -> Result<SafetensorsHeader, WeightHeaderError> {
    SafetensorsHeader::parse(&safetensors(header, data_bytes))
}

#[test]
fn a_header_is_read_as_written() {
    let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"F16","shape":[2,2],"data_offsets":[4,12]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"BF16","shape":[0,7],"data_offsets":[12,12]}}   "#;
    let parsed = check(header, 12).unwrap();
    assert_eq!(parsed.metadata()["format"], "pt");
    assert_eq!(parsed.length(), 8 + header.len() as u64);
    let tensors: Vec<_> = parsed
        .tensors()
        .iter()
        .map(|tensor| {
            (tensor.name.as_str(), tensor.kind, tensor.shape.clone(), tensor.offset - parsed.length(), tensor.length)
        })
        .collect();
    assert_eq!(
        tensors,
        [
            ("a", TensorKind::F32, vec![], 0, 4),
            ("b", TensorKind::F16, vec![2, 2], 4, 8),
            ("e", TensorKind::BF16, vec![0, 7], 12, 0)
        ]
    );
    assert!(check("{}", 0).unwrap().tensors().is_empty());
}

#[test]
fn c08_lengths_are_capped_before_anything_is_read() {
    for length in [u64::MAX, 1 << 63, 100 << 20, (16 << 20) + 1] {
        let bytes = [&length.to_le_bytes()[..], b"{}"].concat();
        let error = SafetensorsHeader::parse(&bytes).unwrap_err();
        assert!(matches!(error, WeightHeaderError::TooLarge { .. }), "{length}: {error}");
    }
    for bytes in [&b""[..], b"\x02\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0", b"\x02\0\0\0\0\0\0\0{"] {
        let error = SafetensorsHeader::parse(bytes).unwrap_err();
        assert!(matches!(error, WeightHeaderError::Truncated { .. }), "{error}");
    }
}

#[test]
fn c08_headers_that_are_not_strict_json_are_refused() {
    let tensor = r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    for header in [
        format!(r#"{{"a":{tensor},"a":{tensor}}}"#),
        format!(r#"{{"a":{tensor},"\u0061":{tensor}}}"#),
        r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"extra":0}}"#.to_owned(),
        r#"{"a":["U8",[1],[0,1]]}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#.to_owned(),
        r#"{"a":{"dtype":"U8","shape":[1]}}"#.to_owned(),
        format!(r#"{{"__metadata__":{{"a":1}},"a":{tensor}}}"#),
        format!(r#"{{"__metadata__":{{"a":null}},"a":{tensor}}}"#),
        format!(r#"{{"__metadata__":{{"a":"1","a":"2"}},"a":{tensor}}}"#),
        format!(r#" {{"a":{tensor}}}"#),
        format!("{{\"a\":{tensor}}}\n"),
        format!("{{\"a\":{tensor}}}\0"),
        format!(r#"{{"a":{tensor}}}x"#),
        "[]".to_owned(),
        "{".to_owned(),
        "[".repeat(1000),
    ] {
        let error = check(&header, 1).unwrap_err();
        assert!(matches!(error, WeightHeaderError::Json { .. }), "{header}: {error}");
    }
}

#[test]
fn c08_extents_that_do_not_fit_are_refused() {
    let two = |first: &str, second: &str| {
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":{first}}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{second}}}}}"#
        )
    };
    let cases = [
        (two("[0,4]", "[3,7]"), 7, "overlap"),
        (two("[0,4]", "[0,4]"), 4, "overlap"),
        (two("[0,4]", "[5,9]"), 9, "hole"),
        (two("[1,5]", "[5,9]"), 9, "hole"),
        (two("[0,4]", "[4,8]"), 7, "beyond"),
        (two("[4,0]", "[4,8]"), 8, "data_offsets"),
        (two("[0,3]", "[3,7]"), 7, "data_offsets"),
        (two("[9007199254740991,9007199254740991]", "[0,4]"), 4, "data_offsets"),
        (r#"{"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,1]}}"#.to_owned(), 1, "dtype"),
        (r#"{"a":{"dtype":"F32","shape":[9007199254740991],"data_offsets":[0,0]}}"#.to_owned(), 0, "data_offsets"),
        (r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#.to_owned(), 0, "overflow"),
        (r#"{"a":{"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}}"#.to_owned(), 0, "overflow"),
        (r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}"#.to_owned(), 1, "dimensions"),
        (r#"{"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#.to_owned(), 1, "name"),
    ];
    for (header, data_bytes, reason) in cases {
        let error = check(&header, data_bytes).unwrap_err();
        assert!(matches!(error, WeightHeaderError::Tensor { .. }), "{header}: {error}");
        assert!(error.to_string().contains(reason), "{header}: {error}");
    }
    let error = check(&two("[0,4]", "[4,8]"), 9).unwrap_err();
    assert!(matches!(error, WeightHeaderError::Unexplained { found: 1, .. }), "{error}");
}

#[test]
fn a_signed_bundle_with_a_bad_header_is_refused() {
    let signer = Signer::new(Curve::P256);
    let mut draft = draft();
    let weights = safetensors(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 5);
    draft.files[3] = file("model.safetensors", LayerKind::Weight, &weights);
    let error = refusal(draft.seal(&[&signer]), &root(&[&signer], 1));
    assert!(matches!(error, BundleError::WeightHeader { .. }), "{error}");
}

#[test]
fn a_tensor_in_two_files_is_refused() {
    let signer = Signer::new(Curve::P256);
    let mut draft = draft();
    let weights = safetensors(r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4);
    draft.files.push(file("second.safetensors", LayerKind::Weight, &weights));
    let error = refusal(draft.seal(&[&signer]), &root(&[&signer], 1));
    assert!(matches!(error, BundleError::RepeatedTensor { ref tensor, .. } if tensor == "a"), "{error}");
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_fail_otherwise(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut framed = (bytes.len() as u64).to_le_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        let _ = SafetensorsHeader::parse(&framed);
        let _ = SafetensorsHeader::parse(&bytes);
    }
}
