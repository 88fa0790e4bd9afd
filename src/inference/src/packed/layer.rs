//! One layer: attention and the gated feed-forward network, each with its norms around it and added to the residual stream.

use ampoule_kernels::{Attention, Forms, Packed, Product, Span, Target, attend};

use super::adapter::{Projection, Segment, adapt};
use super::linear::Linear;
use super::rope::Turn;
use super::rows::{Activate, Norm};
use super::weights::PackedWeights;
use super::workspace::{Rows, Workspace, sized};
use crate::model::{Config, LayerConfig, ModelError, NormPlacement, QueryKeyNorm};

/// The layer's weights.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) config: LayerConfig,
    attention: Attention,
    before_attention: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    query_key_norms: Option<(Norm, Norm)>,
    output: Linear,
    after_attention: Option<Norm>,
    before_feed_forward: Norm,
    gate: Linear,
    up: Linear,
    activate: Activate,
    down: Linear,
    after_feed_forward: Option<Norm>,
    residual_scale: Option<f32>,
}

/// What all layers of one pass share.
pub(super) struct Pass<'a> {
    /// How many rows the batch has.
    pub(super) rows: usize,
    pub(super) spans: &'a [Span<'a>],
    pub(super) segments: &'a [Segment<'a>],
    /// For each rotary encoding, cosine and sine of each row.
    pub(super) turns: &'a [Vec<Turn<'a>>],
}

impl Layer {
    pub(super) fn take(config: &Config, weights: &mut PackedWeights, index: usize) -> Result<Self, ModelError> {
        let prefix = format!("model.layers.{index}");
        let layer = config.layers[index];
        let norm =
            |weights: &mut PackedWeights, name: &str| Norm::take(weights, &format!("{prefix}.{name}.weight"), config);
        let linear =
            |weights: &mut PackedWeights, name: &str, bias| Linear::take(weights, &format!("{prefix}.{name}"), bias);
        let input_bias = config.attention_bias.query_key_value();
        let around = config.norm_placement == NormPlacement::Around;
        let before_attention = norm(weights, "input_layernorm")?;
        let after = norm(weights, "post_attention_layernorm")?;
        let (after_attention, before_feed_forward, after_feed_forward) = if around {
            let before = norm(weights, "pre_feedforward_layernorm")?;
            (Some(after), before, Some(norm(weights, "post_feedforward_layernorm")?))
        } else {
            (None, after, None)
        };
        let query_key_norms = match config.query_key_norm {
            QueryKeyNorm::Absent => None,
            QueryKeyNorm::PerHead => Some((norm(weights, "self_attn.q_norm")?, norm(weights, "self_attn.k_norm")?)),
        };
        Ok(Self {
            config: layer,
            attention: Attention {
                heads: config.head_count,
                key_value_heads: config.key_value_head_count,
                dimension: config.head_dimension,
                scale: config.attention_scale as f32,
                softcap: config.attention_softcap.map(|cap| cap as f32),
                window: layer.span.window(),
            },
            before_attention,
            query: linear(weights, "self_attn.q_proj", input_bias)?,
            key: linear(weights, "self_attn.k_proj", input_bias)?,
            value: linear(weights, "self_attn.v_proj", input_bias)?,
            query_key_norms,
            output: linear(weights, "self_attn.o_proj", config.attention_bias.output())?,
            after_attention,
            before_feed_forward,
            gate: linear(weights, "mlp.gate_proj", config.feed_forward_bias)?,
            up: linear(weights, "mlp.up_proj", config.feed_forward_bias)?,
            activate: Activate(config.activation),
            down: linear(weights, "mlp.down_proj", config.feed_forward_bias)?,
            after_feed_forward,
            residual_scale: config.residual_scale.map(|scale| scale as f32),
        })
    }

    /// The layer's matrices.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &Packed> {
        let Self { query, key, value, output, gate, up, down, .. } = self;
        [query, key, value, output, gate, up, down].into_iter().map(|linear| &*linear.weight)
    }

    /// Computes the layer number `index` on all rows of the residual stream.
    pub(super) fn forward(&self, index: usize, pass: &Pass<'_>, workspace: &mut Workspace) {
        self.attend(index, pass, workspace);
        self.feed_forward(index, pass, workspace);
    }

    fn attend(&self, index: usize, pass: &Pass<'_>, workspace: &mut Workspace) {
        let Workspace { processor, blocks, rows, .. } = workspace;
        let (isa, count, dimension) = (processor.isa, pass.rows, self.attention.dimension);
        normed(rows, processor, &self.before_attention, [&self.query, &self.key, &self.value], pass);
        let Rows { input, query, key, value, activations, adapters, mixed, .. } = rows;
        let query = sized(query, count * self.query.outputs());
        let key = sized(key, count * self.key.outputs());
        let value = sized(value, count * self.value.outputs());
        let mut products = [
            Product { weights: &self.query.weight, target: Target::Set(query) },
            Product { weights: &self.key.weight, target: Target::Set(key) },
            Product { weights: &self.value.weight, target: Target::Set(value) },
        ];
        processor.multiply(activations, &mut products);
        let projected = [
            (Projection::Query, &self.query, &mut *query),
            (Projection::Key, &self.key, &mut *key),
            (Projection::Value, &self.value, &mut *value),
        ];
        for (projection, linear, target) in projected {
            adapt(processor, adapters, pass.segments, (index, projection), input, target);
            linear.add_bias(processor, target);
        }
        let (query_norm, key_norm) = self.query_key_norms.as_ref().map(|(query, key)| (query, key)).unzip();
        let turns = self.config.rope.map(|rope| &pass.turns[rope]);
        for (heads, norm, target) in [(&self.query, query_norm, &mut *query), (&self.key, key_norm, &mut *key)] {
            processor.pool.for_each_chunk(target, heads.outputs(), |row, heads| {
                if let Some(norm) = norm {
                    heads.chunks_exact_mut(dimension).for_each(|head| norm.apply_in_place(isa, head));
                }
                if let Some(turns) = turns {
                    let (cosine, sine) = turns[row];
                    ampoule_kernels::rows::rotate(isa, heads, dimension, cosine, sine);
                }
            });
        }
        blocks.store(processor, index, pass.spans, key, value);
        let mixed = sized(mixed, count * self.query.outputs());
        attend(processor, &self.attention, index, blocks, query, pass.spans, mixed);
        self.add_block(Projection::Output, &self.output, self.after_attention.as_ref(), index, pass, workspace);
    }

    fn feed_forward(&self, index: usize, pass: &Pass<'_>, workspace: &mut Workspace) {
        let Workspace { processor, rows, .. } = workspace;
        normed(rows, processor, &self.before_feed_forward, [&self.gate, &self.up], pass);
        let Rows { input, gate, up, activations, adapters, .. } = rows;
        let gate = sized(gate, pass.rows * self.gate.outputs());
        let up = sized(up, pass.rows * self.up.outputs());
        let mut products = [
            Product { weights: &self.gate.weight, target: Target::Set(gate) },
            Product { weights: &self.up.weight, target: Target::Set(up) },
        ];
        processor.multiply(activations, &mut products);
        let projected = [(Projection::Gate, &self.gate, gate), (Projection::Up, &self.up, up)];
        for (projection, linear, target) in projected {
            adapt(processor, adapters, pass.segments, (index, projection), input, target);
            linear.add_bias(processor, target);
        }
        self.add_block(Projection::Down, &self.down, self.after_feed_forward.as_ref(), index, pass, workspace);
    }

    /// Multiplies what a block has computed with its last matrix and adds it to the residual stream.
    fn add_block(
        &self,
        projection: Projection,
        linear: &Linear,
        after: Option<&Norm>,
        index: usize,
        pass: &Pass<'_>,
        workspace: &mut Workspace,
    ) {
        let Workspace { processor, rows, .. } = workspace;
        let Rows { hidden, input, gate, up, mixed, block, activations, adapters, .. } = rows;
        let (isa, width) = (processor.isa, linear.weight.inputs());
        let forms = [linear.weight.format().form()].into_iter().collect();
        let fill = |row: usize, into: &mut [f32]| {
            let part = row * width..(row + 1) * width;
            match projection {
                Projection::Down => self.activate.times(isa, &gate[part.clone()], &up[part], into),
                _ => into.copy_from_slice(&mixed[part]),
            }
        };
        activations.fill(processor, forms, pass.rows, width, fill);
        if !pass.segments.is_empty() {
            let input = sized(input, pass.rows * width);
            processor.pool.for_each_chunk(input, width, fill);
        }
        let outputs = linear.outputs();
        let hidden = &mut hidden[..pass.rows * outputs];
        let mut add = |target: &mut [f32], kind: fn(&mut [f32]) -> Target<'_>| {
            processor.multiply(activations, &mut [Product { weights: &linear.weight, target: kind(target) }]);
            adapt(processor, adapters, pass.segments, (index, projection), input, target);
            linear.add_bias(processor, target);
        };
        if after.is_none() && self.residual_scale.is_none() {
            return add(hidden, |target| Target::Add(target));
        }
        let block = sized(block, pass.rows * outputs);
        add(block, |target| Target::Set(target));
        processor.pool.for_each_chunk(hidden, outputs, |row, hidden| {
            let mut added = block[row * outputs..][..outputs].to_vec();
            if let Some(norm) = after {
                norm.apply_in_place(isa, &mut added);
            }
            if let Some(scale) = self.residual_scale {
                ampoule_kernels::rows::scale(isa, &mut added, scale);
            }
            ampoule_kernels::rows::add(isa, hidden, &added);
        });
    }
}

/// Fills in the norm of the residual stream in the forms that some matrices want, and as it is for adapters.
fn normed<const N: usize>(
    rows: &mut Rows,
    processor: &ampoule_kernels::Processor,
    norm: &Norm,
    linears: [&Linear; N],
    pass: &Pass<'_>,
) {
    let Rows { hidden, input, activations, .. } = rows;
    let (isa, width) = (processor.isa, norm.width());
    let forms: Forms = linears.iter().map(|linear| linear.weight.format().form()).collect();
    let fill = |row: usize, into: &mut [f32]| norm.apply(isa, &hidden[row * width..][..width], into);
    activations.fill(processor, forms, pass.rows, width, fill);
    if !pass.segments.is_empty() {
        processor.pool.for_each_chunk(sized(input, pass.rows * width), width, fill);
    }
}
