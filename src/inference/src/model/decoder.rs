//! The one decoder: embeddings, layers, logits.  Everything that sets families apart is data in [`Config`].

use candle_core::{Device, Tensor};
use candle_nn::loss;

use super::attention::Attention;
use super::cache::LayerCache;
use super::feed_forward::FeedForward;
use super::gradient::{self, Output};
use super::linear::Linear;
use super::norm::RmsNorm;
use super::pass::{Mode, Pass};
use super::rope::Rope;
use super::{Adapter, Config, Gradient, KvCache, ModelError, NormPlacement, OutputProjection, Weight, Weights};

/// How many tokens of a long text are computed at once, so that scores take memory in proportion to the length and not
/// to its square.
const PIECE_TOKENS: usize = 256;

/// A decoder-only transformer on the CPU, computing in single precision.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    embedding: Weight,
    ropes: Vec<Rope>,
    layers: Vec<Layer>,
    norm: RmsNorm,
    output: Linear,
}

/// The next tokens of one sequence.
#[derive(Debug)]
pub struct SequenceStep<'a> {
    /// The tokens that follow what the cache holds; at least one.
    pub tokens: &'a [u32],
    /// The sequence so far; grows by `tokens`.
    pub cache: &'a mut KvCache,
    /// The adapter that all of the sequence's tokens go through.
    pub adapter: Option<&'a Adapter>,
}

impl Decoder {
    /// Builds the model, consuming every tensor of `weights`.
    ///
    /// # Errors
    /// Names the first tensor that is missing, misshapen or not called for.
    pub fn new(config: Config, mut weights: Weights) -> Result<Self, ModelError> {
        weights.check(&config)?;
        let weights = &mut weights;
        let embedding = weights.take("model.embed_tokens.weight")?;
        let output = match config.output {
            OutputProjection::TiedToEmbedding => Linear::shared(embedding.clone()),
            OutputProjection::Separate => Linear::shared(weights.take("lm_head.weight")?),
        };
        let ropes = config
            .ropes
            .iter()
            .map(|rope| Rope::new(rope, |name| weights.take_values(name)))
            .collect::<Result<_, _>>()?;
        let layers =
            (0..config.layers.len()).map(|index| Layer::take(&config, weights, index)).collect::<Result<_, _>>()?;
        let norm = RmsNorm::new(weights.take_dense("model.norm.weight")?, config.norm_weight, config.norm_epsilon)?;
        Ok(Self { embedding, ropes, layers, norm, output, config })
    }

    /// What the model is made of.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Runs the next tokens of several sequences and returns, for each, the logits `[vocabulary]` after its last token.
    ///
    /// A sequence's numbers depend on its own tokens and on how they were cut into steps, never on its neighbours.
    ///
    /// # Errors
    /// Refuses an empty step, a token outside of the vocabulary, a sequence beyond the context length and a cache of
    /// another model, before anything is computed.
    pub fn forward(&self, batch: &mut [SequenceStep<'_>]) -> Result<Vec<Tensor>, ModelError> {
        for step in batch.iter() {
            self.config.input_limits().check(step.tokens, step.cache.position())?;
            if step.cache.layer_count() != self.layers.len() {
                return Err(ModelError::MismatchedCache {
                    found: step.cache.layer_count(),
                    expected: self.layers.len(),
                });
            }
        }
        batch
            .iter_mut()
            .map(|step| {
                let mode = Mode { gradient: Gradient::Untracked, adapter: step.adapter };
                self.prepare_reach(step.tokens.len(), step.cache, mode)?;
                let hidden = self.extend(step.tokens, step.cache, mode)?;
                let last = hidden.narrow(1, hidden.dim(1)? - 1, 1)?;
                Ok(self.logits(&last, mode)?.flatten_all()?)
            })
            .collect()
    }

    /// The logits `[t, vocabulary]` after every token of one sequence.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_all(&self, tokens: &[u32], adapter: Option<&Adapter>) -> Result<Tensor, ModelError> {
        let mode = Mode { gradient: Gradient::Untracked, adapter };
        self.config.input_limits().check(tokens, 0)?;
        let mut cache = KvCache::reaching(&self.config, tokens.len());
        let logits = tokens
            .chunks(PIECE_TOKENS)
            .map(|piece| Ok(self.logits(&self.extend(piece, &mut cache, mode)?, mode)?.squeeze(0)?))
            .collect::<Result<Vec<_>, ModelError>>()?;
        Ok(Tensor::cat(&logits, 0)?)
    }

    /// The logits `[positions, vocabulary]` for token ids `[b, t]` at these positions of the flattened ids, differentiable
    /// with respect to weights, and matrices of the adapter, that are variables.  Changes of those variables are seen by
    /// the next pass.
    ///
    /// # Errors
    /// Refuses sequences beyond the context length; candle refuses tokens outside of the vocabulary.
    pub fn forward_training(
        &self,
        tokens: &Tensor,
        positions: &Tensor,
        adapter: Option<&Adapter>,
    ) -> Result<Tensor, ModelError> {
        let mode = Mode { gradient: Gradient::Tracked, adapter };
        self.logits(&self.trained_rows(tokens, positions, mode)?, mode)
    }

    /// The mean negative log likelihood, in nats, of these targets after the positions of [`Decoder::forward_training`],
    /// differentiable as its logits are; a scalar.  Over a frozen output projection it never holds all logits at once.
    ///
    /// Positions beyond the targets are to keep what the model says without an adapter, and count by the divergence from
    /// that; they are the last, in rows of their own, and need a frozen output projection.
    ///
    /// # Errors
    /// As [`Decoder::forward_training`], and for targets that do not fit the positions or the vocabulary.
    pub fn training_loss(
        &self,
        tokens: &Tensor,
        positions: &Tensor,
        targets: &[u32],
        adapter: Option<&Adapter>,
    ) -> Result<Tensor, ModelError> {
        let mode = Mode { gradient: Gradient::Tracked, adapter };
        let rows = self.trained_rows(tokens, positions, mode)?;
        let Some(weight) = self.output.frozen_weight() else {
            let targets = Tensor::from_slice(targets, targets.len(), &Device::Cpu)?;
            return Ok(loss::cross_entropy(&self.logits(&rows, mode)?, &targets)?);
        };
        let normed = self.norm.forward(&rows, mode.gradient)?;
        let teacher =
            self.unadapted_rows(tokens, &positions.narrow(0, targets.len(), normed.dim(0)? - targets.len())?)?;
        let Config { logit_divisor: divisor, logit_softcap: softcap, .. } = self.config;
        Ok(gradient::mean_loss(&normed, &Output { weight, divisor, softcap }, targets, teacher.as_ref())?)
    }

    /// The hidden states that the model without an adapter has at these positions, after the last norm; `None` without a
    /// position.  Only the rows of ids from the first of them on are computed.
    fn unadapted_rows(&self, tokens: &Tensor, positions: &Tensor) -> Result<Option<Tensor>, ModelError> {
        let (rows, row_tokens) = tokens.dims2()?;
        let Some(first) = positions.to_vec1::<u32>()?.into_iter().min() else { return Ok(None) };
        let row = first as usize / row_tokens;
        let tokens = tokens.narrow(0, row, rows - row)?;
        let positions = positions.broadcast_sub(&Tensor::new((row * row_tokens) as u32, &Device::Cpu)?)?;
        let mode = Mode { gradient: Gradient::Tracked, adapter: None };
        let hidden = self.trained_rows(&tokens, &positions, mode)?;
        Ok(Some(self.norm.forward(&hidden, mode.gradient)?))
    }

    /// Hidden states `[positions, hidden]` before the last norm: what nothing is learnt from needs no logits, which are
    /// the widest tensor of all.
    fn trained_rows(&self, tokens: &Tensor, positions: &Tensor, mode: Mode<'_>) -> Result<Tensor, ModelError> {
        let (_, count) = tokens.dims2()?;
        self.config.input_limits().check_length(count, 0)?;
        let pass = Pass::new(0, count, count, &self.ropes, &self.config.layers, mode)?;
        let mut hidden = self.embed(tokens)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &pass, None)?;
        }
        Ok(hidden.flatten(0, 1)?.index_select(positions, 0)?)
    }

    /// Makes the cache fit for `count` more tokens.
    ///
    /// LongRoPE rotates with other frequencies once a sequence leaves the original context.  What was computed with the
    /// first set cannot be mixed with the second, so everything is computed anew, once in a sequence's life.
    fn prepare_reach(&self, count: usize, cache: &mut KvCache, mode: Mode<'_>) -> Result<(), ModelError> {
        let (before, needed) = (cache.reach(), cache.position() + count);
        cache.extend_reach(needed);
        let Some(original_context) = self.ropes.iter().find_map(Rope::original_context) else { return Ok(()) };
        if before <= original_context && needed > original_context {
            for piece in cache.rewind().chunks(PIECE_TOKENS) {
                self.extend(piece, cache, mode)?;
            }
        }
        Ok(())
    }

    /// Hidden states `[1, t, hidden]` of `tokens`, which the cache then holds too.
    fn extend(&self, tokens: &[u32], cache: &mut KvCache, mode: Mode<'_>) -> Result<Tensor, ModelError> {
        let ids = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let (position, reach) = (cache.position(), cache.reach());
        let pass = Pass::new(position, tokens.len(), reach, &self.ropes, &self.config.layers, mode)?;
        let mut hidden = self.embed(&ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(&hidden, &pass, Some(cache.layer(index)))?;
        }
        cache.advance(tokens);
        Ok(hidden)
    }

    /// Token ids `[b, t]` to `[b, t, hidden]`.
    fn embed(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        let embedded = match &self.embedding {
            Weight::Dense(table) => {
                let (batch, count) = ids.dims2()?;
                table.index_select(&ids.flatten_all()?, 0)?.reshape((batch, count, self.config.hidden_size))?
            }
            Weight::Quantized(table) => table.embedding(ids)?,
        };
        Ok(match self.config.embedding_scale {
            Some(scale) => (embedded * scale)?,
            None => embedded,
        })
    }

    /// Hidden states `[.., hidden]` to logits `[.., vocabulary]`.
    fn logits(&self, hidden: &Tensor, mode: Mode<'_>) -> Result<Tensor, ModelError> {
        let mut logits = self.output.forward(&self.norm.forward(hidden, mode.gradient)?, mode)?;
        if let Some(divisor) = self.config.logit_divisor {
            logits = (logits / divisor)?;
        }
        if let Some(cap) = self.config.logit_softcap {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        Ok(logits)
    }
}

/// One layer: attention and feed-forward network, each with its norms around it and added to the residual stream.
#[derive(Debug)]
struct Layer {
    attention: Block<Attention>,
    feed_forward: Block<FeedForward>,
    residual_scale: Option<f64>,
}

#[derive(Debug)]
struct Block<T> {
    before: RmsNorm,
    inner: T,
    after: Option<RmsNorm>,
}

impl Layer {
    fn take(config: &Config, weights: &mut Weights, index: usize) -> Result<Self, ModelError> {
        let prefix = format!("model.layers.{index}");
        let mut norm = |name: &str| {
            let weight = weights.take_dense(&format!("{prefix}.{name}.weight"))?;
            RmsNorm::new(weight, config.norm_weight, config.norm_epsilon)
        };
        // `post_attention_layernorm` is the norm after attention in one placement and, oddly named, the one before
        // the feed-forward network in the other.
        let (attention, feed_forward) = match config.norm_placement {
            NormPlacement::Before => ((norm("input_layernorm")?, None), (norm("post_attention_layernorm")?, None)),
            NormPlacement::Around => (
                (norm("input_layernorm")?, Some(norm("post_attention_layernorm")?)),
                (norm("pre_feedforward_layernorm")?, Some(norm("post_feedforward_layernorm")?)),
            ),
        };
        Ok(Self {
            attention: Block {
                before: attention.0,
                inner: Attention::take(config, weights, &prefix, config.layers[index])?,
                after: attention.1,
            },
            feed_forward: Block {
                before: feed_forward.0,
                inner: FeedForward::take(config, weights, &prefix)?,
                after: feed_forward.1,
            },
            residual_scale: config.residual_scale,
        })
    }

    fn forward(&self, input: &Tensor, pass: &Pass<'_>, cache: Option<&mut LayerCache>) -> Result<Tensor, ModelError> {
        let gradient = pass.mode.gradient;
        let attended =
            self.attention.around(input, gradient, |normed, attention| attention.forward(normed, pass, cache))?;
        let middle = self.add(input, attended)?;
        let fed = self
            .feed_forward
            .around(&middle, gradient, |normed, feed_forward| feed_forward.forward(normed, pass.mode))?;
        self.add(&middle, fed)
    }

    fn add(&self, residual: &Tensor, addition: Tensor) -> Result<Tensor, ModelError> {
        Ok(match self.residual_scale {
            Some(scale) => (residual + (addition * scale)?)?,
            None => (residual + addition)?,
        })
    }
}

impl<T> Block<T> {
    fn around(
        &self,
        input: &Tensor,
        gradient: Gradient,
        compute: impl FnOnce(&Tensor, &T) -> Result<Tensor, ModelError>,
    ) -> Result<Tensor, ModelError> {
        let output = compute(&self.before.forward(input, gradient)?, &self.inner)?;
        match &self.after {
            Some(norm) => norm.forward(&output, gradient),
            None => Ok(output),
        }
    }
}
