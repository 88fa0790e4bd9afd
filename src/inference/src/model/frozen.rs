//! A product with a weight that is not trained. candle's own backward pass of a product computes the gradient of both
//! factors, whoever asked; for a frozen weight that is half of the work, and a tensor as large as the weight.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Storage, Tensor};

/// `x · weightᵀ` for `x` `[rows, input]` and a weight `[output, input]`, differentiable with respect to `x` alone.
pub(super) fn product(rows: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
    rows.apply_op1(FrozenProduct { weight: weight.clone() })
}

struct FrozenProduct {
    weight: Tensor,
}

impl CustomOp1 for FrozenProduct {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (count, input) = layout.shape().dims2()?;
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let (output, _) = weight_layout.shape().dims2()?;
        let Storage::Cpu(weight) = &*weight else { candle_core::bail!("the frozen weight is not on the CPU") };
        let product = rows.matmul(weight, (1, count, output, input), layout, &weight_layout.transpose(0, 1)?)?;
        Ok((product, Shape::from((count, output))))
    }

    fn bwd(&self, _rows: &Tensor, _product: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        gradient.contiguous()?.matmul(&self.weight).map(Some)
    }
}
