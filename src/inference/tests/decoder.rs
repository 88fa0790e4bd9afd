//! The decoder against Transformers: same weights, same tokens, same logits; and not by luck, because changing any
//! field of the configuration must change the answer.
//!
//! `fixtures/decoder/make.py` made the models and the expectations.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use ampoule_inference::model::{Config, Decoder, KvCache, ModelError, SequenceStep, Weights};
use candle_core::{Device, Tensor, Var};
use serde_json::{Value, json};

/// Largest accepted absolute difference from Transformers' single-precision logits.
const TOLERANCE: f32 = 1e-4;

const FIXTURES: [&str; 14] = [
    "llama",
    "llama-linear",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "phi3-longrope",
    "phi3-longrope-crossing",
    "gemma2",
    "gemma3",
    "gemma3-nested",
    "smollm3",
    "smollm3-interval",
    "granite",
];

struct Fixture {
    name: &'static str,
    config: Value,
    tensors: BTreeMap<String, Tensor>,
    tokens: Vec<u32>,
    prompt_length: usize,
    prefill: Vec<Vec<f32>>,
    steps: Vec<Vec<f32>>,
}

impl Fixture {
    fn read(name: &'static str) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder").join(name);
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
        let expected = candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
        let tokens: Vec<i32> = expected["tokens"].to_vec1().unwrap();
        let prefill: Vec<Vec<f32>> = expected["prefill"].to_vec2().unwrap();
        Self {
            name,
            config,
            tensors: tensors.into_iter().collect(),
            tokens: tokens.into_iter().map(|token| token.try_into().unwrap()).collect(),
            prompt_length: prefill.len(),
            prefill,
            steps: expected["steps"].to_vec2().unwrap(),
        }
    }

    fn decoder(&self) -> Decoder {
        self.decoder_with(&self.config).unwrap()
    }

    fn decoder_with(&self, config: &Value) -> Result<Decoder, ModelError> {
        let config = Config::from_hugging_face(config.to_string().as_bytes())?;
        Decoder::new(config, Weights::from_tensors(self.tensors.clone())?)
    }

    fn prompt(&self) -> &[u32] {
        &self.tokens[..self.prompt_length]
    }

    /// The largest difference over the whole prompt and all steps.
    fn difference(&self, decoder: &Decoder) -> Result<f32, ModelError> {
        let prefill: Vec<Vec<f32>> = decoder.forward_all(self.prompt(), None)?.to_vec2()?;
        let mut largest = difference(&prefill, &self.prefill);
        let mut cache = KvCache::new(decoder.config());
        extend(decoder, self.prompt(), &mut cache)?;
        for (token, expected) in self.tokens[self.prompt_length..].iter().zip(&self.steps) {
            let logits = extend(decoder, &[*token], &mut cache)?;
            largest = largest.max(row_difference(&logits, expected));
        }
        Ok(largest)
    }
}

fn extend(decoder: &Decoder, tokens: &[u32], cache: &mut KvCache) -> Result<Vec<f32>, ModelError> {
    let logits = decoder.forward(&mut [SequenceStep { tokens, cache, adapter: None }])?;
    Ok(logits[0].to_vec1()?)
}

fn row_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    // A comparison that NaN cannot pass.
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(
        0.0,
        |largest, next| {
            if next <= largest { largest } else { next }
        },
    )
}

fn difference(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| row_difference(a, b))
        .fold(0.0, |largest, next| if next <= largest { largest } else { next })
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        assert_eq!(fixture.steps.len(), 32);
        let decoder = fixture.decoder();

        let prefill: Vec<Vec<f32>> = decoder.forward_all(fixture.prompt(), None).unwrap().to_vec2().unwrap();
        let found = difference(&prefill, &fixture.prefill);
        println!("{name}: prefill differs by {found:e}");
        assert!(found <= TOLERANCE, "{name}: prefill differs by {found:e}");

        let mut cache = KvCache::new(decoder.config());
        let last = extend(&decoder, fixture.prompt(), &mut cache).unwrap();
        let found = row_difference(&last, fixture.prefill.last().unwrap());
        assert!(found <= TOLERANCE, "{name}: prefill into a cache differs by {found:e}");
        let mut largest = 0.0_f32;
        for (step, (token, expected)) in fixture.tokens[fixture.prompt_length..].iter().zip(&fixture.steps).enumerate()
        {
            let logits = extend(&decoder, &[*token], &mut cache).unwrap();
            let found = row_difference(&logits, expected);
            assert!(found <= TOLERANCE, "{name}: step {step} differs by {found:e}");
            largest = largest.max(found);
        }
        println!("{name}: steps differ by {largest:e}");
        assert_eq!(cache.position(), fixture.tokens.len());
    }
}

#[test]
fn a_prompt_in_chunks_gives_the_same_logits() {
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        let decoder = fixture.decoder();
        for chunk in [1, 5, 13, 32] {
            let mut cache = KvCache::new(decoder.config());
            let mut position = 0;
            for tokens in fixture.tokens.chunks(chunk) {
                let logits = extend(&decoder, tokens, &mut cache).unwrap();
                position += tokens.len();
                // In the prompt, LongRoPE expects the logits of a sequence that is already long; then only its end
                // is comparable.
                let expected = match position.checked_sub(fixture.prompt_length + 1) {
                    Some(step) => &fixture.steps[step],
                    None if name.contains("longrope") => continue,
                    None => &fixture.prefill[position - 1],
                };
                let found = row_difference(&logits, expected);
                assert!(found <= TOLERANCE, "{name}: chunks of {chunk}, position {position}: {found:e}");
            }
        }
    }
}

#[test]
fn neighbours_and_repetition_do_not_change_a_bit() {
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        let decoder = fixture.decoder();
        let bits = |neighbours: usize| -> Vec<u32> {
            let mut caches: Vec<KvCache> = (0..=neighbours).map(|_| KvCache::new(decoder.config())).collect();
            let mut collected = Vec::new();
            for (step, tokens) in fixture.tokens[..56].chunks(7).enumerate() {
                let mut batch: Vec<SequenceStep<'_>> = caches
                    .iter_mut()
                    .enumerate()
                    .map(|(index, cache)| {
                        let own = if index == neighbours { tokens } else { &tokens[..1 + (step + index) % 7] };
                        SequenceStep { tokens: own, cache, adapter: None }
                    })
                    .collect();
                let logits = decoder.forward(&mut batch).unwrap();
                let logits: Vec<f32> = logits[neighbours].to_vec1().unwrap();
                collected.extend(logits.into_iter().map(f32::to_bits));
            }
            collected
        };
        let alone = bits(0);
        assert_eq!(alone, bits(0), "{name}");
        assert_eq!(alone, bits(3), "{name}");
    }
}

#[test]
fn training_computes_the_same_logits_and_reaches_every_weight() {
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        let variables: BTreeMap<String, Var> = fixture
            .tensors
            .iter()
            .map(|(name, tensor)| {
                let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
                (name.clone(), Var::from_tensor(&tensor).unwrap())
            })
            .collect();
        let tensors = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
        let config = Config::from_hugging_face(fixture.config.to_string().as_bytes()).unwrap();
        let decoder = Decoder::new(config, Weights::from_tensors(tensors).unwrap()).unwrap();
        let row = Tensor::new(fixture.prompt(), &Device::Cpu).unwrap();
        let batch = Tensor::stack(&[&row, &row], 0).unwrap();

        let positions = Tensor::arange(0, 2 * fixture.prompt_length as u32, &Device::Cpu).unwrap();
        let run =
            || decoder.forward_training(&batch, &positions, None).unwrap().reshape((2, fixture.prompt_length, ()));
        let logits = run().unwrap();
        for index in 0..2 {
            let found: Vec<Vec<f32>> = logits.get(index).unwrap().to_vec2().unwrap();
            let found = difference(&found, &fixture.prefill);
            assert!(found <= TOLERANCE, "{name}: differs by {found:e}");
        }

        let gradients = logits.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        for (tensor, variable) in &variables {
            let gradient = gradients.get(variable.as_tensor());
            let size: f32 =
                gradient.map_or(0.0, |gradient| gradient.abs().unwrap().sum_all().unwrap().to_scalar().unwrap());
            // A bias of the keys shifts all scores of a query alike, unless a norm or a rotation follows.
            assert!(size > 0.0 || tensor.ends_with("k_proj.bias"), "{name}: {tensor} gets no gradient");
        }

        let step = 1e-3;
        let weight = &variables["model.layers.0.input_layernorm.weight"];
        weight.set(&(weight.as_tensor() + step).unwrap()).unwrap();
        let changed: Vec<Vec<f32>> = run().unwrap().get(0).unwrap().to_vec2().unwrap();
        assert!(difference(&changed, &fixture.prefill) > TOLERANCE, "{name}: a changed weight is not seen");
    }
}

/// Fields that say nothing about the logits of given token ids.  Everything else in a fixture's `config.json` must
/// break it when changed.
const WITHOUT_MEANING: [&str; 12] = [
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "embd_pdrop",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "pretraining_tp",
    "resid_pdrop",
    "torch_dtype",
    "transformers_version",
    "use_cache",
];

/// Fields that are without meaning in one fixture only, each with its reason.
const WITHOUT_MEANING_HERE: [(&str, &str); 2] = [
    // An unscaled encoding has no original context.
    ("phi3", "original_max_position_embeddings"),
    // All its sequences are longer than the original context; the other LongRoPE fixture has both kinds.
    ("phi3-longrope", "rope_scaling.short_factor"),
];

/// Another value for a field, far enough away to matter.
fn flipped(path: &str, value: &Value) -> Vec<Value> {
    match (path.rsplit('.').next().unwrap(), value) {
        ("model_type", _) => vec![json!("gpt2")],
        ("rope_type" | "type", _) => vec![json!("default"), json!("dynamic")],
        ("hidden_act" | "hidden_activation", _) => vec![json!("gelu"), json!("relu")],
        // A thousandth of an activation's mean square is below what a tiny fixture shows, so this one moves far.
        ("rms_norm_eps", _) => vec![json!(0.1), json!(-1.0)],
        ("max_position_embeddings", _) => vec![json!(64)],
        ("original_max_position_embeddings", Value::Number(number)) => vec![json!(number.as_u64().unwrap() / 2)],
        ("sliding_window", Value::Number(number)) => {
            let window = number.as_u64().unwrap();
            vec![json!(window - 1), json!(window + 1), Value::Null]
        }
        (_, Value::Null) => vec![json!(5)],
        (_, Value::Bool(flag)) => vec![json!(!flag)],
        (_, Value::Number(number)) if number.is_u64() => {
            let number = number.as_u64().unwrap();
            vec![json!(number + 1), json!(number * 2), json!(0), json!(-1)]
        }
        (_, Value::Number(number)) => vec![json!(number.as_f64().unwrap() * 1.5), json!(-1.0)],
        (_, Value::String(_)) => vec![json!("something else")],
        (_, Value::Array(items)) => {
            let mut reversed = items.clone();
            reversed.reverse();
            let mut changed = items.clone();
            changed[0] = flipped("item", &items[0]).remove(0);
            vec![Value::Array(if reversed == *items { changed.clone() } else { reversed }), Value::Array(changed)]
        }
        (_, Value::Object(_)) => unreachable!("objects are walked through"),
    }
}

fn paths(prefix: &str, value: &Value) -> Vec<String> {
    value
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(name, value)| match value {
            Value::Object(_) => paths(&format!("{prefix}{name}."), value),
            _ => vec![format!("{prefix}{name}")],
        })
        .collect()
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

#[test]
fn every_field_of_a_configuration_matters() {
    let mut idle = Vec::new();
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        for path in paths("", &fixture.config) {
            if WITHOUT_MEANING.contains(&path.as_str()) || WITHOUT_MEANING_HERE.contains(&(name, &path)) {
                continue;
            }
            let value = fixture.config.pointer(&pointer(&path)).unwrap();
            for other in flipped(&path, value).into_iter().filter(|other| other != value) {
                let mut config = fixture.config.clone();
                *config.pointer_mut(&pointer(&path)).unwrap() = other.clone();
                let outcome = fixture.decoder_with(&config).and_then(|decoder| fixture.difference(&decoder));
                // NaN is a difference too.
                if outcome.as_ref().is_ok_and(|found| *found <= 1e-3) {
                    idle.push(format!("{}: {path} from {value} to {other} changes only {outcome:?}", fixture.name));
                }
            }
        }
    }
    assert!(idle.is_empty(), "{idle:#?}");
}

#[test]
fn fields_without_meaning_change_nothing() {
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        let mut config = fixture.config.clone();
        for field in WITHOUT_MEANING {
            if let Some(value) = config.get_mut(field) {
                *value = flipped(field, value).remove(0);
            }
        }
        let found = fixture.difference(&fixture.decoder_with(&config).unwrap()).unwrap();
        assert!(found <= TOLERANCE, "{name}: differs by {found:e}");
    }
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        for place in ["", "rope_parameters.", "rope_scaling.", "rope_parameters.full_attention."] {
            let mut config = fixture.config.clone();
            let target = if place.is_empty() {
                Some(&mut config)
            } else {
                config.pointer_mut(pointer(place).trim_end_matches('/'))
            };
            let Some(Value::Object(fields)) = target else { continue };
            fields.insert("use_quantum_attention".to_owned(), json!(true));
            let expected = format!("{place}use_quantum_attention");
            match fixture.decoder_with(&config) {
                Err(ModelError::UnknownConfigField { field, .. }) => assert_eq!(field, expected, "{name}"),
                other => panic!("{name}: {place}: {other:?}"),
            }
        }
    }
}

#[test]
fn weights_must_be_exactly_what_the_configuration_calls_for() {
    let fixture = Fixture::read("llama");
    let config = || Config::from_hugging_face(fixture.config.to_string().as_bytes()).unwrap();
    let build = |tensors: BTreeMap<String, Tensor>| Decoder::new(config(), Weights::from_tensors(tensors).unwrap());
    for name in fixture.tensors.keys() {
        let mut missing = fixture.tensors.clone();
        missing.remove(name);
        assert!(matches!(build(missing), Err(ModelError::MissingTensor { name: found }) if found == *name));

        let mut misshapen = fixture.tensors.clone();
        let wider = Tensor::cat(&[&fixture.tensors[name], &fixture.tensors[name]], 0).unwrap();
        misshapen.insert(name.clone(), wider);
        assert!(matches!(build(misshapen), Err(ModelError::MisshapenTensor { name: found, .. }) if found == *name));
    }
    let mut unknown = fixture.tensors.clone();
    unknown.insert("model.layers.0.self_attn.q_norm.weight".to_owned(), fixture.tensors["model.norm.weight"].clone());
    assert!(matches!(build(unknown), Err(ModelError::UnknownTensor { .. })));

    let tied = Fixture::read("llama-linear");
    let table = &tied.tensors["model.embed_tokens.weight"];
    let config = Config::from_hugging_face(tied.config.to_string().as_bytes()).unwrap();
    for (output, accepted) in [(table.clone(), true), ((table + 1.0).unwrap(), false)] {
        let mut tensors = tied.tensors.clone();
        tensors.insert("lm_head.weight".to_owned(), output);
        let decoder = Decoder::new(config.clone(), Weights::from_tensors(tensors).unwrap());
        assert_eq!(decoder.is_ok(), accepted, "{decoder:?}");
    }
}

#[test]
fn impossible_input_is_refused_before_anything_is_computed() {
    let fixture = Fixture::read("llama");
    let decoder = fixture.decoder();
    let mut cache = KvCache::new(decoder.config());
    assert!(matches!(extend(&decoder, &[], &mut cache), Err(ModelError::EmptyInput)));
    assert!(matches!(
        extend(&decoder, &[1, 64], &mut cache),
        Err(ModelError::TokenOutOfRange { found: 64, vocabulary_size: 64 })
    ));
    assert!(matches!(
        extend(&decoder, &[1; 129], &mut cache),
        Err(ModelError::ContextExceeded { found: 129, limit: 128 })
    ));
    assert_eq!(cache.position(), 0);
    extend(&decoder, &[1; 128], &mut cache).unwrap();
    assert!(matches!(extend(&decoder, &[1], &mut cache), Err(ModelError::ContextExceeded { found: 129, limit: 128 })));

    let other = Config { layers: Vec::new(), ..decoder.config().clone() };
    assert!(matches!(
        extend(&decoder, &[1], &mut KvCache::new(&other)),
        Err(ModelError::MismatchedCache { found: 0, expected: 4 })
    ));
}

#[test]
fn unsupported_models_are_refused_by_name() {
    let refuse = |config: Value, expected: &str| {
        let error = Config::from_hugging_face(config.to_string().as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    refuse(json!({}), "(none)");
    refuse(json!({ "model_type": "gemma3" }), "gemma3_text");
    refuse(json!({ "model_type": "llama" }), "hidden_size is missing");
    refuse(json!([]), "not a JSON object");
    let with = |name: &'static str, field: &str, value: Value| {
        let mut config = Fixture::read(name).config;
        config[field] = value;
        config
    };
    refuse(with("llama", "quantization_config", json!({ "bits": 4 })), "quantization_config");
    refuse(with("llama", "num_key_value_heads", json!(3)), "num_key_value_heads");
    refuse(with("llama", "hidden_size", json!(u64::MAX)), "hidden_size");
    refuse(with("llama", "num_hidden_layers", json!(1_000_000)), "num_hidden_layers");
    refuse(with("gemma2", "use_bidirectional_attention", json!(true)), "use_bidirectional_attention");
    refuse(with("gemma3", "attn_logit_softcapping", json!(50.0)), "attn_logit_softcapping");
    refuse(with("qwen3", "partial_rotary_factor", json!(0.5)), "partial_rotary_factor");
    refuse(with("qwen2", "layer_types", json!(["full_attention"])), "layer_types");
}
