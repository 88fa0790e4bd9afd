//! Matrix products with dense and with quantised weights.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{D, Tensor};

use super::{Bias, ModelError, Weight, Weights};

/// `x · weightᵀ + bias`, the weight `[output, input]`.
#[derive(Debug)]
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    /// Takes `<name>.weight`, and `<name>.bias` if there is to be one.
    pub(super) fn take(weights: &mut Weights, name: &str, bias: Bias) -> Result<Self, ModelError> {
        let bias = match bias {
            Bias::Absent => None,
            Bias::Present => Some(weights.take_dense(&format!("{name}.bias"))?),
        };
        Ok(Self { weight: weights.take(&format!("{name}.weight"))?, bias })
    }

    /// A projection without bias over a weight that something else holds too.
    pub(super) fn shared(weight: Weight) -> Self {
        Self { weight, bias: None }
    }

    /// `[.., input]` to `[.., output]`.
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let product = match &self.weight {
            Weight::Dense(weight) => dense_product(input, weight)?,
            Weight::Quantized(weight) => quantized_product(input, weight)?,
        };
        Ok(match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        })
    }
}

/// The rows are flattened to one matrix: a batched product would copy the weight for each element of the batch.
fn dense_product(input: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
    let mut shape = input.dims().to_vec();
    let width = input.dim(D::Minus1)?;
    let rows = input.elem_count() / width.max(1);
    if let Some(last) = shape.last_mut() {
        *last = weight.dim(0)?;
    }
    Ok(input.reshape((rows, width))?.matmul(&weight.t()?)?.reshape(shape)?)
}

fn quantized_product(input: &Tensor, weight: &Arc<QTensor>) -> Result<Tensor, ModelError> {
    // Applied directly rather than through candle's `QMatMul`, which reads environment variables.
    Ok(input.contiguous()?.apply_op1_no_bwd(weight.as_ref())?)
}
