//! `silu(gate) * up` of a trained pass.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{lanes, slice, with_values};

/// Values that one thread takes at a time.
const VALUES_AT_ONCE: usize = 16 * 1024;

/// `gate / (1 + exp(-gate)) * up`, for contiguous tensors of one shape.
pub(in crate::model) fn gated(gate: &Tensor, up: &Tensor) -> candle_core::Result<Tensor> {
    gate.apply_op2(up, Gated)
}

struct Gated;

#[inline(always)]
fn forward(gate: &[f32], up: &[f32], output: &mut [f32]) {
    for ((output, &gate), &up) in output.iter_mut().zip(gate).zip(up) {
        *output = gate / (1.0 + lanes::exp(-gate)) * up;
    }
}

#[inline(always)]
fn backward(gate: &[f32], up: &[f32], upstream: &[f32], gate_change: &mut [f32], up_change: &mut [f32]) {
    let arguments = gate.iter().zip(up).zip(upstream);
    for (((&gate, &up), &upstream), (gate_change, up_change)) in arguments.zip(gate_change.iter_mut().zip(up_change)) {
        let sigmoid = 1.0 / (1.0 + lanes::exp(-gate));
        let silu = gate * sigmoid;
        *up_change = upstream * silu;
        *gate_change = upstream * up * (sigmoid + silu * (1.0 - sigmoid));
    }
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "trained-gate"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let mut output = vec![0.0; gate.len()];
        let arguments = gate.par_chunks(VALUES_AT_ONCE).zip(up.par_chunks(VALUES_AT_ONCE));
        output.par_chunks_mut(VALUES_AT_ONCE).zip(arguments).for_each(|(output, (gate, up))| {
            lanes::wide(
                #[inline(always)]
                || forward(gate, up, output),
            )
        });
        Ok((CpuStorage::F32(output), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _output: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut gate_change, mut up_change) = (vec![0.0; gate.elem_count()], vec![0.0; gate.elem_count()]);
        with_values(gate, |gate| {
            with_values(up, |up| {
                with_values(upstream, |upstream| {
                    let parts = gate.par_chunks(VALUES_AT_ONCE).zip(up.par_chunks(VALUES_AT_ONCE));
                    let parts = parts.zip(upstream.par_chunks(VALUES_AT_ONCE));
                    let changes =
                        gate_change.par_chunks_mut(VALUES_AT_ONCE).zip(up_change.par_chunks_mut(VALUES_AT_ONCE));
                    parts.zip(changes).for_each(|(((gate, up), upstream), (gate_change, up_change))| {
                        lanes::wide(
                            #[inline(always)]
                            || backward(gate, up, upstream, gate_change, up_change),
                        );
                    });
                    Ok(())
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(gate_change)?), Some(tensor(up_change)?)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::testing::{agree, numbers};
    use super::*;

    #[test]
    fn equals_the_plain_formula() {
        let (gate, up) = (numbers(&[5, 33, 101], 1), numbers(&[5, 33, 101], 2));
        let own = gated(&gate, &up).unwrap();
        agree(&own, &(gate.silu().unwrap() * up.as_tensor()).unwrap(), &[&gate, &up]);
    }
}
