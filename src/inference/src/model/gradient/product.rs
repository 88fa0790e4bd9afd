//! Products with a weight that is not trained, alone and with the low-rank product of an adapter beside them.
//!
//! candle's own backward pass of a product computes the gradient of both factors, whoever asked; for a frozen weight that
//! is half of the work, and a tensor as large as the weight.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::matrix::{Matrix, product};
use super::{ROWS_AT_ONCE, lanes, rows_of, slice};
use crate::model::LowRank;

/// `x · weightᵀ + bias` for a contiguous `x` `[.., input]`, differentiable with respect to `x` alone.
pub(in crate::model) fn frozen_product(
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> candle_core::Result<Tensor> {
    input.apply_op1(Frozen { weight: weight.clone(), bias: bias.cloned() })
}

/// The same with `scale · B·(A·x)` added to it, differentiable with respect to `x`, `A` and `B`.
pub(in crate::model) fn adapted_product(
    input: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    low_rank: &LowRank,
) -> candle_core::Result<Tensor> {
    let frozen = Frozen { weight: weight.clone(), bias: bias.cloned() };
    input.apply_op3(&low_rank.down, &low_rank.up, Adapted { frozen, scale: low_rank.scale })
}

struct Frozen {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Frozen {
    /// The shape of the result, and the product without the bias.
    fn forward(&self, input: &CpuStorage, layout: &Layout) -> candle_core::Result<(Shape, Vec<f32>)> {
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let Storage::Cpu(weight) = &*weight else { candle_core::bail!("the frozen weight is not on the CPU") };
        let result = product(input, flat(layout)?, weight, weight_layout.transpose(0, 1)?)?.into_values();
        let mut shape = layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.weight.dim(0)?;
        }
        Ok((Shape::from(shape), result))
    }

    fn bias(&self) -> candle_core::Result<Option<Vec<f32>>> {
        self.bias.as_ref().map(Tensor::to_vec1).transpose()
    }
}

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-product"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (shape, mut result) = self.forward(input, layout)?;
        if let Some(bias) = self.bias()? {
            for row in result.chunks_exact_mut(bias.len()) {
                lanes::add_scaled(row, 1.0, &bias);
            }
        }
        Ok((CpuStorage::F32(result), shape))
    }

    fn bwd(&self, input: &Tensor, _result: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        flat_tensor(upstream)?.matmul(&self.weight)?.reshape(input.shape()).map(Some)
    }
}

struct Adapted {
    frozen: Frozen,
    scale: f64,
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted-product"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        down: &CpuStorage,
        down_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (shape, mut result) = self.frozen.forward(input, layout)?;
        let inner = product(input, flat(layout)?, down, down_layout.transpose(0, 1)?)?;
        let up = scaled_transpose(slice(up, up_layout)?, down_layout.dims()[0], self.scale as f32);
        add_low_rank(&mut result, &inner, &up, self.frozen.bias()?.as_deref())?;
        Ok((CpuStorage::F32(result), shape))
    }

    fn bwd(
        &self,
        input: &Tensor,
        down: &Tensor,
        up: &Tensor,
        _result: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, upstream) = (flat_tensor(input)?, flat_tensor(upstream)?);
        let (down, up) = (down.detach(), up.detach());
        let inner = rows.matmul(&down.t()?)?;
        let inner_change = (upstream.matmul(&up)? * self.scale)?;
        let up_change = (upstream.t()?.matmul(&inner)? * self.scale)?;
        let down_change = inner_change.t()?.matmul(&rows)?;
        if !input.track_op() {
            return Ok((None, Some(down_change), Some(up_change)));
        }
        let (weight, weight_layout) = self.frozen.weight.storage_and_layout();
        let (storage, layout) = upstream.storage_and_layout();
        let (Storage::Cpu(weight), Storage::Cpu(storage)) = (&*weight, &*storage) else {
            candle_core::bail!("the frozen weight or its gradient is not on the CPU")
        };
        let mut change = product(storage, layout.clone(), weight, weight_layout.clone())?.into_values();
        let inner_change = Matrix::new(rows.dim(0)?, down.dim(0)?, inner_change.flatten_all()?.to_vec1()?);
        add_low_rank(&mut change, &inner_change, &down.flatten_all()?.to_vec1::<f32>()?, None)?;
        let change = Tensor::from_vec(change, input.shape(), input.device())?;
        Ok((Some(change), Some(down_change), Some(up_change)))
    }
}

/// Adds `inner · outer` to `result`, row by row while the row is near, and the bias with it.
fn add_low_rank(result: &mut [f32], inner: &Matrix, outer: &[f32], bias: Option<&[f32]>) -> candle_core::Result<()> {
    #[inline(always)]
    fn add(result: &mut [f32], inner: &[f32], outer: &[f32], bias: Option<&[f32]>, rank: usize) {
        let width = outer.len() / rank;
        for (result, inner) in result.chunks_exact_mut(width).zip(inner.chunks_exact(rank)) {
            for (&factor, row) in inner.iter().zip(outer.chunks_exact(width)) {
                lanes::add_scaled(result, factor, row);
            }
            if let Some(bias) = bias {
                lanes::add_scaled(result, 1.0, bias);
            }
        }
    }
    let rank = inner.columns();
    let width = outer.len() / rank;
    result.par_chunks_mut(ROWS_AT_ONCE * width).zip(inner.values()?.par_chunks(ROWS_AT_ONCE * rank)).for_each(
        |(result, inner)| {
            lanes::wide(
                #[inline(always)]
                || add(result, inner, outer, bias, rank),
            )
        },
    );
    Ok(())
}

/// A matrix of `columns` columns, transposed and multiplied.
fn scaled_transpose(values: &[f32], columns: usize, scale: f32) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).map(|&value| value * scale)).collect()
}

/// The layout of the rows of a contiguous tensor as one matrix: a batched product would copy the weight for each element
/// of the batch.
fn flat(layout: &Layout) -> candle_core::Result<Layout> {
    let (width, rows) = rows_of(layout);
    match layout.contiguous_offsets() {
        Some((from, _)) => Ok(Layout::contiguous_with_offset((rows, width), from)),
        None => candle_core::bail!("a product of the trained pass was given a view; it wants a contiguous tensor"),
    }
}

fn flat_tensor(tensor: &Tensor) -> candle_core::Result<Tensor> {
    let (width, rows) = rows_of(tensor.layout());
    tensor.detach().contiguous()?.reshape((rows, width))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;

    use super::super::testing::{agree, numbers};
    use super::*;

    fn plain(input: &Tensor, weight: &Tensor) -> Tensor {
        input.broadcast_matmul(&weight.t().unwrap()).unwrap()
    }

    #[test]
    fn equals_the_plain_formulas() {
        let input = numbers(&[3, 37, 19], 1);
        let (weight, bias) = (numbers(&[23, 19], 2).as_detached_tensor(), numbers(&[23], 3).as_detached_tensor());
        let (down, up) = (numbers(&[5, 19], 4), numbers(&[23, 5], 5));
        let expected = plain(&input, &weight).broadcast_add(&bias).unwrap();
        agree(&frozen_product(&input, &weight, Some(&bias)).unwrap(), &expected, &[&input]);
        let added = (plain(&plain(&input, &down), &up) * 0.75).unwrap();
        let low_rank = LowRank { down: down.as_tensor().clone(), up: up.as_tensor().clone(), scale: 0.75 };
        let own = adapted_product(&input, &weight, Some(&bias), &low_rank).unwrap();
        agree(&own, &(expected + added).unwrap(), &[&input, &down, &up]);
    }

    #[test]
    fn nothing_is_computed_below_the_first_adapter() {
        let input = numbers(&[4, 6], 1).as_detached_tensor();
        let weight = numbers(&[3, 6], 2).as_detached_tensor();
        let (down, up) = (numbers(&[2, 6], 3), numbers(&[3, 2], 4));
        let low_rank = LowRank { down: down.as_tensor().clone(), up: up.as_tensor().clone(), scale: 1.0 };
        let own = adapted_product(&input, &weight, None, &low_rank).unwrap();
        let gradients = own.sum_all().unwrap().backward().unwrap();
        assert!(gradients.get(&input).is_none());
        assert!(gradients.get(&down).is_some() && gradients.get(&up).is_some());
        let empty =
            frozen_product(&Tensor::zeros((0, 6), candle_core::DType::F32, &Device::Cpu).unwrap(), &weight, None);
        assert_eq!(empty.unwrap().dims(), [0, 3]);
    }
}
