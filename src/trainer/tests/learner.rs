//! The learner against PyTorch: twenty optimizer steps of a tiny Llama, on the same weights and batches.
//!
//! `fixtures/learner.py` made what is expected. Loss, gradient, clipping, AdamW and the schedule all have to agree for
//! the losses to agree: an error in any of them shows within a few steps.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use ampoule_inference::model::Config;
use ampoule_trainer::learner::Learner;
use ampoule_trainer::recipe::Training;
use ampoule_trainer::rows::Batch;
use candle_core::{Device, Tensor};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    config: serde_json::Value,
    training: Training,
    rows: usize,
    row_tokens: usize,
    batches: Vec<BatchFixture>,
    losses: Vec<f32>,
    final_norms: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct BatchFixture {
    inputs: Vec<u32>,
    positions: Vec<u32>,
    targets: Vec<u32>,
}

impl Fixture {
    fn read() -> Self {
        serde_json::from_slice(include_bytes!("fixtures/learner.json")).unwrap()
    }

    fn learner(&self) -> Learner {
        let config = Config::from_hugging_face(self.config.to_string().as_bytes()).unwrap();
        let weights = include_bytes!("fixtures/learner.safetensors");
        let weights = candle_core::safetensors::load_buffer(weights, &Device::Cpu).unwrap();
        Learner::new(config, weights.into_iter().collect(), &self.training).unwrap()
    }

    fn batch(&self, index: usize) -> Batch {
        let BatchFixture { inputs, positions, targets } = &self.batches[index];
        Batch {
            rows: self.rows,
            row_tokens: self.row_tokens,
            inputs: inputs.clone(),
            positions: positions.clone(),
            targets: targets.clone(),
        }
    }
}

#[test]
fn twenty_steps_equal_those_of_pytorch() {
    let fixture = Fixture::read();
    let mut learner = fixture.learner();
    let mut largest = 0.0_f32;
    for (index, expected) in fixture.losses.iter().enumerate() {
        let step = index + 1;
        let found = learner.step(&fixture.batch(index), fixture.training.learning_rate(step)).unwrap();
        largest = largest.max((found - expected).abs());
        assert!((found - expected).abs() <= 1e-5, "step {step}: the loss is {found}, PyTorch's is {expected}");
    }
    println!("largest difference of a loss: {largest:e}");
    for (name, tensor) in learner.weights() {
        let found = f64::from(tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
        let expected = fixture.final_norms[&name];
        assert!((found - expected).abs() <= 1e-4 * expected, "{name}: norm {found}, PyTorch's is {expected}");
    }
}

#[test]
fn a_gradient_that_is_not_clipped_misses_pytorch() {
    let mut fixture = Fixture::read();
    fixture.training.clip_norm = 1e9;
    let mut learner = fixture.learner();
    let differs = (0..fixture.losses.len()).any(|index| {
        let rate = fixture.training.learning_rate(index + 1);
        let found = learner.step(&fixture.batch(index), rate).unwrap();
        (found - fixture.losses[index]).abs() > 1e-3
    });
    assert!(differs, "the fixture cannot tell whether gradients are clipped");
}

#[test]
fn the_gradient_equals_finite_differences() {
    let fixture = Fixture::read();
    let learner = fixture.learner();
    let batch = fixture.batch(0);
    let gradients = learner.loss(&batch).unwrap().backward().unwrap();
    for (name, variable) in learner.variables() {
        let gradient = gradients.get(variable).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // The steepest coordinate: single precision leaves the others little but rounding.
        let at = (0..gradient.len()).max_by(|&a, &b| gradient[a].abs().total_cmp(&gradient[b].abs())).unwrap();
        let before = variable.as_detached_tensor().copy().unwrap();
        let loss_at = |shift: f32| {
            let mut values = before.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[at] += shift;
            variable.set(&Tensor::from_vec(values, before.dims(), &Device::Cpu).unwrap()).unwrap();
            learner.loss(&batch).unwrap().to_scalar::<f32>().unwrap()
        };
        let step = 1e-2;
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        variable.set(&before).unwrap();
        let tolerance = 2e-2 * gradient[at].abs() + 1e-4;
        assert!((slope - gradient[at]).abs() <= tolerance, "{name}[{at}]: {slope} is not {}", gradient[at]);
    }
}
