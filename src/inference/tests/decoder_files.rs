//! From the bytes of weight files to logits: GGUF of each family, and safetensors in three number formats.
//!
//! `fixtures/decoder/make_gguf.py` wrote the GGUF files with the PyPI package `gguf`, and the expectation is what
//! Transformers computes from the values in them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ampoule_bundle::{GgufHeader, GgufValue, SafetensorsHeader, TensorInfo, TensorMemory, TensorSink};
use ampoule_inference::model::{Config, Decoder, KvCache, ModelError, SequenceStep, Weight, Weights, WeightsSink};
use candle_core::{Device, Tensor};

const TOLERANCE: f32 = 1e-4;
const FAMILIES: [&str; 8] = ["llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "smollm3", "granite"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder")
}

struct Expected {
    tokens: Vec<u32>,
    prefill: Vec<Vec<f32>>,
    steps: Vec<Vec<f32>>,
}

impl Expected {
    fn read(path: &str) -> Self {
        let tensors = candle_core::safetensors::load(folder().join(path), &Device::Cpu).unwrap();
        let tokens: Vec<i32> = tensors["tokens"].to_vec1().unwrap();
        Self {
            tokens: tokens.into_iter().map(|token| token.try_into().unwrap()).collect(),
            prefill: tensors["prefill"].to_vec2().unwrap(),
            steps: tensors["steps"].to_vec2().unwrap(),
        }
    }

    /// The largest difference over the prompt and all steps.
    fn difference(&self, decoder: &Decoder) -> Result<f32, ModelError> {
        let prompt = &self.tokens[..self.prefill.len()];
        let prefill: Vec<Vec<f32>> = decoder.forward_all(prompt, None)?.to_vec2()?;
        let mut rows = prefill;
        let mut cache = KvCache::new(decoder.config());
        decoder.forward(&mut [SequenceStep { tokens: prompt, cache: &mut cache, adapter: None }])?;
        for token in &self.tokens[prompt.len()..] {
            let logits =
                decoder.forward(&mut [SequenceStep { tokens: &[*token], cache: &mut cache, adapter: None }])?;
            rows.push(logits[0].to_vec1()?);
        }
        let expected = self.prefill.iter().chain(&self.steps);
        assert_eq!(rows.len(), self.tokens.len());
        let differences = rows.iter().zip(expected).flat_map(|(row, expected)| {
            assert_eq!(row.len(), expected.len());
            row.iter().zip(expected).map(|(found, expected)| (found - expected).abs())
        });
        // NaN is the largest difference of all.
        Ok(differences.fold(0.0, |largest, next| if next <= largest { largest } else { next }))
    }

    fn standard_deviation(&self) -> f32 {
        let values: Vec<f32> = self.prefill.iter().flatten().copied().collect();
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
    }
}

fn place_all(config: &Config, file: &[u8], tensors: &[TensorInfo]) -> Result<Weights, ModelError> {
    let sink = WeightsSink::new(config);
    for tensor in tensors {
        let start = usize::try_from(tensor.offset).unwrap();
        let end = start + usize::try_from(tensor.length).unwrap();
        let mut memory = sink.open(tensor.entry(), end - start)?;
        memory.fill_from(&file[start..end]);
        sink.place(tensor.entry(), memory)?;
    }
    sink.finish()
}

struct Gguf {
    file: Vec<u8>,
    header: GgufHeader,
    expected: Expected,
}

impl Gguf {
    fn read(name: &str) -> Self {
        let file = fs::read(folder().join(format!("gguf/{name}.gguf"))).unwrap();
        let header = GgufHeader::parse(&file).unwrap();
        Self { file, header, expected: Expected::read(&format!("gguf/{name}.expected.safetensors")) }
    }

    fn decoder(&self, header: &GgufHeader) -> Result<Decoder, ModelError> {
        let config = Config::from_gguf(header)?;
        let weights = place_all(&config, &self.file, &header.tensors)?;
        Decoder::new(config, weights)
    }
}

#[test]
fn a_gguf_file_of_each_family_gives_the_logits_of_transformers() {
    for name in FAMILIES {
        let gguf = Gguf::read(name);
        let found = gguf.expected.difference(&gguf.decoder(&gguf.header).unwrap()).unwrap();
        println!("{name}: differs by {found:e}");
        assert!(found <= TOLERANCE, "{name}: differs by {found:e}");
    }
}

/// The values in the blocks are exact, and so are their places; only the products of quantised weights round, because
/// candle quantises the activations too, as llama.cpp does.  Rounding the activations so in PyTorch moves these logits
/// by up to 0.35, a sixth of their standard deviation; a quarter is allowed.
#[test]
fn quantised_weights_give_the_logits_of_transformers() {
    const RELATIVE_TOLERANCE: f32 = 0.25;
    let gguf = Gguf::read("llama-quantised");
    let config = Config::from_gguf(&gguf.header).unwrap();

    let weights = place_all(&config, &gguf.file, &gguf.header.tensors).unwrap();
    let quantised = weights.iter().filter(|(_, weight)| matches!(weight, Weight::Quantized(_))).count();
    assert_eq!(quantised, 2 * 7 + 2);
    let dequantised: BTreeMap<String, Tensor> =
        weights.iter().map(|(name, weight)| (name.to_owned(), weight.dequantize().unwrap())).collect();
    let dense = Decoder::new(config.clone(), Weights::from_tensors(dequantised).unwrap()).unwrap();
    let found = gguf.expected.difference(&dense).unwrap();
    println!("dequantised: differs by {found:e}");
    assert!(found <= TOLERANCE, "dequantised: differs by {found:e}");

    let deviation = gguf.expected.standard_deviation();
    let found = gguf.expected.difference(&Decoder::new(config, weights).unwrap()).unwrap();
    println!("quantised: differs by {found:e}, the logits deviate by {deviation:e}");
    assert!(found > 0.0 && found <= RELATIVE_TOLERANCE * deviation, "quantised: differs by {found:e}");
}

#[test]
fn every_field_of_gguf_metadata_matters() {
    // The context length decides nothing but where a sequence ends, unless a scaling leans on it; too small a one
    // is refused.  File types and fine-tuning marks are for people.
    for name in FAMILIES {
        let gguf = Gguf::read(name);
        let prefix = format!("{}.", gguf.header.metadata["general.architecture"].as_str().unwrap());
        let fields: Vec<&String> = gguf.header.metadata.keys().filter(|key| key.starts_with(&prefix)).collect();
        assert!(fields.len() >= 8, "{name}");
        for field in fields {
            let other = match &gguf.header.metadata[field] {
                GgufValue::U32(_) if field.ends_with("context_length") && !field.contains("original") => {
                    GgufValue::U32(40)
                }
                GgufValue::U32(value) => GgufValue::U32(value / 2),
                GgufValue::F32(_) if field.ends_with("epsilon") => GgufValue::F32(0.1),
                GgufValue::F32(value) => GgufValue::F32(value * 1.5),
                GgufValue::String(_) => GgufValue::String("something else".to_owned()),
                other => panic!("{name}: {field} is {other:?}"),
            };
            let mut header = gguf.header.clone();
            header.metadata.insert(field.clone(), other);
            let outcome = gguf.decoder(&header).and_then(|decoder| gguf.expected.difference(&decoder));
            assert!(
                !outcome.as_ref().is_ok_and(|found| *found <= 1e-3),
                "{name}: another {field} changes only {outcome:?}"
            );
        }

        let mut header = gguf.header.clone();
        header.metadata.insert(format!("{prefix}attention.quantum"), GgufValue::Bool(true));
        assert!(matches!(
            Config::from_gguf(&header),
            Err(ModelError::UnknownConfigField { field, .. }) if field == format!("{prefix}attention.quantum")
        ));
    }
}

#[test]
fn gguf_files_with_other_tensors_are_refused_by_name() {
    let gguf = Gguf::read("granite");
    let refuse = |change: &dyn Fn(&mut GgufHeader)| {
        let mut header = gguf.header.clone();
        change(&mut header);
        gguf.decoder(&header).unwrap_err()
    };
    let error = refuse(&|header| header.tensors.retain(|tensor| tensor.name != "blk.1.ffn_up.weight"));
    assert!(matches!(error, ModelError::MissingTensor { name } if name == "model.layers.1.mlp.up_proj.weight"));
    let error = refuse(&|header| header.tensors.retain(|tensor| tensor.name != "token_embd.weight"));
    assert!(matches!(error, ModelError::MissingTensor { name } if name == "token_embd.weight"));
    for other in ["blk.9.ffn_up.weight", "blk.01.ffn_up.weight", "blk.1.ffn_up_exps.weight", "surprise"] {
        let error = refuse(&|header| {
            let tensor = header.tensors.iter_mut().find(|tensor| tensor.name == "blk.1.ffn_up.weight");
            tensor.unwrap().name = other.to_owned();
        });
        assert!(matches!(&error, ModelError::UnknownTensor { name } if name == other), "{other}: {error}");
    }
    let error = refuse(&|header| {
        let tensor = header.tensors.iter_mut().find(|tensor| tensor.name == "blk.1.ffn_up.weight");
        tensor.unwrap().name = "blk.1.ffn_gate.weight".to_owned();
    });
    assert!(matches!(error, ModelError::RepeatedTensor { .. }), "{error}");
    let error = refuse(&|header| {
        let tensor = header.tensors.iter_mut().find(|tensor| tensor.name == "blk.1.ffn_up.weight");
        tensor.unwrap().shape.reverse();
    });
    assert!(matches!(error, ModelError::MisshapenTensor { .. }), "{error}");
    let error = refuse(&|header| {
        header.metadata.insert("general.architecture".to_owned(), GgufValue::String("mamba".to_owned()));
    });
    assert!(matches!(error, ModelError::UnsupportedArchitecture { found, .. } if found == "mamba"));
    let error = refuse(&|header| {
        header.metadata.insert("general.type".to_owned(), GgufValue::String("adapter".to_owned()));
    });
    assert!(matches!(error, ModelError::UnsupportedConfigField { field, .. } if field == "general.type"));
}

#[test]
fn safetensors_in_every_number_format_give_the_logits_of_transformers() {
    for (name, format) in [("llama", "F32"), ("mistral", "F16"), ("granite", "BF16"), ("phi3", "F32")] {
        let file = fs::read(folder().join(name).join("model.safetensors")).unwrap();
        let header = SafetensorsHeader::parse(&file).unwrap();
        assert!(header.tensors().iter().all(|tensor| format!("{:?}", tensor.kind) == format), "{name}");
        let config = Config::from_hugging_face(&fs::read(folder().join(name).join("config.json")).unwrap()).unwrap();
        let weights = place_all(&config, &file, header.tensors()).unwrap();
        let expected = Expected::read(&format!("{name}/expected.safetensors"));
        let found = expected.difference(&Decoder::new(config, weights).unwrap()).unwrap();
        assert!(found <= TOLERANCE, "{name}: differs by {found:e}");
    }
}

#[test]
fn parameters_are_counted() {
    let gguf = Gguf::read("llama-quantised");
    let config = Config::from_gguf(&gguf.header).unwrap();
    let stored: usize = gguf.header.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
    assert_eq!(config.parameter_count(), stored as u64);
}
