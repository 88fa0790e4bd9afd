//! Linear layers: a packed matrix and perhaps a bias.

use std::sync::Arc;

use ampoule_kernels::Packed;

use super::weights::PackedWeights;
use crate::model::{Bias, ModelError};

/// `x · weightᵀ + bias`, the weight `[output, input]`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Arc<Packed>,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn take(weights: &mut PackedWeights, name: &str, bias: Bias) -> Result<Self, ModelError> {
        let bias = match bias {
            Bias::Absent => None,
            Bias::Present => Some(weights.vector(&format!("{name}.bias"))?),
        };
        Ok(Self { weight: weights.matrix(&format!("{name}.weight"))?, bias })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.weight.outputs()
    }
}
