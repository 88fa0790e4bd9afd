//! AdamW (Loshchilov and Hutter, arXiv 1711.05101) as PyTorch computes it, with its state in the open: a run that is
//! resumed needs the moments, and candle's own optimizer keeps them to itself.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use crate::error::TrainerError;

/// The numbers that AdamW is made of, beside the learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// The optimizer of some variables.
#[derive(Debug)]
pub struct AdamW {
    settings: AdamWSettings,
    step: u64,
    moments: BTreeMap<String, Moments>,
}

/// What is remembered of one variable's gradients.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The mean.
    pub first: Tensor,
    /// The mean of the squares.
    pub second: Tensor,
}

impl AdamW {
    /// An optimizer that has not seen a gradient yet.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn new(variables: &BTreeMap<String, Var>, settings: AdamWSettings) -> Result<Self, TrainerError> {
        let zeros = |variable: &Var| variable.as_tensor().zeros_like();
        let moments = variables
            .iter()
            .map(|(name, variable)| Ok((name.clone(), Moments { first: zeros(variable)?, second: zeros(variable)? })))
            .collect::<Result<_, candle_core::Error>>()?;
        Ok(Self { settings, step: 0, moments })
    }

    /// Goes on where another run stopped.
    pub fn resume(&mut self, step: u64, moments: BTreeMap<String, Moments>) {
        self.step = step;
        self.moments = moments;
    }

    /// Moves every variable that has a gradient.
    ///
    /// # Errors
    /// What the tensor library refuses.
    pub fn step(
        &mut self,
        variables: &BTreeMap<String, Var>,
        gradients: &GradStore,
        learning_rate: f64,
    ) -> Result<(), TrainerError> {
        let AdamWSettings { beta_1, beta_2, epsilon, weight_decay } = self.settings;
        self.step += 1;
        let correction = |beta: f64| 1.0 / (1.0 - beta.powi(self.step as i32));
        for (name, variable) in variables {
            let (Some(gradient), Some(moments)) = (gradients.get(variable), self.moments.get_mut(name)) else {
                continue;
            };
            moments.first = ((&moments.first * beta_1)? + (gradient * (1.0 - beta_1))?)?;
            moments.second = ((&moments.second * beta_2)? + (gradient.sqr()? * (1.0 - beta_2))?)?;
            let first = (&moments.first * correction(beta_1))?;
            let second = (&moments.second * correction(beta_2))?;
            let decayed = (variable.as_tensor() * (1.0 - learning_rate * weight_decay))?;
            let direction = (first / (second.sqrt()? + epsilon)?)?;
            variable.set(&(decayed - (direction * learning_rate)?)?)?;
        }
        Ok(())
    }

    /// How many steps were taken, and the moments by name.
    pub fn state(&self) -> (u64, &BTreeMap<String, Moments>) {
        (self.step, &self.moments)
    }
}
