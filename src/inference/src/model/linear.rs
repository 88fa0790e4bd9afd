//! Matrix products with dense and with quantised weights.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{D, Tensor};

use super::pass::Mode;
use super::{Bias, Gradient, ModelError, Weight, Weights, frozen};

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
        let mut product = match &self.weight {
            Weight::Dense(weight) if mode.gradient == Gradient::Tracked && !weight.is_variable() => {
                in_rows(input, weight.dim(0)?, |rows| Ok(frozen::product(rows, weight)?))?
            }
            Weight::Dense(weight) => dense_product(input, weight)?,
            Weight::Quantized(weight) => quantized_product(input, weight)?,
        };
        if let Some(bias) = &self.bias {
            product = product.broadcast_add(bias)?;
        }
        match mode.adapter.and_then(|adapter| adapter.module(&self.name)) {
            Some(low_rank) => Ok((product + low_rank.forward(input)?)?),
            None => Ok(product),
        }
    }
}

pub(super) fn dense_product(input: &Tensor, weight: &Tensor) -> Result<Tensor, ModelError> {
    in_rows(input, weight.dim(0)?, |rows| Ok(rows.matmul(&weight.t()?)?))
}

/// The rows are flattened to one matrix: a batched product would copy the weight for each element of the batch.
fn in_rows(
    input: &Tensor,
    output_width: usize,
    product: impl FnOnce(&Tensor) -> Result<Tensor, ModelError>,
) -> Result<Tensor, ModelError> {
    let mut shape = input.dims().to_vec();
    let width = input.dim(D::Minus1)?;
    let rows = input.elem_count() / width.max(1);
    if let Some(last) = shape.last_mut() {
        *last = output_width;
    }
    Ok(product(&input.reshape((rows, width))?)?.reshape(shape)?)
}

fn quantized_product(input: &Tensor, weight: &Arc<QTensor>) -> Result<Tensor, ModelError> {
    // Applied directly rather than through candle's `QMatMul`, which reads environment variables.
    Ok(input.contiguous()?.apply_op1_no_bwd(weight.as_ref())?)
}
