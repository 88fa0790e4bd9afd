//! The gated feed-forward network: `down(activation(gate(x)) * up(x))`.

use candle_core::{D, Tensor};

use super::linear::Linear;
use super::pass::Mode;
use super::{Activation, Config, Gradient, ModelError, Projections, Weights, gradient};

/// The feed-forward network of one layer.
#[derive(Debug)]
pub(super) struct FeedForward {
    input: GateAndUp,
    down: Linear,
    activation: Activation,
    width: usize,
}

#[derive(Debug)]
enum GateAndUp {
    Separate { gate: Linear, up: Linear },
    Fused(Linear),
}

impl FeedForward {
    pub(super) fn take(config: &Config, weights: &mut Weights, layer: &str) -> Result<Self, ModelError> {
        let mut linear = |name: &str| Linear::take(weights, &format!("{layer}.mlp.{name}"), config.feed_forward_bias);
        let input = match config.projections {
            Projections::Separate => GateAndUp::Separate { gate: linear("gate_proj")?, up: linear("up_proj")? },
            Projections::Fused => GateAndUp::Fused(linear("gate_up_proj")?),
        };
        Ok(Self { input, down: linear("down_proj")?, activation: config.activation, width: config.intermediate_size })
    }

    pub(super) fn forward(&self, input: &Tensor, mode: Mode<'_>) -> Result<Tensor, ModelError> {
        let (gate, up) = match &self.input {
            GateAndUp::Separate { gate, up } => (gate.forward(input, mode)?, up.forward(input, mode)?),
            GateAndUp::Fused(both) => {
                let both = both.forward(input, mode)?;
                (both.narrow(D::Minus1, 0, self.width)?, both.narrow(D::Minus1, self.width, self.width)?)
            }
        };
        if mode.gradient == Gradient::Tracked && self.activation == Activation::Silu {
            let gated = gradient::gated(&gate.contiguous()?, &up.contiguous()?)?;
            return self.down.forward(&gated, mode);
        }
        let gate = match self.activation {
            Activation::Silu => gate.silu()?,
            Activation::Gelu => gate.gelu_erf()?,
            Activation::GeluTanh => gate.gelu()?,
        };
        self.down.forward(&(gate * up)?, mode)
    }
}
