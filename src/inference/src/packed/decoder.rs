//! The one decoder over packed weights: embeddings, layers, logits, for many sequences at once.  Everything that sets families
//! apart is data in [`Config`].

use std::ops::Range;
use std::sync::Arc;

use ampoule_kernels::{Packed, Product, Span, Target};

use super::adapter::{PackedAdapter, Segment};
use super::layer::{Layer, Pass};
use super::rope::Turn;
use super::rows::Norm;
use super::weights::PackedWeights;
use super::workspace::{Rows, Workspace, sized};
use crate::model::{Config, ModelError, OutputProjection, Rope};

/// A decoder-only transformer on the CPU, over packed weights.
#[derive(Debug)]
pub struct PackedDecoder {
    config: Config,
    embedding: Arc<Packed>,
    ropes: Vec<Rope>,
    layers: Vec<Layer>,
    norm: Norm,
    output: Arc<Packed>,
}

/// The next tokens of one sequence.
#[derive(Debug, Clone)]
pub struct SequenceStep<'a> {
    /// The tokens that follow what the blocks hold; at least one.
    pub tokens: &'a [u32],
    /// Where the first of them stands in its sequence.
    pub position: usize,
    /// The blocks of keys and values, in the order of the sequence, with room for `tokens`.
    pub blocks: &'a [u32],
    /// How long the sequence is known to become, at least: LongRoPE chooses its frequencies by that.  All steps of a sequence
    /// say the same, or lie on the same side of the original context.
    pub reach: usize,
    /// After which of `tokens` logits are wanted.
    pub logits: Range<usize>,
    /// The adapter that all of the sequence's tokens go through.
    pub adapter: Option<&'a PackedAdapter>,
}

impl PackedDecoder {
    /// Builds the model, consuming every tensor of `weights`.
    ///
    /// # Errors
    /// Names the first tensor that is missing.
    pub fn new(config: Config, mut weights: PackedWeights) -> Result<Self, ModelError> {
        weights.check(&config)?;
        let weights = &mut weights;
        let embedding = weights.matrix("model.embed_tokens.weight")?;
        let output = match config.output {
            OutputProjection::TiedToEmbedding => Arc::clone(&embedding),
            OutputProjection::Separate => weights.matrix("lm_head.weight")?,
        };
        let ropes = config.ropes.iter().map(|rope| Rope::new(rope, |name| weights.vector(name)));
        let ropes = ropes.collect::<Result<_, _>>()?;
        let layers = (0..config.layers.len()).map(|index| Layer::take(&config, weights, index));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = Norm::take(weights, "model.norm.weight", &config)?;
        Ok(Self { embedding, ropes, layers, norm, output, config })
    }

    /// What the model is made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The matrices that every token is multiplied with.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Packed> {
        self.layers.iter().flat_map(Layer::matrices).chain([&*self.output])
    }

    /// The length beyond which a sequence is computed with other frequencies from its first token on (LongRoPE).
    pub fn original_context(&self) -> Option<usize> {
        self.ropes.iter().find_map(Rope::original_context)
    }

    /// Runs the next tokens of several sequences, and returns the logits `[wanted tokens, vocabulary]` in the order of the
    /// steps and of their tokens.
    ///
    /// A sequence's numbers depend on its own tokens alone: not on how they were cut into steps, and not on its neighbours.
    ///
    /// # Errors
    /// Refuses an empty step, a token outside of the vocabulary and a sequence beyond the context length, before anything is
    /// computed.
    pub fn forward<'w>(
        &self,
        workspace: &'w mut Workspace,
        steps: &[SequenceStep<'_>],
    ) -> Result<&'w mut [f32], ModelError> {
        let limits = self.config.input_limits();
        steps.iter().try_for_each(|step| limits.check(step.tokens, step.position))?;
        let rows: usize = steps.iter().map(|step| step.tokens.len()).sum();
        let mut ropes = std::mem::take(&mut workspace.ropes);
        for step in steps {
            for (tables, rope) in ropes.iter_mut().zip(&self.ropes) {
                tables.extend(rope, step.position + step.tokens.len(), step.reach);
            }
        }
        let turns: Vec<Vec<Turn<'_>>> = ropes
            .iter()
            .zip(&self.ropes)
            .map(|(tables, rope)| {
                let positions = |step: &SequenceStep<'_>| step.position..step.position + step.tokens.len();
                steps
                    .iter()
                    .flat_map(|step| positions(step).map(|position| tables.turn(rope, position, step.reach)))
                    .collect()
            })
            .collect();
        let (spans, segments) = (spans(steps), segments(steps));
        let pass = Pass { rows, spans: &spans, segments: &segments, turns: &turns };
        self.embed(workspace, steps, rows);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.forward(index, &pass, workspace);
        }
        workspace.ropes = ropes;
        Ok(self.logits(workspace, steps))
    }

    fn embed(&self, workspace: &mut Workspace, steps: &[SequenceStep<'_>], rows: usize) {
        let Workspace { processor, rows: Rows { hidden, .. }, .. } = workspace;
        let width = self.config.hidden_size;
        let tokens: Vec<u32> = steps.iter().flat_map(|step| step.tokens.iter().copied()).collect();
        processor.pool.for_each_chunk(sized(hidden, rows * width), width, |row, hidden| {
            self.embedding.row(tokens[row] as usize, hidden);
            if let Some(factor) = self.config.embedding_scale {
                ampoule_kernels::rows::scale(processor.isa, hidden, factor as f32);
            }
        });
    }

    fn logits<'w>(&self, workspace: &'w mut Workspace, steps: &[SequenceStep<'_>]) -> &'w mut [f32] {
        let Workspace { processor, rows: Rows { hidden, logits, activations, .. }, .. } = workspace;
        let (isa, width, vocabulary) = (processor.isa, self.config.hidden_size, self.config.vocabulary_size);
        let mut wanted = Vec::new();
        let mut start = 0;
        for step in steps {
            wanted.extend(step.logits.clone().map(|token| start + token));
            start += step.tokens.len();
        }
        let forms = [self.output.format().form()].into_iter().collect();
        activations.fill(processor, forms, wanted.len(), width, |row, into| {
            self.norm.apply(isa, &hidden[wanted[row] * width..][..width], into);
        });
        let logits = sized(logits, wanted.len() * vocabulary);
        processor.multiply(activations, &mut [Product { weights: &self.output, target: Target::Set(logits) }]);
        if self.config.logit_divisor.is_some() || self.config.logit_softcap.is_some() {
            processor.pool.for_each_chunk(logits, vocabulary, |_, logits| {
                if let Some(divisor) = self.config.logit_divisor {
                    ampoule_kernels::rows::scale(isa, logits, (1.0 / divisor) as f32);
                }
                if let Some(cap) = self.config.logit_softcap {
                    ampoule_kernels::rows::softcap(isa, logits, cap as f32);
                }
            });
        }
        logits
    }
}

fn spans<'a>(steps: &[SequenceStep<'a>]) -> Vec<Span<'a>> {
    let mut start = 0;
    let span = |step: &SequenceStep<'a>| {
        let rows = start..start + step.tokens.len();
        start = rows.end;
        Span { rows, position: step.position, blocks: step.blocks }
    };
    steps.iter().map(span).collect()
}

/// The stretches of rows that go through an adapter, those of neighbours with the same one joined.
fn segments<'a>(steps: &[SequenceStep<'a>]) -> Vec<Segment<'a>> {
    let mut segments: Vec<Segment<'a>> = Vec::new();
    let mut start = 0;
    for step in steps {
        let rows = start..start + step.tokens.len();
        start = rows.end;
        let Some(adapter) = step.adapter else { continue };
        match segments.last_mut() {
            Some(last) if last.rows.end == rows.start && std::ptr::eq(last.adapter, adapter) => {
                last.rows.end = rows.end
            }
            _ => segments.push(Segment { rows, adapter }),
        }
    }
    segments
}
