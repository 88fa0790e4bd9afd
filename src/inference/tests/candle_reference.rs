//! The decoder over packed weights against a second implementation of Llama that shares nothing with it, the one that
//! `candle-transformers` has: the same files, the same tokens, the same logits, within what either of them rounds.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Cursor;
use std::num::NonZero;
use std::path::Path;

use ampoule_bundle::{GgufHeader, SafetensorsHeader, TensorInfo, TensorMemory, TensorSink};
use ampoule_inference::model::Config;
use ampoule_inference::packed::{Generator, PackedDecoder, PackedSink};
use ampoule_kernels::{KvElement, Processor};
use candle_core::quantized::gguf_file::Content;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Llama, LlamaConfig};
use candle_transformers::models::quantized_llama::ModelWeights;
use serde_json::{Value, json};

/// How far logits may be off, as a fraction of what they spread over, where both compute in single precision.  Of these
/// models such a pass is off from one in double precision by less than 3e-5 at each logit.
const TOLERANCE: f32 = 1e-4;
/// The same where both round the rows that quantised weights are multiplied with to bytes: ours to 127 steps on either side of
/// zero, theirs to 128 on one of them, or with a scale in half precision.  Passes in double precision that round like this
/// are 0.05 apart.
const QUANTISED_TOLERANCE: f32 = 0.1;

/// How many tokens are fed at once; those after them come one by one.  The last of neither fills a block of memory.
const PROMPT: usize = 41;
const TOKENS: usize = 70;

fn read(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)).unwrap()
}

/// The logits after the prompt and after each token that follows.  `feed` is told where its tokens stand.
fn logits(vocabulary: usize, mut feed: impl FnMut(&[u32], usize) -> Vec<f32>) -> Vec<f32> {
    let tokens: Vec<u32> = (0..TOKENS).map(|place| (place * 37 % vocabulary) as u32).collect();
    let mut logits = feed(&tokens[..PROMPT], 0);
    for position in PROMPT..TOKENS {
        logits.extend(feed(&tokens[position..=position], position));
    }
    assert_eq!(logits.len(), (1 + TOKENS - PROMPT) * vocabulary);
    logits
}

fn ours(config: &Config, file: &[u8], tensors: &[TensorInfo]) -> Vec<f32> {
    let sink = PackedSink::new(config);
    for tensor in tensors {
        let start = usize::try_from(tensor.offset).unwrap();
        let bytes = &file[start..start + usize::try_from(tensor.length).unwrap()];
        let mut memory = sink.open(tensor.entry(), bytes.len()).unwrap();
        memory.fill_from(bytes);
        sink.place(tensor.entry(), memory).unwrap();
    }
    let decoder = PackedDecoder::new(config.clone(), sink.finish().unwrap()).unwrap();
    let processor = Processor::new(NonZero::new(2).unwrap()).unwrap();
    let mut generator = Generator::new(decoder, processor, KvElement::F32);
    let mut sequence = generator.alone(TOKENS, None);
    logits(config.vocabulary_size, |tokens, _| sequence.feed(tokens).unwrap())
}

fn batch(tokens: &[u32]) -> Tensor {
    Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap()
}

fn numbers(logits: candle_core::Result<Tensor>) -> Vec<f32> {
    logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// How far numbers are off, as a fraction of what those that were expected spread over.
fn off(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let mean = expected.iter().sum::<f32>() / expected.len() as f32;
    let spread = root_mean_square(expected.iter().map(|number| number - mean));
    root_mean_square(found.iter().zip(expected).map(|(found, expected)| found - expected)) / spread
}

fn root_mean_square(numbers: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = numbers.len() as f32;
    (numbers.map(|number| number * number).sum::<f32>() / count).sqrt()
}

fn check(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    let off = off(found, expected);
    println!("{name}: off by {off:e}");
    assert!(off <= tolerance, "{name}: off by {off:e}");
}

#[test]
fn llama_in_single_precision_computes_what_candle_computes() {
    let file = read("decoder/llama-linear/model.safetensors");
    let header = SafetensorsHeader::parse(&file).unwrap();
    let scaled = json!({
        "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 24,
    });
    for rope in [Value::Null, scaled] {
        let mut json: Value = serde_json::from_slice(&read("decoder/llama-linear/config.json")).unwrap();
        json["rope_scaling"] = rope;
        let config = Config::from_hugging_face(json.to_string().as_bytes()).unwrap();
        let their_config = serde_json::from_value::<LlamaConfig>(json.clone()).unwrap().into_config(false);
        let weights = VarBuilder::from_slice_safetensors(&file, DType::F32, &Device::Cpu).unwrap();
        let theirs = Llama::load(weights, &their_config).unwrap();
        let mut cache = Cache::new(true, DType::F32, &their_config, &Device::Cpu).unwrap();
        let expected = logits(config.vocabulary_size, |tokens, position| {
            numbers(theirs.forward(&batch(tokens), position, &mut cache))
        });
        check(&json["rope_scaling"].to_string(), &ours(&config, &file, header.tensors()), &expected, TOLERANCE);
    }
}

#[test]
fn llama_of_a_gguf_file_computes_what_candle_computes() {
    // The second has matrices of Q8_0, Q4_0, Q4_K, Q5_K and Q6_K.
    for (path, tolerance) in
        [("engine/gguf/model.gguf", TOLERANCE), ("decoder/gguf/llama-quantised.gguf", QUANTISED_TOLERANCE)]
    {
        let file = read(path);
        let header = GgufHeader::parse(&file).unwrap();
        let config = Config::from_gguf(&header).unwrap();
        let content = Content::read(&mut Cursor::new(&file)).unwrap();
        let mut theirs = ModelWeights::from_gguf(content, &mut Cursor::new(&file), &Device::Cpu).unwrap();
        let expected =
            logits(config.vocabulary_size, |tokens, position| numbers(theirs.forward(&batch(tokens), position)));
        check(path, &ours(&config, &file, &header.tensors), &expected, tolerance);
    }
}
