//! Matrix products with dense and with quantised weights.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{D, Tensor};

use super::pass::Mode;
use super::{Bias, Gradient, ModelError, Weight, Weights, gradient};

/// `x · weightᵀ + bias`, the weight `[output, input]`, and what an adapter adds to it.
#[derive(Debug)]
pub(super) struct Linear {
    /// By which an adapter finds it; empty where none can.
    name: String,
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
        Ok(Self { name: name.to_owned(), weight: weights.take(&format!("{name}.weight"))?, bias })
    }

    /// A projection without bias or adapter, over a weight that something else may hold too.
    pub(super) fn shared(weight: Weight) -> Self {
        Self { name: String::new(), weight, bias: None }
    }

    /// `[.., input]` to `[.., output]`.
    pub(super) fn forward(&self, input: &Tensor, mode: Mode<'_>) -> Result<Tensor, ModelError> {
        let low_rank = mode.adapter.and_then(|adapter| adapter.module(&self.name));
        if let (Gradient::Tracked, Some(weight)) = (mode.gradient, self.frozen_weight()) {
            let (input, bias) = (input.contiguous()?, self.bias.as_ref());
            return Ok(match low_rank {
                Some(low_rank) => gradient::adapted_product(&input, weight, bias, low_rank)?,
                None => gradient::frozen_product(&input, weight, bias)?,
            });
        }
        let mut product = match &self.weight {
            Weight::Dense(weight) => dense_product(input, weight)?,
            Weight::Quantized(weight) => quantized_product(input, weight)?,
        };
        if let Some(bias) = &self.bias {
            product = product.broadcast_add(bias)?;
        }
        match low_rank {
            Some(low_rank) => Ok((product + low_rank.forward(input)?)?),
            None => Ok(product),
        }
    }

    /// The weight, if neither it nor the bias is trained or quantised.
    pub(super) fn frozen_weight(&self) -> Option<&Tensor> {
        match &self.weight {
            Weight::Dense(weight) if !weight.is_variable() && !self.bias.as_ref().is_some_and(Tensor::is_variable) => {
                Some(weight)
            }
            _ => None,
        }
    }
}

/// The rows are flattened to one matrix: a batched product would copy the weight for each element of the batch.
pub(super) fn dense_product(input: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
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
