//! Causal self-attention with grouped key/value heads, for one layer.

use candle_core::{D, Tensor};
use candle_nn::ops;

use super::cache::LayerCache;
use super::gradient::{self, Heads, Rotation};
use super::linear::Linear;
use super::norm::RmsNorm;
use super::pass::{LayerView, Mode, Pass};
use super::{Config, Gradient, LayerConfig, ModelError, Projections, QueryKeyNorm, Weights};

/// The attention of one layer.
#[derive(Debug)]
pub(super) struct Attention {
    layer: LayerConfig,
    input: QueryKeyValue,
    output: Linear,
    norms: Option<(RmsNorm, RmsNorm)>,
    head_count: usize,
    key_value_head_count: usize,
    head_dimension: usize,
    scale: f64,
    softcap: Option<f64>,
}

#[derive(Debug)]
enum QueryKeyValue {
    Separate { query: Linear, key: Linear, value: Linear },
    Fused(Linear),
}

impl Attention {
    pub(super) fn take(
        config: &Config,
        weights: &mut Weights,
        prefix: &str,
        layer: LayerConfig,
    ) -> Result<Self, ModelError> {
        let prefix = format!("{prefix}.self_attn");
        let bias = config.attention_bias.query_key_value();
        let mut linear = |name: &str, bias| Linear::take(weights, &format!("{prefix}.{name}"), bias);
        let input = match config.projections {
            Projections::Separate => QueryKeyValue::Separate {
                query: linear("q_proj", bias)?,
                key: linear("k_proj", bias)?,
                value: linear("v_proj", bias)?,
            },
            Projections::Fused => QueryKeyValue::Fused(linear("qkv_proj", bias)?),
        };
        let output = linear("o_proj", config.attention_bias.output())?;
        let mut norm = |name: &str| {
            let weight = weights.take_dense(&format!("{prefix}.{name}.weight"))?;
            RmsNorm::new(weight, config.norm_weight, config.norm_epsilon)
        };
        let norms = match config.query_key_norm {
            QueryKeyNorm::Absent => None,
            QueryKeyNorm::PerHead => Some((norm("q_norm")?, norm("k_norm")?)),
        };
        Ok(Self {
            layer,
            input,
            output,
            norms,
            head_count: config.head_count,
            key_value_head_count: config.key_value_head_count,
            head_dimension: config.head_dimension,
            scale: config.attention_scale,
            softcap: config.attention_softcap,
        })
    }

    /// `[b, t, hidden]` to the same.  With a cache `b` is 1, and the tokens see what the cache holds.
    pub(super) fn forward(
        &self,
        input: &Tensor,
        pass: &Pass<'_>,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor, ModelError> {
        let (batch, count, _) = input.dims3()?;
        let (query, key, value) = self.project(input, pass.mode)?;
        if pass.mode.gradient == Gradient::Tracked {
            return self.forward_tracked(&query, &key, &value, pass);
        }
        let mut query = self.split_heads(&query, self.head_count)?;
        let mut key = self.split_heads(&key, self.key_value_head_count)?;
        let value = self.split_heads(&value, self.key_value_head_count)?;
        if let Some((query_norm, key_norm)) = &self.norms {
            query = query_norm.forward(&query, pass.mode.gradient)?;
            key = key_norm.forward(&key, pass.mode.gradient)?;
        }
        if let Some(rope) = self.layer.rope {
            query = pass.rope(rope).rotate(&query)?;
            key = pass.rope(rope).rotate(&key)?;
        }

        let view = pass.view(self.layer.span);
        let groups = batch * self.key_value_head_count;
        let mut key = key.reshape((groups, count, self.head_dimension))?;
        let mut value = value.reshape((groups, count, self.head_dimension))?;
        if let Some(cache) = cache {
            (key, value) = cache.append(&key, &value, pass.position, view.first_key)?;
        }
        let mixed = self.attend(&query, &key, &value, view)?;
        let mixed = mixed.reshape((batch, self.head_count, count, self.head_dimension))?.transpose(1, 2)?.reshape((
            batch,
            count,
            self.head_count * self.head_dimension,
        ))?;
        self.output.forward(&mixed, pass.mode)
    }

    /// The same for projections of a pass that is trained, which begins at the first token.
    fn forward_tracked(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Tensor, ModelError> {
        let normed = |input: &Tensor, norm: &RmsNorm| -> Result<Tensor, ModelError> {
            let (batch, count, width) = input.dims3()?;
            let heads = input.reshape((batch, count, width / self.head_dimension, self.head_dimension))?;
            Ok(norm.forward(&heads, Gradient::Tracked)?.reshape((batch, count, width))?)
        };
        let (query, key) = match &self.norms {
            Some((query_norm, key_norm)) => (normed(query, query_norm)?, normed(key, key_norm)?),
            None => (query.contiguous()?, key.contiguous()?),
        };
        let heads = Heads {
            count: self.head_count,
            key_value_count: self.key_value_head_count,
            dimension: self.head_dimension,
            scale: self.scale as f32,
            softcap: self.softcap.map(|cap| cap as f32),
            window: self.layer.span.window(),
            rotation: self.layer.rope.map(|rope| Rotation::new(pass.rope(rope))).transpose()?,
        };
        let mixed = gradient::attend(&query, &key, &value.contiguous()?, heads)?;
        self.output.forward(&mixed, pass.mode)
    }

    fn project(&self, input: &Tensor, mode: Mode<'_>) -> Result<(Tensor, Tensor, Tensor), ModelError> {
        match &self.input {
            QueryKeyValue::Separate { query, key, value } => {
                Ok((query.forward(input, mode)?, key.forward(input, mode)?, value.forward(input, mode)?))
            }
            QueryKeyValue::Fused(all) => {
                let all = all.forward(input, mode)?;
                let query = self.head_count * self.head_dimension;
                let key = self.key_value_head_count * self.head_dimension;
                Ok((
                    all.narrow(D::Minus1, 0, query)?,
                    all.narrow(D::Minus1, query, key)?,
                    all.narrow(D::Minus1, query + key, key)?,
                ))
            }
        }
    }

    /// `[b, t, heads * d]` to contiguous `[b, heads, t, d]`.
    fn split_heads(&self, input: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
        let (batch, count, _) = input.dims3()?;
        Ok(input.reshape((batch, count, heads, self.head_dimension))?.transpose(1, 2)?.contiguous()?)
    }

    /// Queries `[b, heads, t, d]`, keys and values `[b * key/value heads, T, d]`; the result has the queries' order.
    ///
    /// The query heads that share a key head are laid one below the other, so nothing is repeated in memory.
    fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor, view: &LayerView) -> Result<Tensor, ModelError> {
        let (batch, heads, count, width) = query.dims4()?;
        let (groups, keys, _) = key.dims3()?;
        let shared = batch * heads / groups * count;
        let query = (query.reshape((groups, shared, width))? * self.scale)?;
        let mut scores = query.matmul(&key.t()?)?;
        if let Some(cap) = self.softcap {
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        if let Some(mask) = &view.mask {
            scores = scores.reshape((batch * heads, count, keys))?.broadcast_add(mask)?;
        }
        let scores = scores.reshape((groups, shared, keys))?;
        Ok(ops::softmax_last_dim(&scores)?.matmul(value)?)
    }
}
