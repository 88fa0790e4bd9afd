//! The root-mean-square norm of a trained pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS_AT_ONCE, lanes, rows_of, slice, with_values};

/// `x / sqrt(mean(x²) + epsilon) * weight` over the last dimension, for a contiguous `x`.
pub(in crate::model) fn norm(input: &Tensor, weight: &Tensor, epsilon: f32) -> candle_core::Result<Tensor> {
    input.apply_op2(weight, Norm { epsilon })
}

struct Norm {
    epsilon: f32,
}

impl Norm {
    #[inline(always)]
    fn inverse_root(&self, row: &[f32]) -> f32 {
        1.0 / (lanes::dot(row, row) / row.len() as f32 + self.epsilon).sqrt()
    }

    #[inline(always)]
    fn forward(&self, input: &[f32], weight: &[f32], output: &mut [f32]) {
        let width = weight.len();
        for (row, output) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
            let factor = self.inverse_root(row);
            for ((output, &value), &weight) in output.iter_mut().zip(row).zip(weight) {
                *output = value * factor * weight;
            }
        }
    }

    /// With `y = x·f·w` and `f` as above: `dx = f·(dy·w) - x·f³·Σ(dy·w·x)/n`, `dw = Σ dy·x·f` over rows.
    #[inline(always)]
    fn backward(&self, rows: [&[f32]; 2], weight: &[f32], change: &mut [f32], weight_change: &mut [f32]) {
        let width = weight.len();
        let rows = rows[0].chunks_exact(width).zip(rows[1].chunks_exact(width));
        for ((row, upstream), change) in rows.zip(change.chunks_exact_mut(width)) {
            let factor = self.inverse_root(row);
            for ((change, &upstream), &weight) in change.iter_mut().zip(upstream).zip(weight) {
                *change = upstream * weight;
            }
            let pull = lanes::dot(change, row) * factor * factor * factor / width as f32;
            for (change, &value) in change.iter_mut().zip(row) {
                *change = *change * factor - value * pull;
            }
            for ((weight_change, &upstream), &value) in weight_change.iter_mut().zip(upstream).zip(row) {
                *weight_change += upstream * (value * factor);
            }
        }
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "trained-norm"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (input, weight) = (slice(input, layout)?, slice(weight, weight_layout)?);
        let part = ROWS_AT_ONCE * weight.len();
        let mut output = vec![0.0; input.len()];
        output.par_chunks_mut(part).zip(input.par_chunks(part)).for_each(|(output, input)| {
            lanes::wide(
                #[inline(always)]
                || self.forward(input, weight, output),
            )
        });
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _output: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (width, _) = rows_of(input.layout());
        let part = ROWS_AT_ONCE * width;
        let mut change = vec![0.0; input.elem_count()];
        // Each part of the rows has a sum of its own for the weight; they are added up in their order.
        let mut partial_sums = vec![0.0; input.elem_count().div_ceil(part) * width];
        with_values(input, |input| {
            with_values(upstream, |upstream| {
                with_values(weight, |weight| {
                    let arguments = input.par_chunks(part).zip(upstream.par_chunks(part));
                    let results = change.par_chunks_mut(part).zip(partial_sums.par_chunks_mut(width));
                    arguments.zip(results).for_each(|((input, upstream), (change, sum))| {
                        lanes::wide(
                            #[inline(always)]
                            || self.backward([input, upstream], weight, change, sum),
                        );
                    });
                    Ok(())
                })
            })
        })?;
        let weight_change = weight
            .track_op()
            .then(|| {
                let mut total = vec![0.0; width];
                partial_sums.chunks_exact(width).for_each(|sum| lanes::add_scaled(&mut total, 1.0, sum));
                Tensor::from_vec(total, width, weight.device())
            })
            .transpose()?;
        let change = input.track_op().then(|| Tensor::from_vec(change, input.shape(), input.device())).transpose()?;
        Ok((change, weight_change))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_nn::ops;

    use super::super::testing::{agree, numbers};
    use super::*;

    #[test]
    fn equals_the_plain_formula() {
        for (shape, width) in [(vec![3, 41, 37], 37), (vec![2, 64], 64)] {
            let (input, weight) = (numbers(&shape, 1), numbers(&[width], 2));
            let own = norm(&input, &weight, 1e-5).unwrap();
            agree(&own, &ops::rms_norm_slow(&input, &weight, 1e-5).unwrap(), &[&input, &weight]);
        }
    }
}
