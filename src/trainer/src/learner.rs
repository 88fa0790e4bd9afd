//! One optimizer step after another: forward, loss on the marked tokens, backward, clip, AdamW.
//!
//! The forward pass is the runtime's own decoder: what is trained is what will be served. On one machine the same
//! batches give the same weights, bit for bit; on another kind of processor the last bits may differ.

use std::collections::BTreeMap;

use ampoule_inference::model::{Adapter, Config, Decoder, Weights};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::error::TrainerError;
use crate::optimizer::{AdamW, AdamWSettings};
use crate::recipe::Training;
use crate::rows::Batch;

/// A model under training: all of its weights, or an adapter beside them.
#[derive(Debug)]
pub struct Learner {
    decoder: Decoder,
    adapter: Option<Adapter>,
    variables: BTreeMap<String, Var>,
    optimizer: AdamW,
    clip_norm: f64,
}

impl Learner {
    /// Starts from these weights, which must be those that `config` calls for.
    ///
    /// # Errors
    /// Weights that do not fit the configuration.
    pub fn new(config: Config, weights: BTreeMap<String, Tensor>, training: &Training) -> Result<Self, TrainerError> {
        let variables: BTreeMap<String, Var> = weights
            .into_iter()
            .map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?)))
            .collect::<Result<_, candle_core::Error>>()?;
        let tensors = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect();
        let decoder = Decoder::new(config, Weights::from_tensors(tensors)?)?;
        let settings = AdamWSettings {
            beta_1: training.beta_1,
            beta_2: training.beta_2,
            epsilon: 1e-8,
            weight_decay: training.weight_decay,
        };
        let optimizer = AdamW::new(&variables, settings)?;
        Ok(Self { decoder, adapter: None, variables, optimizer, clip_norm: training.clip_norm })
    }

    /// Starts from an adapter whose matrices are these variables, beside a model that stays as it is.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn of_adapter(
        decoder: Decoder,
        adapter: Adapter,
        variables: BTreeMap<String, Var>,
        settings: AdamWSettings,
        clip_norm: f64,
    ) -> Result<Self, TrainerError> {
        let optimizer = AdamW::new(&variables, settings)?;
        Ok(Self { decoder, adapter: Some(adapter), variables, optimizer, clip_norm })
    }

    /// Moves the weights once and returns the loss before the move: the mean of the negative log likelihood, in nats,
    /// of the marked tokens.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn step(&mut self, batch: &Batch, learning_rate: f64) -> Result<f32, TrainerError> {
        let loss = self.loss(batch)?;
        let mut gradients = loss.backward()?;
        clip(&mut gradients, self.variables.values(), self.clip_norm)?;
        self.optimizer.step(&self.variables, &gradients, learning_rate)?;
        Ok(loss.to_scalar()?)
    }

    /// The differentiable loss of a batch; a scalar.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn loss(&self, batch: &Batch) -> Result<Tensor, TrainerError> {
        self.loss_with(batch, self.adapter.as_ref())
    }

    /// The loss of a batch from which nothing is learnt; of an adapter it costs the forward pass alone.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn held_out_loss(&self, batch: &Batch) -> Result<f32, TrainerError> {
        let adapter = self.adapter.as_ref().map(Adapter::detached);
        Ok(self.loss_with(batch, adapter.as_ref())?.to_scalar()?)
    }

    fn loss_with(&self, batch: &Batch, adapter: Option<&Adapter>) -> Result<Tensor, TrainerError> {
        let device = Device::Cpu;
        let inputs = Tensor::from_slice(&batch.inputs, (batch.rows, batch.row_tokens), &device)?;
        let positions = Tensor::from_slice(&batch.positions, batch.positions.len(), &device)?;
        Ok(self.decoder.training_loss(&inputs, &positions, &batch.targets, adapter)?)
    }

    /// The weights by name, as they are now.
    pub fn weights(&self) -> BTreeMap<String, Tensor> {
        self.variables.iter().map(|(name, variable)| (name.clone(), variable.as_detached_tensor())).collect()
    }

    /// The model.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The adapter under training.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    /// The optimizer, for checkpoints.
    pub fn optimizer_mut(&mut self) -> &mut AdamW {
        &mut self.optimizer
    }

    /// The variables by name, for checks of the gradient.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }
}

/// Scales all gradients down together, so that their joint norm is at most `limit`.
fn clip<'a>(
    gradients: &mut GradStore,
    variables: impl Iterator<Item = &'a Var> + Clone,
    limit: f64,
) -> Result<(), TrainerError> {
    let mut squares = 0.0_f64;
    for gradient in variables.clone().filter_map(|variable| gradients.get(variable)) {
        squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let norm = squares.sqrt();
    if norm <= limit {
        return Ok(());
    }
    for variable in variables {
        if let Some(gradient) = gradients.remove(variable) {
            gradients.insert(variable, (gradient * (limit / norm))?);
        }
    }
    Ok(())
}
