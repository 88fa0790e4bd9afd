//! Root-mean-square norm.

use candle_core::Tensor;
use candle_nn::ops;

use super::{Gradient, ModelError, NormWeight, gradient};

/// `x / sqrt(mean(x²) + epsilon) * weight` over the last dimension.
#[derive(Debug)]
pub(super) struct RmsNorm {
    weight: Tensor,
    epsilon: f32,
    /// Added to the weight at each use; zero once it is folded in.
    offset: f64,
}

impl RmsNorm {
    pub(super) fn new(weight: Tensor, kind: NormWeight, epsilon: f64) -> Result<Self, ModelError> {
        let offset = match kind {
            NormWeight::Plain => 0.0,
            NormWeight::PlusOne => 1.0,
        };
        // A weight under training changes between passes, so nothing may be computed from it ahead of time.
        if offset != 0.0 && !weight.is_variable() {
            return Ok(Self { weight: (weight + offset)?, epsilon: epsilon as f32, offset: 0.0 });
        }
        Ok(Self { weight, epsilon: epsilon as f32, offset })
    }

    pub(super) fn forward(&self, input: &Tensor, tracking: Gradient) -> Result<Tensor, ModelError> {
        let shifted;
        let weight = if self.offset == 0.0 {
            &self.weight
        } else {
            shifted = (&self.weight + self.offset)?;
            &shifted
        };
        Ok(match tracking {
            Gradient::Untracked => ops::rms_norm(&input.contiguous()?, weight, self.epsilon)?,
            Gradient::Tracked => gradient::norm(&input.contiguous()?, weight, self.epsilon)?,
        })
    }
}
