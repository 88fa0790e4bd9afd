//! What `--quantize` makes of a model's folder.

use std::collections::BTreeMap;
use std::path::Path;

use ampoule_bundle::statement::AdapterBinding;
use ampoule_bundle::{Digest, GgufHeader, GgufValue, SealedBundle, TensorKind};
use ampoule_sealing::SealingError;
use ampoule_sealing::conversion::{ConversionError, Quantization};
use ampoule_sealing::quantize::BlockFormat;
use ampoule_sealing::seal::{SealRequest, seal};
use half::{bf16, f16};

use crate::support::{gguf, request, root, safetensors, test_key, write_model};

/// Numbers that bfloat16 and half precision hold exactly.
fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 37 + at / 5) % 255) as f32 / 128.0 - 1.0).collect()
}

fn bytes(kind: &str, values: &[f32]) -> Vec<u8> {
    match kind {
        "BF16" => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        "F16" => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        "I64" => vec![0; 8 * values.len()],
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

/// Writes a model of these tensors: name, kind, shape.
fn write(folder: &Path, config: &str, tensors: &[(&str, &str, &[usize])]) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config).unwrap();
    std::fs::write(folder.join("tokenizer.json"), r#"{"version":"1.0"}"#).unwrap();
    let data: Vec<Vec<u8>> =
        tensors.iter().map(|(_, kind, shape)| bytes(kind, &numbers(shape.iter().product()))).collect();
    let tensors: Vec<_> =
        tensors.iter().zip(&data).map(|((name, kind, shape), data)| (*name, *kind, *shape, data.as_slice())).collect();
    std::fs::write(folder.join("model.safetensors"), safetensors(&tensors)).unwrap();
}

fn quantizing(model: &Path, format: BlockFormat) -> SealRequest {
    let quantize = Some(Quantization { format, folder: model.parent().unwrap().to_owned() });
    SealRequest { quantize, ..request(model) }
}

/// Seals, and returns the weight file with its header, and the notes.
fn sealed(model: &Path, format: BlockFormat) -> (Vec<u8>, GgufHeader, Vec<String>) {
    let folder = model.parent().unwrap();
    let out = folder.join("out.bundle");
    let packed = seal(&quantizing(model, format), test_key(), &out).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["model", "out.bundle"], "nothing else is left behind");
    let bundle = std::fs::read(&out).unwrap();
    let sealed = SealedBundle::open(bundle.clone()).unwrap();
    let layer = sealed.unverified_manifest().layers().iter().find(|layer| layer.path.as_str() == "model.gguf").unwrap();
    let length = usize::try_from(layer.size).unwrap();
    let starts = (0..bundle.len() - 4).filter(|&at| &bundle[at..at + 4] == b"GGUF");
    let files = starts.filter_map(|at| bundle.get(at..at + length)).map(<[u8]>::to_vec);
    let file = files.into_iter().find(|file| Digest::of(file) == layer.digest).unwrap();
    sealed.verify(&root()).unwrap().check_weights(&|_| ()).unwrap();
    let header = GgufHeader::parse(&file).unwrap();
    (file, header, packed.notes().to_vec())
}

const LLAMA: &str = r#"{"model_type":"llama","tie_word_embeddings":false}"#;

#[test]
fn matrices_become_blocks_and_the_rest_stays_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write(
        &model,
        LLAMA,
        &[
            ("model.embed_tokens.weight", "BF16", &[5, 256]),
            ("model.layers.0.input_layernorm.weight", "BF16", &[256]),
            ("model.layers.0.mlp.up_proj.weight", "F16", &[3, 512]),
            ("model.layers.0.mlp.down_proj.weight", "F32", &[4, 768]),
            ("model.layers.0.mlp.gate_proj.weight", "F32", &[2, 320]),
            ("model.layers.0.self_attn.q_proj.weight", "F16", &[2, 100]),
            ("model.layers.0.self_attn.q_proj.bias", "F16", &[2]),
            ("lm_head.weight", "BF16", &[5, 256]),
            ("position_ids", "I64", &[1, 1]),
        ],
    );
    let (file, header, notes) = sealed(&model, BlockFormat::Q4K);
    let expected: BTreeMap<&str, (TensorKind, &[usize], Option<BlockFormat>)> = [
        ("model.embed_tokens.weight", (TensorKind::Q4K, &[5, 256][..], Some(BlockFormat::Q4K))),
        ("model.layers.0.input_layernorm.weight", (TensorKind::F32, &[256], None)),
        ("model.layers.0.mlp.up_proj.weight", (TensorKind::Q4K, &[3, 512], Some(BlockFormat::Q4K))),
        ("model.layers.0.mlp.down_proj.weight", (TensorKind::Q6K, &[4, 768], Some(BlockFormat::Q6K))),
        ("model.layers.0.mlp.gate_proj.weight", (TensorKind::Q8_0, &[2, 320], Some(BlockFormat::Q8_0))),
        ("model.layers.0.self_attn.q_proj.weight", (TensorKind::F16, &[2, 100], None)),
        ("model.layers.0.self_attn.q_proj.bias", (TensorKind::F32, &[2], None)),
        ("lm_head.weight", (TensorKind::Q6K, &[5, 256], Some(BlockFormat::Q6K))),
    ]
    .into();
    assert_eq!(header.tensors.len(), expected.len() + 1);
    for (name, (kind, shape, format)) in expected {
        let tensor = header.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        assert_eq!((tensor.kind, tensor.shape.as_slice()), (kind, shape), "{name}");
        assert_eq!(tensor.offset % 64, 0, "{name}");
        let values = numbers(shape.iter().product());
        let wanted = match format {
            Some(format) => {
                let mut blocks = vec![0; values.len() / format.block_elements() * format.block_bytes()];
                format.quantize(&values, &mut blocks).unwrap();
                blocks
            }
            None => bytes(&format!("{kind:?}"), &values),
        };
        let start = usize::try_from(tensor.offset).unwrap();
        assert!(file[start..start + wanted.len()] == wanted && tensor.length == wanted.len() as u64, "{name}");
    }
    for (key, value) in [
        ("general.architecture", GgufValue::String("llama".to_owned())),
        ("general.alignment", GgufValue::U32(64)),
        ("general.file_type", GgufValue::U32(15)),
        ("general.quantization_version", GgufValue::U32(2)),
    ] {
        assert_eq!(header.metadata[key], value, "{key}");
    }
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains("gate_proj.weight is stored as q8_0") && notes[1].contains("stored as it is"),
        "{notes:?}"
    );
}

#[test]
fn more_than_one_piece_of_a_tensor_is_the_whole_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    // A piece has four million numbers.
    write(&model, LLAMA, &[("model.layers.0.mlp.up_proj.weight", "F16", &[4100, 1056])]);
    let (file, header, _) = sealed(&model, BlockFormat::Q8_0);
    let values = numbers(4100 * 1056);
    let mut blocks = vec![0; values.len() / 32 * 34];
    BlockFormat::Q8_0.quantize(&values, &mut blocks).unwrap();
    let start = usize::try_from(header.tensors[0].offset).unwrap();
    assert!(file[start..start + blocks.len()] == blocks);
}

#[test]
fn of_an_encoder_the_linear_layers_are_quantised_and_only_as_q8_0() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let tensors: &[(&str, &str, &[usize])] = &[
        ("embeddings.word_embeddings.weight", "F32", &[7, 64]),
        ("encoder.layer.0.attention.self.query.weight", "F32", &[64, 64]),
    ];
    write(&model, r#"{"model_type":"bert"}"#, tensors);
    let (_, header, _) = sealed(&model, BlockFormat::Q8_0);
    let kinds: Vec<_> = header.tensors.iter().map(|tensor| tensor.kind).collect();
    assert_eq!(kinds, [TensorKind::F32, TensorKind::Q8_0]);
    let refused = seal(&quantizing(&model, BlockFormat::Q4K), test_key(), &folder.path().join("b")).unwrap_err();
    assert!(matches!(refused, SealingError::Conversion(ConversionError::EncoderFormat)), "{refused}");
    assert_eq!(refused.exit_code(), 2);
}

#[test]
fn what_cannot_be_quantised_is_refused_by_name_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("model"), folder.path().join("out.bundle"));
    let refusal = |request: &SealRequest| {
        let refused = seal(request, test_key(), &out).expect_err("the sealing must be refused");
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != "model" && name != "model.gguf");
        assert!(names.is_empty(), "{names:?}");
        refused
    };
    let spoilt = |value: f32| {
        let mut values = numbers(256);
        values[200] = value;
        write(&model, LLAMA, &[]);
        let data = bytes("F32", &values);
        let tensors: &[(&str, &str, &[usize], &[u8])] =
            &[("model.layers.0.mlp.up_proj.weight", "F32", &[1, 256], &data)];
        std::fs::write(model.join("model.safetensors"), safetensors(tensors)).unwrap();
        refusal(&quantizing(&model, BlockFormat::Q4_0)).said().join(": ")
    };
    for (value, words) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "infinite"), (7e4, "beyond 65504")] {
        let said = spoilt(value);
        assert!(said.starts_with("model.layers.0.mlp.up_proj.weight cannot") && said.contains(words), "{said}");
    }

    std::fs::write(model.join("model.safetensors"), safetensors(&[("mask", "BOOL", &[1], &[1])])).unwrap();
    let refused = refusal(&quantizing(&model, BlockFormat::Q8_0));
    assert!(
        matches!(&refused, SealingError::Conversion(ConversionError::NoPlaceInGguf { tensor, .. }) if tensor == "mask"),
        "{refused}"
    );

    write_model(&model);
    let digest = Digest::of(b"base");
    let adapter = Some(AdapterBinding { base: digest, tokenizer: digest, chat_template: None });
    let refused = refusal(&SealRequest { adapter, ..quantizing(&model, BlockFormat::Q8_0) });
    assert!(matches!(refused, SealingError::Conversion(ConversionError::OfAdapter)), "{refused}");

    std::fs::remove_file(model.join("config.json")).unwrap();
    let refused = refusal(&quantizing(&model, BlockFormat::Q8_0));
    assert!(matches!(refused, SealingError::Conversion(ConversionError::NoConfig)), "{refused}");

    let file = folder.path().join("model.gguf");
    std::fs::write(&file, gguf("output.weight", &[1.0])).unwrap();
    let refused = refusal(&quantizing(&file, BlockFormat::Q8_0));
    assert!(matches!(refused, SealingError::Conversion(ConversionError::OfGguf { .. })), "{refused}");
}
