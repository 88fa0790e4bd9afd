//! The loss of a trained pass, from the hidden states before a frozen output projection.
//!
//! The logits of all learnt positions are the largest tensor of a pass by far, and their gradient is as large again. Here
//! they exist for a few rows at a time: the rows' logits become the gradient with respect to them in place, and that at
//! once the gradient of the hidden states, which is all that anybody asks for. So the forward pass already computes the
//! gradient, and only scales it on the way back.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::lanes;
use super::matrix::product;

/// How many logits exist at once, 64 MiB of them.
const LOGITS_AT_ONCE: usize = 16 << 20;

/// From hidden states to logits: `logit = cap · tanh(hidden · weightᵀ / divisor / cap)`.
pub(in crate::model) struct Output<'a> {
    /// `[vocabulary, hidden]`, not trained.
    pub(in crate::model) weight: &'a Tensor,
    pub(in crate::model) divisor: Option<f64>,
    pub(in crate::model) softcap: Option<f64>,
}

/// The mean over rows of the negative log likelihood of each row's target, in nats; a scalar that is differentiable with
/// respect to the hidden states `[rows, hidden]`.
pub(in crate::model) fn mean_negative_log_likelihood(
    hidden: &Tensor,
    output: &Output<'_>,
    targets: &[u32],
) -> candle_core::Result<Tensor> {
    let (count, width) = hidden.dims2()?;
    let vocabulary = output.weight.dim(0)?;
    if targets.len() != count {
        candle_core::bail!("{} targets for {count} hidden states; there is one for each", targets.len());
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= vocabulary) {
        candle_core::bail!("token {target} to be learnt is outside of the vocabulary of {vocabulary}");
    }
    let rows_at_once = (LOGITS_AT_ONCE / vocabulary).max(1);
    let rows = hidden.detach().contiguous()?;
    let (mut sum, mut change) = (0.0_f64, Vec::new());
    for (index, targets) in targets.chunks(rows_at_once).enumerate() {
        let part = rows.narrow(0, index * rows_at_once, targets.len())?;
        let (losses, part_change) = output.part(&part, targets, 1.0 / count as f32, hidden.track_op())?;
        sum += losses;
        change.extend(part_change);
    }
    let loss = (sum / count as f64) as f32;
    if !hidden.track_op() {
        return Tensor::new(loss, hidden.device());
    }
    hidden.apply_op1(Known { loss, change: Tensor::from_vec(change, (count, width), hidden.device())? })
}

impl Output<'_> {
    /// The summed losses of some rows, and the gradient of the hidden states if it is wanted.
    fn part(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        share: f32,
        wants_change: bool,
    ) -> candle_core::Result<(f64, Vec<f32>)> {
        let (hidden, hidden_layout) = hidden.storage_and_layout();
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let (Storage::Cpu(hidden), Storage::Cpu(weight)) = (&*hidden, &*weight) else {
            candle_core::bail!("the hidden states or the output projection are not on the CPU")
        };
        let logits = product(hidden, hidden_layout.clone(), weight, weight_layout.transpose(0, 1)?)?;
        let vocabulary = logits.columns();
        let mut losses = vec![0.0; targets.len()];
        let logits = logits.changed(|logits| {
            let rows = logits.par_chunks_mut(vocabulary).zip(targets).zip(&mut losses);
            rows.for_each(|((logits, &target), loss)| {
                *loss = lanes::wide(
                    #[inline(always)]
                    || self.row(logits, target as usize, share),
                );
            });
        });
        let change = if wants_change { logits.times_stored(weight, weight_layout)?.into_values() } else { Vec::new() };
        Ok((losses.iter().map(|&loss| f64::from(loss)).sum(), change))
    }

    /// The loss of one row, whose logits become the gradient with respect to the bare product.
    #[inline(always)]
    fn row(&self, logits: &mut [f32], target: usize, share: f32) -> f32 {
        let factor = self.divisor.map_or(1.0, |divisor| 1.0 / divisor as f32);
        let mut slopes = Vec::new();
        if self.divisor.is_some() {
            logits.iter_mut().for_each(|logit| *logit *= factor);
        }
        if let Some(cap) = self.softcap.map(|cap| cap as f32) {
            for logit in logits.iter_mut() {
                let tanh = (*logit / cap).tanh();
                slopes.push(1.0 - tanh * tanh);
                *logit = cap * tanh;
            }
        }
        let chosen = logits[target];
        let largest = lanes::max(logits);
        let sum = lanes::exponentiate(logits, largest);
        // The gradient of the loss is the probability, less one for the target.
        let scale = share / sum;
        logits.iter_mut().for_each(|logit| *logit *= scale);
        logits[target] -= share;
        logits.iter_mut().zip(&slopes).for_each(|(change, slope)| *change *= slope);
        if self.divisor.is_some() {
            logits.iter_mut().for_each(|change| *change *= factor);
        }
        sum.ln() + largest - chosen
    }
}

/// A scalar whose gradient is known already.
struct Known {
    loss: f32,
    change: Tensor,
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "mean-negative-log-likelihood"
    }

    fn cpu_fwd(&self, _hidden: &CpuStorage, _layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(&self, _hidden: &Tensor, _loss: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        debug_assert_eq!(upstream.dtype(), DType::F32);
        self.change.affine(f64::from(upstream.to_scalar::<f32>()?), 0.0).map(Some)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;
    use candle_nn::loss;

    use super::super::testing::{agree, numbers};
    use super::*;

    #[test]
    fn equals_the_plain_formula() {
        let targets = [7, 0, 100, 7, 52];
        for (divisor, softcap) in [(None, None), (Some(0.125), None), (None, Some(3.0)), (Some(0.5), Some(2.0))] {
            let (hidden, weight) = (numbers(&[5, 33], 1), numbers(&[101, 33], 2).as_detached_tensor());
            let mut logits = hidden.matmul(&weight.t().unwrap()).unwrap();
            if let Some(divisor) = divisor {
                logits = (logits / divisor).unwrap();
            }
            if let Some(cap) = softcap {
                logits = ((logits / cap).unwrap().tanh().unwrap() * cap).unwrap();
            }
            let plain = loss::cross_entropy(&logits, &Tensor::new(&targets, &Device::Cpu).unwrap()).unwrap();
            let output = Output { weight: &weight, divisor, softcap };
            agree(&mean_negative_log_likelihood(&hidden, &output, &targets).unwrap(), &plain, &[&hidden]);
            let untracked = mean_negative_log_likelihood(&hidden.detach(), &output, &targets).unwrap();
            assert!(!untracked.track_op());
            let (loss, expected): (f32, f32) = (untracked.to_scalar().unwrap(), plain.to_scalar().unwrap());
            assert!((loss - expected).abs() < 1e-5 * expected);
            assert!(mean_negative_log_likelihood(&hidden, &output, &[101; 5]).is_err());
            assert!(mean_negative_log_likelihood(&hidden, &output, &[1; 4]).is_err());
        }
    }
}
