//! Fine-tuning against PyTorch and PEFT: logits, gradients and 150 steps of a LoRA on a tiny Llama.
//!
//! `fixtures/tuning.py` made what is expected; the names in brackets are those of the exactness tests that the trainer
//! promises.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use ampoule_inference::model::{Adapter, Config, Decoder, ModelError, Weights};
use ampoule_trainer::learner::Learner;
use ampoule_trainer::optimizer::AdamWSettings;
use ampoule_trainer::rows::Batch;
use ampoule_trainer::tuning::schedule::Settings;
use ampoule_trainer::tuning::{low_rank, peft};
use candle_core::{Device, Tensor, Var};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    config: serde_json::Value,
    rows: usize,
    row_tokens: usize,
    steps: usize,
    rank: usize,
    alpha: f64,
    peak: f64,
    warmup: usize,
    decay: f64,
    clip: f64,
    probe: BatchFixture,
    batches: Vec<BatchFixture>,
    losses: Vec<f32>,
}

#[derive(Deserialize)]
struct BatchFixture {
    inputs: Vec<u32>,
    positions: Vec<u32>,
    targets: Vec<u32>,
}

/// Largest accepted difference of a logit and of a loss from PyTorch's in single precision.
const TOLERANCE: f32 = 1e-5;

struct Torch {
    fixture: Fixture,
    tensors: BTreeMap<String, Tensor>,
}

impl Torch {
    fn read() -> Torch {
        let tensors = include_bytes!("fixtures/tuning.safetensors");
        Torch {
            fixture: serde_json::from_slice(include_bytes!("fixtures/tuning.json")).unwrap(),
            tensors: candle_core::safetensors::load_buffer(tensors, &Device::Cpu).unwrap().into_iter().collect(),
        }
    }

    /// The tensors under a prefix, without it.
    fn group(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let strip = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }

    fn decoder(&self) -> Decoder {
        let config = Config::from_hugging_face(self.fixture.config.to_string().as_bytes()).unwrap();
        Decoder::new(config, Weights::from_tensors(self.group("base.")).unwrap()).unwrap()
    }

    fn scale(&self) -> f64 {
        self.fixture.alpha / self.fixture.rank as f64
    }

    /// A learner whose adapter begins with these matrices.
    fn learner(&self, matrices: &str, scale: f64, clip: f64) -> Learner {
        let decoder = self.decoder();
        let variables: BTreeMap<String, Var> =
            self.group(matrices).into_iter().map(|(name, tensor)| (name, Var::from_tensor(&tensor).unwrap())).collect();
        let tensors = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
        let adapter = low_rank::adapter(decoder.config(), &tensors, scale).unwrap();
        let decay = self.fixture.decay;
        let settings = AdamWSettings { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: decay };
        Learner::of_adapter(decoder, adapter, variables, settings, clip).unwrap()
    }

    fn batch(&self, batch: &BatchFixture) -> Batch {
        Batch {
            rows: self.fixture.rows,
            row_tokens: self.fixture.row_tokens,
            inputs: batch.inputs.clone(),
            positions: batch.positions.clone(),
            targets: batch.targets.clone(),
        }
    }

    fn schedule(&self) -> Settings {
        Settings {
            seed: 0,
            epochs: 1,
            batch: 1,
            max_tokens: 64,
            rank: self.fixture.rank,
            alpha: self.fixture.alpha,
            learning_rate: self.fixture.peak,
            warmup_share: self.fixture.warmup as f64 / self.fixture.steps as f64,
            weight_decay: self.fixture.decay,
            clip_norm: self.fixture.clip,
        }
    }

    /// The largest difference of a step's loss from PyTorch's, over all steps, and the learner after them.
    fn curve(&self, scale: f64, clip: f64) -> (f32, Learner) {
        let mut learner = self.learner("initial.", scale, clip);
        let mut largest = 0.0_f32;
        for (index, expected) in self.fixture.losses.iter().enumerate() {
            let step = index + 1;
            let batch = self.batch(&self.fixture.batches[step % self.fixture.batches.len()]);
            let found = learner.step(&batch, self.schedule().rate(step, self.fixture.steps)).unwrap();
            largest = largest.max((found - expected).abs());
        }
        (largest, learner)
    }
}

fn difference(left: &Tensor, right: &Tensor) -> f32 {
    (left - right).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

fn size(tensor: &Tensor) -> f32 {
    tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn logits_with_an_adapter_equal_those_of_peft() {
    let torch = Torch::read();
    let logits = |scale: f64| {
        let learner = torch.learner("probe.", scale, 1.0);
        let batch = torch.batch(&torch.fixture.probe);
        let inputs = Tensor::from_slice(&batch.inputs, (batch.rows, batch.row_tokens), &Device::Cpu).unwrap();
        let positions = Tensor::from_slice(&batch.positions, batch.positions.len(), &Device::Cpu).unwrap();
        let trained = learner.decoder().forward_training(&inputs, &positions, learner.adapter()).unwrap();
        // What is served goes another way through the decoder, and must come to the same.
        let rows: Vec<Tensor> = batch
            .inputs
            .chunks(batch.row_tokens)
            .map(|row| learner.decoder().forward_all(row, learner.adapter()).unwrap())
            .collect();
        let served = Tensor::cat(&rows, 0).unwrap().index_select(&positions, 0).unwrap();
        (trained, served)
    };
    let (trained, served) = logits(torch.scale());
    let expected = &torch.tensors["probe_logits"];
    println!("[B1] training {:e}, serving {:e}", difference(&trained, expected), difference(&served, expected));
    assert!(difference(&trained, expected) <= TOLERANCE);
    assert!(difference(&served, expected) <= TOLERANCE);
    let (doubled, _) = logits(2.0 * torch.scale());
    assert!(difference(&doubled, expected) > 100.0 * TOLERANCE, "[B11] a doubled scale is not seen");
}

#[test]
fn an_adapter_that_peft_saved_is_read_as_peft_means_it() {
    let torch = Torch::read();
    let decoder = torch.decoder();
    let config_json: serde_json::Value =
        serde_json::from_slice(include_bytes!("fixtures/peft/adapter_config.json")).unwrap();
    let saved = include_bytes!("fixtures/peft/adapter_model.safetensors");
    let saved: BTreeMap<String, Tensor> =
        candle_core::safetensors::load_buffer(saved, &Device::Cpu).unwrap().into_iter().collect();
    let read = |config: &serde_json::Value, tensors: BTreeMap<String, Tensor>| {
        Adapter::from_peft(decoder.config(), config.to_string().as_bytes(), tensors)
    };
    let logits = |adapter: &Adapter| {
        let batch = &torch.fixture.probe;
        let rows = batch.inputs.chunks(torch.fixture.row_tokens);
        let rows: Vec<Tensor> = rows.map(|row| decoder.forward_all(row, Some(adapter)).unwrap()).collect();
        let positions = Tensor::from_slice(&batch.positions, batch.positions.len(), &Device::Cpu).unwrap();
        Tensor::cat(&rows, 0).unwrap().index_select(&positions, 0).unwrap()
    };
    let found = difference(&logits(&read(&config_json, saved.clone()).unwrap()), &torch.tensors["probe_logits"]);
    println!("[B9] {found:e}");
    assert!(found <= TOLERANCE);

    // What PEFT takes with a warning is refused here.
    let mut misnamed = saved.clone();
    let (name, tensor) = misnamed.pop_first().unwrap();
    misnamed.insert(name.replace("lora_A", "lora_a"), tensor.clone());
    assert!(matches!(read(&config_json, misnamed), Err(ModelError::UnknownTensor { .. })));
    let mut half = saved.clone();
    half.pop_first();
    assert!(matches!(read(&config_json, half), Err(ModelError::MissingTensor { .. })));
    assert!(matches!(read(&config_json, BTreeMap::new()), Err(ModelError::EmptyAdapter)));
    let elsewhere = saved.iter().map(|(name, tensor)| (name.replace("layers.0.", "layers.7."), tensor.clone()));
    assert!(matches!(read(&config_json, elsewhere.collect()), Err(ModelError::UnknownModule { .. })));
    for (member, value) in [("use_dora", serde_json::json!(true)), ("bias", "all".into()), ("r", 8.into())] {
        let mut other = config_json.clone();
        other[member] = value;
        assert!(matches!(read(&other, saved.clone()), Err(ModelError::UnsupportedAdapter { .. })), "{member}");
    }
}

#[test]
fn an_adapter_that_is_written_here_is_what_peft_read() {
    let torch = Torch::read();
    let (_, learner) = torch.curve(torch.scale(), torch.fixture.clip);
    // `fixtures/load_in_peft.py` reads this folder, and keeps beside the fixtures what it read and what PEFT made of it.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("written-adapter");
    let _ = std::fs::remove_dir_all(&folder);
    peft::write(&folder, "tiny", &learner.weights(), &torch.schedule(), &[]).unwrap();

    assert_eq!(
        std::fs::read_to_string(folder.join("adapter_config.json")).unwrap(),
        include_str!("fixtures/written/adapter_config.json")
    );
    let written = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let load = |bytes: &[u8]| -> BTreeMap<String, Tensor> {
        candle_core::safetensors::load_buffer(bytes, &Device::Cpu).unwrap().into_iter().collect()
    };
    let (written, read) = (load(&written), load(include_bytes!("fixtures/written/adapter_model.safetensors")));
    assert!(written.keys().eq(read.keys()), "{:?} was read as {:?}", written.keys(), read.keys());
    for (name, expected) in &read {
        // Another kind of processor may round otherwise.
        assert!(difference(&written[name], expected) <= 1e-3 * size(expected), "{name}");
    }

    let decoder = torch.decoder();
    let adapter = Adapter::from_peft(decoder.config(), include_bytes!("fixtures/written/adapter_config.json"), read);
    let adapter = adapter.unwrap();
    let logits = |adapter: Option<&Adapter>| {
        let rows = torch.fixture.probe.inputs.chunks(torch.fixture.row_tokens);
        let rows: Vec<Tensor> = rows.map(|row| decoder.forward_all(row, adapter).unwrap()).collect();
        Tensor::cat(&rows, 0).unwrap()
    };
    let expected = &load(include_bytes!("fixtures/written/logits.safetensors"))["logits"];
    let found = difference(&logits(Some(&adapter)), expected);
    println!("[B8] {found:e}");
    assert!(found <= TOLERANCE, "{found:e}");
    assert!(
        difference(&logits(None), expected) > 1e4 * TOLERANCE,
        "the adapter changes nothing that could be compared"
    );
}

#[test]
fn gradients_equal_those_of_pytorch_in_double_precision() {
    let torch = Torch::read();
    let learner = torch.learner("probe.", torch.scale(), 1.0);
    let gradients = learner.loss(&torch.batch(&torch.fixture.probe)).unwrap().backward().unwrap();
    let expected = torch.group("gradient.");
    assert_eq!(expected.len(), learner.variables().len());
    let mut largest = 0.0_f32;
    for (name, variable) in learner.variables() {
        let expected = &expected[name];
        let relative = difference(gradients.get(variable).unwrap(), expected) / size(expected);
        largest = largest.max(relative);
        assert!(relative <= 1e-4, "{name}: differs by {relative:e}");
    }
    println!("[B2] largest relative difference of a gradient: {largest:e}");
}

#[test]
fn a_hundred_and_fifty_steps_follow_pytorch() {
    let torch = Torch::read();
    let (largest, learner) = torch.curve(torch.scale(), torch.fixture.clip);
    println!("[B4] largest difference of a loss: {largest:e}");
    assert!(largest <= TOLERANCE, "{largest:e}");
    for (name, found) in learner.weights() {
        let expected = &torch.group("final.")[&name];
        assert!(difference(&found, expected) <= 1e-3 * size(expected), "{name}");
    }
}

#[test]
fn a_broken_trainer_leaves_the_curve() {
    let torch = Torch::read();
    let (unclipped, _) = torch.curve(torch.scale(), 1e9);
    assert!(unclipped > 100.0 * TOLERANCE, "[B11] clipping is not seen: {unclipped:e}");
    let (doubled, _) = torch.curve(2.0 * torch.scale(), torch.fixture.clip);
    assert!(doubled > 100.0 * TOLERANCE, "[B11] a doubled scale is not seen: {doubled:e}");
}
