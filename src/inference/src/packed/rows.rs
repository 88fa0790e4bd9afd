//! What is computed on single rows: norms and the feed-forward network's nonlinearity.

use ampoule_kernels::{Isa, Processor};

use super::linear::Linear;
use super::weights::PackedWeights;
use crate::model::{Activation, Config, ModelError, NormWeight};

/// `x / sqrt(mean(x²) + epsilon) * weight`.
#[derive(Debug)]
pub(super) struct Norm {
    weight: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    pub(super) fn take(weights: &mut PackedWeights, name: &str, config: &Config) -> Result<Self, ModelError> {
        let mut weight = weights.vector(name)?;
        if config.norm_weight == NormWeight::PlusOne {
            weight.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(Self { weight, epsilon: config.norm_epsilon as f32 })
    }

    pub(super) fn width(&self) -> usize {
        self.weight.len()
    }

    pub(super) fn apply(&self, isa: Isa, row: &[f32], into: &mut [f32]) {
        ampoule_kernels::rows::rms_norm(isa, row, &self.weight, self.epsilon, into);
    }

    pub(super) fn apply_in_place(&self, isa: Isa, row: &mut [f32]) {
        ampoule_kernels::rows::rms_norm_in_place(isa, row, &self.weight, self.epsilon);
    }
}

/// The nonlinearity of the gate.
#[derive(Debug)]
pub(super) struct Activate(pub(super) Activation);

impl Activate {
    /// `activation(gate) * up`.
    pub(super) fn times(&self, isa: Isa, gate: &[f32], up: &[f32], into: &mut [f32]) {
        match self.0 {
            Activation::Silu => ampoule_kernels::rows::silu_times(isa, gate, up, into),
            Activation::Gelu => ampoule_kernels::rows::gelu_times(isa, gate, up, into),
            Activation::GeluTanh => ampoule_kernels::rows::gelu_tanh_times(isa, gate, up, into),
        }
    }
}

impl Linear {
    /// Adds the bias, if there is one, to each row of `[rows, outputs]`.
    pub(crate) fn add_bias(&self, processor: &Processor, rows: &mut [f32]) {
        if let Some(bias) = &self.bias {
            processor
                .pool
                .for_each_chunk(rows, bias.len(), |_, row| ampoule_kernels::rows::add(processor.isa, row, bias));
        }
    }
}
