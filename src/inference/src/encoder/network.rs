//! The transformer of an encoder over packed weights: every token sees every token of its own text.
//!
//! Texts of different lengths stand one after the other without filling, so that no work is done for nothing and a text's
//! numbers are the same to the bit in any company.

use std::sync::Arc;

use ampoule_kernels::{Activations, Attention, Packed, Processor, Product, Target, attend_whole, rows};

use super::config::{Family, HiddenActivation, Transformer};
use crate::model::{Bias, ModelError};
use crate::packed::{Linear, PackedWeights, sized};

/// Embeddings and layers.
#[derive(Debug)]
pub(super) struct Network {
    transformer: Transformer,
    words: Arc<Packed>,
    positions: Arc<Packed>,
    /// What the first segment's tokens begin with; there is no second one.
    segment: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
}

#[derive(Debug)]
struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

/// Matrices `[rows, width]` of a pass, kept between passes.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    hidden: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    mixed: Vec<f32>,
    inner: Vec<f32>,
    activations: Activations,
}

impl Network {
    /// Takes the tensors that begin with `prefix`.
    pub(super) fn take(
        transformer: Transformer,
        weights: &mut PackedWeights,
        prefix: &str,
    ) -> Result<Self, ModelError> {
        let Transformer { hidden_size: hidden, vocabulary_size, positions, segments, .. } = transformer;
        let mut table = |name: &str, rows: usize| -> Result<Arc<Packed>, ModelError> {
            let name = format!("{prefix}embeddings.{name}.weight");
            let table = weights.matrix(&name)?;
            require(&name, &[table.outputs(), table.inputs()], &[rows, hidden])?;
            Ok(table)
        };
        let words = table("word_embeddings", vocabulary_size)?;
        let positions = table("position_embeddings", positions)?;
        let segments = table("token_type_embeddings", segments)?;
        let mut segment = vec![0.0; hidden];
        segments.row(0, &mut segment);
        let norm = LayerNorm::take(&transformer, weights, &format!("{prefix}embeddings.LayerNorm"))?;
        let layers = (0..transformer.layers)
            .map(|layer| Layer::take(&transformer, weights, &format!("{prefix}encoder.layer.{layer}")))
            .collect::<Result<_, _>>()?;
        Ok(Self { transformer, words, positions, segment, norm, layers })
    }

    /// Hidden states `[tokens of all texts, hidden]`, the texts one after the other.
    pub(super) fn forward<'s>(&self, processor: &Processor, scratch: &'s mut Scratch, texts: &[&[u32]]) -> &'s [f32] {
        let lengths: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let count = lengths.iter().sum();
        self.embed(processor, scratch, texts, count);
        for layer in &self.layers {
            layer.forward(&self.transformer, processor, scratch, &lengths, count);
        }
        &scratch.hidden[..count * self.transformer.hidden_size]
    }

    fn embed(&self, processor: &Processor, scratch: &mut Scratch, texts: &[&[u32]], count: usize) {
        let width = self.transformer.hidden_size;
        let tokens: Vec<(u32, usize)> = texts.iter().flat_map(|text| self.transformer.places(text)).collect();
        // No layer has mixed anything yet: the rows of the positions wait there.
        let Scratch { hidden, mixed, .. } = scratch;
        let positions = sized(mixed, count * width);
        processor.pool.for_each_chunk(positions, width, |row, into| self.positions.row(tokens[row].1, into));
        processor.pool.for_each_chunk(sized(hidden, count * width), width, |row, hidden| {
            self.words.row(tokens[row].0 as usize, hidden);
            rows::add(processor.isa, hidden, &self.segment);
            rows::add(processor.isa, hidden, &positions[row * width..][..width]);
            self.norm.apply(processor, hidden);
        });
    }
}

impl Transformer {
    /// A text's tokens, each with its position.
    fn places(&self, text: &[u32]) -> Vec<(u32, usize)> {
        match self.family {
            Family::Bert => text.iter().copied().zip(0..).collect(),
            // Positions are counted from the padding token's number on, and a padding token has that one.
            Family::Roberta { padding } => {
                let mut last = padding as usize;
                let place = |&token: &u32| {
                    if token == padding {
                        return (token, padding as usize);
                    }
                    last += 1;
                    (token, last)
                };
                text.iter().map(place).collect()
            }
        }
    }
}

impl Layer {
    fn take(transformer: &Transformer, weights: &mut PackedWeights, prefix: &str) -> Result<Self, ModelError> {
        let Transformer { hidden_size: hidden, intermediate_size: inner, .. } = *transformer;
        let linear = |weights: &mut PackedWeights, name: &str, outputs: usize, inputs: usize| {
            let name = format!("{prefix}.{name}");
            let linear = Linear::take(weights, &name, Bias::Present)?;
            require(&name, &[linear.outputs(), linear.weight.inputs()], &[outputs, inputs])?;
            require(&name, &[linear.bias.as_ref().map_or(0, Vec::len)], &[outputs])?;
            Ok::<_, ModelError>(linear)
        };
        let norm = |weights: &mut PackedWeights, name: &str| {
            LayerNorm::take(transformer, weights, &format!("{prefix}.{name}.LayerNorm"))
        };
        Ok(Self {
            query: linear(weights, "attention.self.query", hidden, hidden)?,
            key: linear(weights, "attention.self.key", hidden, hidden)?,
            value: linear(weights, "attention.self.value", hidden, hidden)?,
            attention_output: linear(weights, "attention.output.dense", hidden, hidden)?,
            attention_norm: norm(weights, "attention.output")?,
            intermediate: linear(weights, "intermediate.dense", inner, hidden)?,
            output: linear(weights, "output.dense", hidden, inner)?,
            output_norm: norm(weights, "output")?,
        })
    }

    fn forward(
        &self,
        transformer: &Transformer,
        processor: &Processor,
        scratch: &mut Scratch,
        lengths: &[usize],
        count: usize,
    ) {
        let Scratch { hidden, query, key, value, mixed, inner, activations } = scratch;
        let width = transformer.hidden_size;
        let hidden = sized(hidden, count * width);
        fill(processor, activations, &[&self.query, &self.key, &self.value], hidden, count);
        let [query, key, value] = [query, key, value].map(|matrix| sized(matrix, count * width));
        let mut products = [
            Product { weights: &self.query.weight, target: Target::Set(query) },
            Product { weights: &self.key.weight, target: Target::Set(key) },
            Product { weights: &self.value.weight, target: Target::Set(value) },
        ];
        processor.multiply(activations, &mut products);
        self.query.add_bias(processor, query);
        self.key.add_bias(processor, key);
        self.value.add_bias(processor, value);
        let mixed = sized(mixed, count * width);
        attend_whole(processor, &transformer.attention(), query, key, value, lengths, mixed);
        self.attention_output.add_to(processor, activations, mixed, hidden, count, &self.attention_norm);

        fill(processor, activations, &[&self.intermediate], hidden, count);
        let inner = sized(inner, count * transformer.intermediate_size);
        processor
            .multiply(activations, &mut [Product { weights: &self.intermediate.weight, target: Target::Set(inner) }]);
        processor.pool.for_each_chunk(inner, transformer.intermediate_size, |_, row| {
            if let Some(bias) = &self.intermediate.bias {
                rows::add(processor.isa, row, bias);
            }
            transformer.activation.apply(processor, row);
        });
        self.output.add_to(processor, activations, inner, hidden, count, &self.output_norm);
    }
}

/// Fills in rows in the forms that some matrices want.
fn fill(processor: &Processor, activations: &mut Activations, linears: &[&Linear], rows: &[f32], count: usize) {
    let width = rows.len() / count.max(1);
    let forms = linears.iter().map(|linear| linear.weight.format().form()).collect();
    activations.fill(processor, forms, count, width, |row, into| into.copy_from_slice(&rows[row * width..][..width]));
}

impl Linear {
    /// Adds the product with `rows` to `hidden`, and norms the sum.
    fn add_to(
        &self,
        processor: &Processor,
        activations: &mut Activations,
        rows: &[f32],
        hidden: &mut [f32],
        count: usize,
        norm: &LayerNorm,
    ) {
        fill(processor, activations, &[self], rows, count);
        processor.multiply(activations, &mut [Product { weights: &self.weight, target: Target::Add(hidden) }]);
        processor.pool.for_each_chunk(hidden, self.outputs(), |_, row| {
            if let Some(bias) = &self.bias {
                rows::add(processor.isa, row, bias);
            }
            norm.apply(processor, row);
        });
    }
}

impl LayerNorm {
    fn take(transformer: &Transformer, weights: &mut PackedWeights, name: &str) -> Result<Self, ModelError> {
        let (weight, bias) = (weights.vector(&format!("{name}.weight"))?, weights.vector(&format!("{name}.bias"))?);
        for vector in [&weight, &bias] {
            require(name, &[vector.len()], &[transformer.hidden_size])?;
        }
        Ok(Self { weight, bias, epsilon: transformer.epsilon as f32 })
    }

    fn apply(&self, processor: &Processor, row: &mut [f32]) {
        rows::layer_norm_in_place(processor.isa, row, &self.weight, &self.bias, self.epsilon);
    }
}

impl HiddenActivation {
    fn apply(self, processor: &Processor, row: &mut [f32]) {
        match self {
            HiddenActivation::Gelu => rows::gelu(processor.isa, row),
            HiddenActivation::GeluTanh => rows::gelu_tanh(processor.isa, row),
            HiddenActivation::Relu => row.iter_mut().for_each(|value| *value = value.max(0.0)),
        }
    }
}

impl Transformer {
    fn attention(&self) -> Attention {
        let dimension = self.hidden_size / self.heads;
        Attention {
            heads: self.heads,
            key_value_heads: self.heads,
            dimension,
            scale: 1.0 / (dimension as f32).sqrt(),
            softcap: None,
            window: usize::MAX,
        }
    }
}

fn require(name: &str, found: &[usize], expected: &[usize]) -> Result<(), ModelError> {
    crate::model::check_shape(name, found, expected)
}
