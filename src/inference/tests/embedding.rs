//! Encoders against Transformers and sentence-transformers; `fixtures/embedding/make.py` writes what must come out.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;
use std::path::{Path, PathBuf};

use ampoule_bundle::statement::{KnownAnswer, KnownAnswers};
use ampoule_bundle::{
    ReleaseStatement, SafetensorsHeader, SealedBundle, TensorEntry, TensorInfo, TensorKind, TensorMemory, TensorSink,
    TrustRoot,
};
use ampoule_inference::encoder::{Encoder, EncoderConfig, EncoderSink, Family, Normalisation, Pooling};
use ampoule_inference::model::ModelError;
use ampoule_inference::packed::PackedWeights;
use ampoule_inference::{
    EmbeddingRequest, EngineConfig, EngineHandle, GenerationRequest, InferenceError, LoadOptions, LoadedModel,
    ModelKind, SubmitError,
};
use ampoule_kernels::Processor;
use serde::Deserialize;

#[derive(Deserialize)]
struct Sentences {
    sentences: Vec<String>,
    token_ids: Vec<Vec<u32>>,
    /// By pooling mode, before normalisation.
    vectors: BTreeMap<String, Vec<Vec<f32>>>,
}

#[derive(Deserialize)]
struct TokenRows {
    token_ids: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

fn expected<T: serde::de::DeserializeOwned>(path: &str) -> T {
    serde_json::from_slice(&std::fs::read(common::fixture(path)).unwrap()).unwrap()
}

fn config(folder: &Path) -> EncoderConfig {
    let files: HashMap<&str, Vec<u8>> =
        ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "tokenizer_config.json"]
            .into_iter()
            .filter_map(|path| Some((path, std::fs::read(folder.join(path)).ok()?)))
            .collect();
    EncoderConfig::from_files(|path| files.get(path).map(Vec::as_slice)).unwrap()
}

/// The folder's tensors, their names changed.
fn weights(folder: &Path, rename: impl Fn(&str) -> String) -> PackedWeights {
    let file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let sink = EncoderSink::default();
    for tensor in SafetensorsHeader::parse(&file).unwrap().tensors() {
        let tensor = TensorInfo { name: rename(&tensor.name), ..tensor.clone() };
        let start = usize::try_from(tensor.offset).unwrap();
        let end = start + usize::try_from(tensor.length).unwrap();
        let mut memory = sink.open(tensor.entry(), end - start).unwrap();
        memory.fill_from(&file[start..end]);
        sink.place(tensor.entry(), memory).unwrap();
    }
    sink.finish().unwrap()
}

fn encoder(config: EncoderConfig, folder: &Path) -> Encoder {
    let processor = Processor::new(NonZero::new(2).unwrap()).unwrap();
    Encoder::new(config, weights(folder, str::to_owned), processor).unwrap()
}

fn rows(tokens: &[Vec<u32>]) -> Vec<&[u32]> {
    tokens.iter().map(Vec::as_slice).collect()
}

fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= tolerance, "{found} instead of {expected}");
        }
    }
}

fn unit_length(vector: &[f32]) -> Vec<f32> {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / length).collect()
}

fn engine(folder: &Path) -> EngineHandle {
    let model = LoadedModel::load(common::admitted(folder, |_| ()), &LoadOptions::default()).unwrap();
    model.prove().unwrap().spawn(EngineConfig::default()).unwrap()
}

fn embed(engine: &EngineHandle, inputs: Vec<Vec<u32>>) -> Vec<Vec<f32>> {
    engine.embed(EmbeddingRequest { inputs }).unwrap().blocking_wait().unwrap().vectors
}

#[test]
fn every_pooling_equals_sentence_transformers() {
    let folder = common::fixture("embedding/bert");
    let expected: Sentences = expected("embedding/bert/expected.json");
    let modes = [
        ("mean", Pooling::Mean),
        ("cls", Pooling::FirstToken),
        ("max", Pooling::Max),
        ("mean_sqrt_len_tokens", Pooling::MeanOverRoot),
    ];
    for (mode, pooling) in modes {
        let plain = EncoderConfig { pooling, normalisation: Normalisation::None, ..config(&folder) };
        let mut encoder = encoder(plain, &folder);
        let found = encoder.embed(&rows(&expected.token_ids)).unwrap();
        assert_close(&found, &expected.vectors[mode], 1e-4);
    }
}

#[test]
fn roberta_counts_positions_from_its_padding() {
    let folder = common::fixture("embedding/roberta");
    let expected: TokenRows = expected("embedding/roberta/expected.json");
    let configured =
        EncoderConfig { pooling: Pooling::FirstToken, normalisation: Normalisation::UnitLength, ..config(&folder) };
    assert_eq!((configured.max_tokens, configured.transformer.family), (22, Family::Roberta { padding: 1 }));
    let mut encoder = encoder(configured, &folder);
    assert_close(&encoder.embed(&rows(&expected.token_ids)).unwrap(), &expected.vectors, 1e-4);
}

#[test]
fn neighbours_do_not_change_a_bit() {
    for (folder, vocabulary) in [("embedding/bert", 79u32), ("embedding/roberta", 60)] {
        let folder = common::fixture(folder);
        let mut encoder = encoder(config(&folder), &folder);
        let inputs: Vec<Vec<u32>> = [3u32, 20, 1, 9]
            .iter()
            .map(|&length| (0..length).map(|at| 5 + at * 7 % (vocabulary - 5)).collect())
            .collect();
        let together = encoder.embed(&rows(&inputs)).unwrap();
        for (input, together) in inputs.iter().zip(together) {
            assert_eq!([together], *encoder.embed(&[input]).unwrap());
        }
    }
}

#[test]
fn a_checkpoint_with_a_head_is_read_by_its_prefix() {
    let folder = common::fixture("embedding/bert");
    let mut plain = encoder(config(&folder), &folder);
    let prefixed = weights(&folder, |name| format!("bert.{name}"));
    let processor = Processor::new(NonZero::<usize>::MIN).unwrap();
    let mut prefixed = Encoder::new(config(&folder), prefixed, processor).unwrap();
    assert_eq!(plain.embed(&[&[2, 9, 3]]).unwrap(), prefixed.embed(&[&[2, 9, 3]]).unwrap());
}

#[test]
fn a_sealed_encoder_is_served_from_text_to_vector() {
    let engine = engine(&common::fixture("embedding/bert"));
    let profile = engine.profile().clone();
    assert_eq!((profile.kind, profile.embedding_dimension, profile.context_length), (ModelKind::Encoder, Some(32), 36));
    assert_eq!((profile.architecture.as_str(), profile.quantisation.as_str()), ("bert", "F32"));
    let expected: Sentences = expected("embedding/bert/expected.json");
    let tokens: Vec<Vec<u32>> = expected.sentences.iter().map(|text| engine.embedding_tokens(text).unwrap()).collect();
    assert_eq!(tokens, expected.token_ids);
    let wanted: Vec<Vec<f32>> = expected.vectors["mean"].iter().map(|vector| unit_length(vector)).collect();
    let result = engine.embed(EmbeddingRequest { inputs: tokens.clone() }).unwrap().blocking_wait().unwrap();
    assert_close(&result.vectors, &wanted, 1e-4);
    assert_eq!(result.usage.prompt_tokens, tokens.iter().map(Vec::len).sum::<usize>() as u64);
}

#[test]
fn many_texts_take_several_batches_and_keep_their_order() {
    let engine = engine(&common::fixture("embedding/bert"));
    let inputs: Vec<Vec<u32>> =
        (0..150u32).map(|n| (0..1 + n * 13 % 36).map(|at| 5 + (n + at * 3) % 70).collect()).collect();
    let together = embed(&engine, inputs.clone());
    for (input, together) in inputs.into_iter().zip(together) {
        assert_eq!([together], *embed(&engine, vec![input]));
    }
}

#[test]
fn what_an_encoder_cannot_take_is_refused_at_once() {
    let engine = engine(&common::fixture("embedding/bert"));
    let refused = |inputs| engine.embed(EmbeddingRequest { inputs }).unwrap_err();
    assert_eq!(refused(vec![]), SubmitError::NoInput);
    assert_eq!(refused(vec![vec![2, 3], vec![]]), SubmitError::EmptyPrompt);
    assert_eq!(refused(vec![vec![5; 37]]), SubmitError::PromptTooLong { found: 37, limit: 36 });
    assert_eq!(refused(vec![vec![79]]), SubmitError::TokenOutOfRange { token: 79, vocabulary_size: 79 });
    let wrong = engine.submit(GenerationRequest::new(vec![1], 1)).unwrap_err();
    assert_eq!(wrong, SubmitError::WrongKind { required: ModelKind::Generator, found: ModelKind::Encoder });
}

#[test]
fn what_has_no_vector_is_refused_before_anything_is_computed() {
    for (folder, most, vocabulary) in [("embedding/bert", 36, 79), ("embedding/roberta", 22, 60)] {
        let folder = common::fixture(folder);
        let mut encoder = encoder(config(&folder), &folder);
        let mut refused = |input: &[u32]| encoder.embed(&[&[5], input]).unwrap_err();
        assert!(matches!(refused(&[]), ModelError::EmptyInput));
        let too_long = refused(&vec![5; most + 1]);
        assert!(
            matches!(too_long, ModelError::ContextExceeded { found, limit } if (found, limit) == (most + 1, most)),
            "{too_long}"
        );
        let unknown = refused(&[5, vocabulary]);
        assert!(matches!(unknown, ModelError::TokenOutOfRange { found, .. } if found == vocabulary), "{unknown}");
        assert!(encoder.embed(&[]).unwrap().is_empty());
        assert_eq!(encoder.embed(&[&vec![5; most], &[vocabulary - 1]]).unwrap().len(), 2);
    }
}

#[test]
fn known_answers_to_what_has_no_vector_are_refused_by_name() {
    let refused = |input: Vec<u32>| {
        let answers = vec![KnownAnswer::Embedding { input, components_millionths: vec![0] }];
        let known = KnownAnswers { tolerance_millionths: [("cpu".to_owned(), 1)].into(), answers };
        let change = |release: &mut ReleaseStatement| release.known_answers = Some(known);
        let bundle = common::admitted(&common::fixture("embedding/bert"), change);
        match LoadedModel::load(bundle, &LoadOptions::default()).unwrap().prove().err() {
            Some(InferenceError::Model(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refused(vec![]), ModelError::EmptyInput));
    assert!(matches!(refused(vec![5; 37]), ModelError::ContextExceeded { found: 37, limit: 36 }));
    assert!(matches!(refused(vec![5, 79]), ModelError::TokenOutOfRange { found: 79, vocabulary_size: 79 }));
}

/// Copies a folder with all that is below it.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_model_of_two_tokens_is_proved_with_two() {
    let folder = tempfile::tempdir().unwrap();
    copy(&common::fixture("embedding/bert"), folder.path());
    std::fs::write(folder.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 2}"#).unwrap();
    let engine = engine(folder.path());
    assert_eq!(engine.profile().context_length, 2);
    assert_eq!(embed(&engine, vec![vec![2, 3]]).len(), 1);
}

#[test]
fn tensors_that_hold_no_number_are_refused_by_name() {
    for shape in [&[0, 1 << 50][..], &[4, 0], &[0, 0], &[0]] {
        let tensor = TensorEntry { name: "empty", kind: TensorKind::F32, shape };
        let refused = EncoderSink::default().open(tensor, 0).unwrap_err();
        let by_name = matches!(&refused, InferenceError::Model(ModelError::EmptyTensor { name, found })
            if name == "empty" && found == shape);
        assert!(by_name, "{refused}");
    }
}

/// The sealed all-MiniLM-L6-v2 and its root, where `cargo xtask bundle all-minilm-l6-v2` puts them.
fn minilm() -> Option<(PathBuf, PathBuf)> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let made = workspace.join("target/bundles/all-minilm-l6-v2.bundle");
    let bundle = std::env::var_os("AMPOULE_MINILM_BUNDLE").map_or(made, PathBuf::from);
    if bundle.exists() {
        let root = bundle.with_file_name("root.json");
        return Some((bundle, root));
    }
    let missing = "the bundle of all-minilm-l6-v2 is missing (cargo xtask bundle all-minilm-l6-v2)";
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{missing}");
    eprintln!("skipped: minilm_equals_sentence_transformers: {missing}");
    None
}

#[test]
fn minilm_equals_sentence_transformers() {
    #[derive(Deserialize)]
    struct Expected {
        sentences: Vec<String>,
        vectors: Vec<Vec<f32>>,
    }
    let Some((bundle, root)) = minilm() else { return };
    let root = TrustRoot::pin(&std::fs::read(root).unwrap()).unwrap();
    let verified = SealedBundle::open(std::fs::File::open(bundle).unwrap()).unwrap().verify(&root).unwrap();
    let model = LoadedModel::load(common::admit(verified), &LoadOptions::default()).unwrap();
    let engine = model.prove().unwrap().spawn(EngineConfig::default()).unwrap();
    let expected: Expected = expected("embedding/minilm.json");
    assert_eq!(expected.sentences.len(), 20);
    let tokens = expected.sentences.iter().map(|text| engine.embedding_tokens(text).unwrap()).collect();
    let mut least = 1f32;
    for (found, expected) in embed(&engine, tokens).iter().zip(&expected.vectors) {
        let expected = unit_length(expected);
        let cosine: f32 = found.iter().zip(&expected).map(|(a, b)| a * b).sum();
        assert!(cosine >= 0.9999, "cosine {cosine}");
        least = least.min(cosine);
        assert!((unit_length(found)[0] - found[0]).abs() < 1e-5, "not of unit length");
    }
    println!("least cosine of 20 sentences: {least}");
}
