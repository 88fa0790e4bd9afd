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

/// What some rows of hidden states are to say.
#[derive(Clone, Copy)]
enum Aim<'a> {
    /// These tokens, one a row.
    Tokens(&'a [u32]),
    /// What these hidden states say, `[rows, hidden]`: every token with its probability.
    Teacher(&'a Tensor),
}

/// The mean over rows, in nats, of the negative log likelihood of the targets of the first rows, and of the divergence
/// (Kullback-Leibler) from what the `teacher` `[rows, hidden]` says in the last ones; a scalar that is differentiable with
/// respect to the hidden states `[rows, hidden]`.
pub(in crate::model) fn mean_loss(
    hidden: &Tensor,
    output: &Output<'_>,
    targets: &[u32],
    teacher: Option<&Tensor>,
) -> candle_core::Result<Tensor> {
    let (count, width) = hidden.dims2()?;
    let vocabulary = output.weight.dim(0)?;
    let taught = teacher.map_or(Ok(0), |teacher| teacher.dim(0))?;
    if targets.len() + taught != count {
        let targets = targets.len();
        candle_core::bail!("{targets} targets and {taught} rows of a teacher for {count} hidden states");
    }
    if let Some(target) = targets.iter().find(|&&target| target as usize >= vocabulary) {
        candle_core::bail!("token {target} to be learnt is outside of the vocabulary of {vocabulary}");
    }
    let rows_at_once = (LOGITS_AT_ONCE / vocabulary).max(1);
    let rows = hidden.detach().contiguous()?;
    let (mut sum, mut change) = (0.0_f64, Vec::new());
    let mut add = |from: usize, length: usize, aim: Aim<'_>| -> candle_core::Result<()> {
        let part = rows.narrow(0, from, length)?;
        let (losses, part_change) = output.part(&part, aim, 1.0 / count as f32, hidden.track_op())?;
        sum += losses;
        change.extend(part_change);
        Ok(())
    };
    for (index, targets) in targets.chunks(rows_at_once).enumerate() {
        add(index * rows_at_once, targets.len(), Aim::Tokens(targets))?;
    }
    for from in (0..taught).step_by(rows_at_once) {
        let length = rows_at_once.min(taught - from);
        if let Some(teacher) = teacher {
            let teacher = teacher.detach().narrow(0, from, length)?.contiguous()?;
            add(targets.len() + from, length, Aim::Teacher(&teacher))?;
        }
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
        aim: Aim<'_>,
        share: f32,
        wants_change: bool,
    ) -> candle_core::Result<(f64, Vec<f32>)> {
        let count = hidden.dim(0)?;
        let (hidden, hidden_layout) = hidden.storage_and_layout();
        let (weight, weight_layout) = self.weight.storage_and_layout();
        let (Storage::Cpu(hidden), Storage::Cpu(weight)) = (&*hidden, &*weight) else {
            candle_core::bail!("the hidden states or the output projection are not on the CPU")
        };
        let logits = product(hidden, hidden_layout.clone(), weight, weight_layout.transpose(0, 1)?)?;
        let vocabulary = logits.columns();
        let mut losses = vec![0.0; count];
        let mut taught = match aim {
            Aim::Tokens(_) => Vec::new(),
            Aim::Teacher(teacher) => {
                let (teacher, teacher_layout) = teacher.storage_and_layout();
                let Storage::Cpu(teacher) = &*teacher else { candle_core::bail!("the teacher is not on the CPU") };
                product(teacher, teacher_layout.clone(), weight, weight_layout.transpose(0, 1)?)?.into_values()
            }
        };
        let logits = logits.changed(|logits| {
            let rows = logits.par_chunks_mut(vocabulary).zip(&mut losses);
            match aim {
                Aim::Tokens(targets) => rows.zip(targets).for_each(|((logits, loss), &target)| {
                    *loss = lanes::wide(
                        #[inline(always)]
                        || self.row(logits, target as usize, share),
                    );
                }),
                Aim::Teacher(_) => {
                    rows.zip(taught.par_chunks_mut(vocabulary)).for_each(|((logits, loss), teacher)| {
                        *loss = lanes::wide(
                            #[inline(always)]
                            || self.taught_row(logits, teacher, share),
                        );
                    });
                }
            }
        });
        let change = if wants_change { logits.times_stored(weight, weight_layout)?.into_values() } else { Vec::new() };
        Ok((losses.iter().map(|&loss| f64::from(loss)).sum(), change))
    }

    /// The loss of one row, whose logits become the gradient with respect to the bare product.
    #[inline(always)]
    fn row(&self, logits: &mut [f32], target: usize, share: f32) -> f32 {
        let slopes = self.finish(logits);
        let chosen = logits[target];
        let largest = lanes::max(logits);
        let sum = lanes::exponentiate(logits, largest);
        // The gradient of the loss is the probability, less one for the target.
        let scale = share / sum;
        logits.iter_mut().for_each(|logit| *logit *= scale);
        logits[target] -= share;
        self.undo(logits, &slopes);
        sum.ln() + largest - chosen
    }

    /// The divergence of one row from its teacher's, whose logits become probabilities; the row's logits become the
    /// gradient with respect to the bare product.
    #[inline(always)]
    fn taught_row(&self, logits: &mut [f32], teacher: &mut [f32], share: f32) -> f32 {
        let slopes = self.finish(logits);
        self.finish(teacher);
        let lead: Vec<f32> = teacher.iter().zip(logits.iter()).map(|(teacher, logit)| teacher - logit).collect();
        let (largest, teachers_largest) = (lanes::max(logits), lanes::max(teacher));
        let sum = lanes::exponentiate(logits, largest);
        let teachers_sum = lanes::exponentiate(teacher, teachers_largest);
        let mean_lead = lanes::dot(teacher, &lead) / teachers_sum;
        // The gradient is the probability, less the teacher's.
        let (scale, teachers_scale) = (share / sum, share / teachers_sum);
        for (logit, teacher) in logits.iter_mut().zip(teacher.iter()) {
            *logit = *logit * scale - teacher * teachers_scale;
        }
        self.undo(logits, &slopes);
        mean_lead + (sum.ln() + largest) - (teachers_sum.ln() + teachers_largest)
    }

    /// From the bare product to logits; returns the slopes of the cap, if there is one.
    #[inline(always)]
    fn finish(&self, logits: &mut [f32]) -> Vec<f32> {
        let mut slopes = Vec::new();
        if let Some(factor) = self.factor() {
            logits.iter_mut().for_each(|logit| *logit *= factor);
        }
        if let Some(cap) = self.softcap.map(|cap| cap as f32) {
            for logit in logits.iter_mut() {
                let tanh = (*logit / cap).tanh();
                slopes.push(1.0 - tanh * tanh);
                *logit = cap * tanh;
            }
        }
        slopes
    }

    /// From the gradient of logits to that of the bare product.
    #[inline(always)]
    fn undo(&self, changes: &mut [f32], slopes: &[f32]) {
        changes.iter_mut().zip(slopes).for_each(|(change, slope)| *change *= slope);
        if let Some(factor) = self.factor() {
            changes.iter_mut().for_each(|change| *change *= factor);
        }
    }

    fn factor(&self) -> Option<f32> {
        self.divisor.map(|divisor| 1.0 / divisor as f32)
    }
}

/// A scalar whose gradient is known already.
struct Known {
    loss: f32,
    change: Tensor,
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "mean-loss"
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
    use candle_nn::{loss, ops::log_softmax};

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
            agree(&mean_loss(&hidden, &output, &targets, None).unwrap(), &plain, &[&hidden]);
            let untracked = mean_loss(&hidden.detach(), &output, &targets, None).unwrap();
            assert!(!untracked.track_op());
            let (loss, expected): (f32, f32) = (untracked.to_scalar().unwrap(), plain.to_scalar().unwrap());
            assert!((loss - expected).abs() < 1e-5 * expected);
            assert!(mean_loss(&hidden, &output, &[101; 5], None).is_err());
            assert!(mean_loss(&hidden, &output, &[1; 4], None).is_err());
        }
    }

    #[test]
    fn the_last_rows_follow_a_teacher() {
        let targets = [7, 0];
        for (divisor, softcap) in [(None, None), (Some(0.5), Some(2.0))] {
            let (hidden, weight) = (numbers(&[5, 33], 1), numbers(&[101, 33], 2).as_detached_tensor());
            let teacher = numbers(&[3, 33], 3).as_detached_tensor();
            let logits = |hidden: &Tensor| {
                let mut logits = hidden.matmul(&weight.t().unwrap()).unwrap();
                if let (Some(divisor), Some(cap)) = (divisor, softcap) {
                    logits = ((logits / divisor).unwrap() / cap).unwrap().tanh().unwrap().affine(cap, 0.0).unwrap();
                }
                log_softmax(&logits, 1).unwrap()
            };
            let (own, taught) = (logits(&hidden), logits(&teacher));
            let likelihood = loss::nll(&own.narrow(0, 0, 2).unwrap(), &Tensor::new(&targets, &Device::Cpu).unwrap());
            let lead = (&taught - own.narrow(0, 2, 3).unwrap()).unwrap();
            let divergence = (taught.exp().unwrap() * lead).unwrap().sum_all().unwrap();
            let plain = ((likelihood.unwrap() * 2.0).unwrap() + divergence).unwrap().affine(0.2, 0.0).unwrap();
            let output = Output { weight: &weight, divisor, softcap };
            agree(&mean_loss(&hidden, &output, &targets, Some(&teacher)).unwrap(), &plain, &[&hidden]);
        }
        let (hidden, weight) = (numbers(&[2, 33], 1), numbers(&[101, 33], 2).as_detached_tensor());
        let output = Output { weight: &weight, divisor: None, softcap: None };
        let same = mean_loss(&hidden, &output, &[], Some(&hidden.as_detached_tensor())).unwrap();
        assert!(same.to_scalar::<f32>().unwrap().abs() < 1e-6, "who says what the teacher says has nothing to learn");
    }
}
