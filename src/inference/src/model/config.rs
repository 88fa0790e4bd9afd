//! What a decoder is made of, in one vocabulary for all families.
//!
//! `config.json` and GGUF metadata say the same things in a dozen dialects.  The two submodules translate them into
//! [`Config`]; the decoder itself knows no family, only these fields.  A field that a dialect has and this type lacks
//! is refused by name, because a decoder that ignores a field computes something else than what was sealed.

mod fields;
mod gguf;
mod hugging_face;
mod rope_fields;

use std::collections::BTreeMap;
use std::fmt;

use super::{InputLimits, ModelError};

/// A decoder-only transformer, described completely.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family, for people and metrics; the computation does not branch on it.
    pub architecture: Architecture,
    /// How the tensors are named and laid out in the weight files.
    pub naming: TensorNaming,
    /// Number of token ids.
    pub vocabulary_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// The longest sequence, in tokens, that the model accepts.
    pub context_length: usize,
    /// Query heads of each layer.
    pub head_count: usize,
    /// Key and value heads of each layer; divides `head_count`.
    pub key_value_head_count: usize,
    /// Width of one head.
    pub head_dimension: usize,
    /// What differs from layer to layer, first layer first.
    pub layers: Vec<LayerConfig>,
    /// The rotary position encodings that layers refer to by index.
    pub ropes: Vec<RopeConfig>,
    /// Epsilon of every RMS norm.
    pub norm_epsilon: f64,
    /// Whether a norm multiplies by its weight or by one plus its weight.
    pub norm_weight: NormWeight,
    /// Where the norms of a layer stand.
    pub norm_placement: NormPlacement,
    /// Whether queries and keys are normalised per head.
    pub query_key_norm: QueryKeyNorm,
    /// Which attention projections have a bias.
    pub attention_bias: AttentionBias,
    /// Whether the feed-forward projections have a bias.
    pub feed_forward_bias: Bias,
    /// Whether query, key and value, and gate and up, are stored as one tensor each.
    pub projections: Projections,
    /// The feed-forward network's nonlinearity.
    pub activation: Activation,
    /// Factor of the attention scores.
    pub attention_scale: f64,
    /// `cap * tanh(score / cap)` on the attention scores.
    pub attention_softcap: Option<f64>,
    /// `cap * tanh(logit / cap)` on the logits.
    pub logit_softcap: Option<f64>,
    /// Factor of the embeddings.
    pub embedding_scale: Option<f64>,
    /// Factor of what each block adds to the residual stream.
    pub residual_scale: Option<f64>,
    /// Divisor of the logits.
    pub logit_divisor: Option<f64>,
    /// Whether the output projection is the embedding table.
    pub output: OutputProjection,
}

impl Config {
    /// What the model takes.
    pub(crate) fn input_limits(&self) -> InputLimits {
        InputLimits { vocabulary_size: self.vocabulary_size, length: self.context_length }
    }

    /// The tensors that this model consists of: name as Hugging Face spells it, and shape, outermost dimension first.
    ///
    /// This is the one list against which weights are checked, so a tensor is neither forgotten nor silently unused.
    pub fn tensors(&self) -> BTreeMap<String, Vec<usize>> {
        let hidden = self.hidden_size;
        let width = self.intermediate_size;
        let query = self.head_count * self.head_dimension;
        let key_value = self.key_value_head_count * self.head_dimension;
        let mut tensors = BTreeMap::from([
            ("model.embed_tokens.weight".to_owned(), vec![self.vocabulary_size, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ]);
        if self.output == OutputProjection::Separate {
            tensors.insert("lm_head.weight".to_owned(), vec![self.vocabulary_size, hidden]);
        }
        for (name, length) in self.ropes.iter().flat_map(RopeConfig::tensors) {
            tensors.insert(name.to_owned(), vec![length]);
        }
        for layer in 0..self.layers.len() {
            let mut matrix = |name: &str, output: usize, input: usize, bias: Bias| {
                let prefix = format!("model.layers.{layer}.{name}");
                tensors.insert(format!("{prefix}.weight"), vec![output, input]);
                if bias == Bias::Present {
                    tensors.insert(format!("{prefix}.bias"), vec![output]);
                }
            };
            let input_bias = self.attention_bias.query_key_value();
            match self.projections {
                Projections::Separate => {
                    matrix("self_attn.q_proj", query, hidden, input_bias);
                    matrix("self_attn.k_proj", key_value, hidden, input_bias);
                    matrix("self_attn.v_proj", key_value, hidden, input_bias);
                    matrix("mlp.gate_proj", width, hidden, self.feed_forward_bias);
                    matrix("mlp.up_proj", width, hidden, self.feed_forward_bias);
                }
                Projections::Fused => {
                    matrix("self_attn.qkv_proj", query + 2 * key_value, hidden, input_bias);
                    matrix("mlp.gate_up_proj", 2 * width, hidden, self.feed_forward_bias);
                }
            }
            matrix("self_attn.o_proj", hidden, query, self.attention_bias.output());
            matrix("mlp.down_proj", hidden, width, self.feed_forward_bias);

            let mut norm = |name: &str, length: usize| {
                tensors.insert(format!("model.layers.{layer}.{name}.weight"), vec![length]);
            };
            norm("input_layernorm", hidden);
            norm("post_attention_layernorm", hidden);
            if self.norm_placement == NormPlacement::Around {
                norm("pre_feedforward_layernorm", hidden);
                norm("post_feedforward_layernorm", hidden);
            }
            if self.query_key_norm == QueryKeyNorm::PerHead {
                norm("self_attn.q_norm", self.head_dimension);
                norm("self_attn.k_norm", self.head_dimension);
            }
        }
        tensors
    }

    /// Number of parameters, a tied output projection counted once.
    pub fn parameter_count(&self) -> u64 {
        self.tensors().values().map(|shape| shape.iter().map(|&length| length as u64).product::<u64>()).sum()
    }

    /// Checks what no single field can show: that sizes are not zero, divide where they must and stay within bounds
    /// that keep every later product far from overflow.
    fn checked(self) -> Result<Self, ModelError> {
        let sizes = [
            ("vocab_size", self.vocabulary_size, MAX_VOCABULARY_SIZE),
            ("hidden_size", self.hidden_size, MAX_WIDTH),
            ("intermediate_size", self.intermediate_size, MAX_WIDTH),
            ("max_position_embeddings", self.context_length, MAX_CONTEXT_LENGTH),
            ("num_attention_heads", self.head_count, MAX_HEADS),
            ("num_key_value_heads", self.key_value_head_count, MAX_HEADS),
            ("head_dim", self.head_dimension, MAX_HEAD_DIMENSION),
            ("num_hidden_layers", self.layers.len(), MAX_LAYERS),
        ];
        for (field, found, limit) in sizes {
            if found == 0 || found > limit {
                return Err(ModelError::InvalidConfigField {
                    field: field.to_owned(),
                    found: found.to_string(),
                    expected: "a size between 1 and this runtime's limit",
                });
            }
        }
        if !self.head_count.is_multiple_of(self.key_value_head_count) {
            return Err(ModelError::ConflictingConfigFields {
                first: "num_attention_heads".to_owned(),
                second: "num_key_value_heads".to_owned(),
            });
        }
        for rope in &self.ropes {
            if rope.rotary_dimension == 0
                || rope.rotary_dimension > self.head_dimension
                || !rope.rotary_dimension.is_multiple_of(2)
            {
                return Err(ModelError::InvalidConfigField {
                    field: "rotary dimension".to_owned(),
                    found: rope.rotary_dimension.to_string(),
                    expected: "an even number between 2 and head_dim",
                });
            }
        }
        Ok(self)
    }
}

/// Bounds of the sizes in a configuration: several times the largest published models of these families.
const MAX_VOCABULARY_SIZE: usize = 1 << 22;
const MAX_WIDTH: usize = 1 << 18;
const MAX_CONTEXT_LENGTH: usize = 1 << 25;
const MAX_HEADS: usize = 1 << 10;
const MAX_HEAD_DIMENSION: usize = 1 << 12;
const MAX_LAYERS: usize = 1 << 10;

/// The model families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama and everything that calls itself so.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3, dense.
    Qwen3,
    /// Phi-3, Phi-3.5 and Phi-4-mini.
    Phi3,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, text only.
    Gemma3,
    /// SmolLM 3.
    SmolLm3,
    /// Granite 3, dense.
    Granite,
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Phi3 => "phi3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::SmolLm3 => "smollm3",
            Self::Granite => "granite",
        })
    }
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// How far back a token sees.
    pub span: AttentionSpan,
    /// Index into [`Config::ropes`]; `None` is a layer without position encoding.
    pub rope: Option<usize>,
}

/// How far back a token sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionSpan {
    /// To the first token.
    Full,
    /// This many tokens, itself included.
    Sliding(usize),
}

impl AttentionSpan {
    /// How many tokens a token sees, itself included.
    pub(crate) fn window(self) -> usize {
        match self {
            Self::Full => usize::MAX,
            Self::Sliding(window) => window,
        }
    }
}

/// One rotary position encoding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// How many of a head's dimensions are rotated; the rest pass.
    pub rotary_dimension: usize,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Tensors that hold parts of the encoding (GGUF only), with their length.
    fn tensors(&self) -> Vec<(&'static str, usize)> {
        let length = self.rotary_dimension / 2;
        match &self.scaling {
            RopeScaling::StoredDivisors => vec![(ROPE_DIVISORS, length)],
            RopeScaling::LongRope { factors: LongRopeFactors::Stored, .. } => {
                vec![(ROPE_LONG_FACTORS, length), (ROPE_SHORT_FACTORS, length)]
            }
            _ => Vec::new(),
        }
    }
}

/// GGUF's names of the tensors that hold rotary scaling; Hugging Face has none, so they keep these.
pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";
pub(super) const ROPE_LONG_FACTORS: &str = "rope_factors_long.weight";
pub(super) const ROPE_SHORT_FACTORS: &str = "rope_factors_short.weight";

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Unscaled,
    /// All frequencies divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low` are low frequencies.
        low_frequency_factor: f64,
        /// Wavelengths below `original_context / high` are high frequencies.
        high_frequency_factor: f64,
        /// Context length of the first training, in tokens.
        original_context: usize,
    },
    /// YaRN: a ramp over the dimensions between kept and divided frequencies, and a factor on cosine and sine.
    Yarn {
        /// Divisor of the interpolated frequencies.
        factor: f64,
        /// Rotations within the original context above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is divided.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded outwards to whole dimensions.
        truncate: bool,
        /// Context length of the first training, in tokens.
        original_context: usize,
        /// Factor on cosine and sine.
        attention_factor: f64,
    },
    /// LongRoPE: a divisor for each frequency, one set for sequences within the original context and one beyond.
    LongRope {
        /// The divisors.
        factors: LongRopeFactors,
        /// Context length of the first training, in tokens.
        original_context: usize,
        /// Factor on cosine and sine.
        attention_factor: f64,
    },
    /// A divisor for each frequency, stored as a tensor: GGUF's form of Llama 3 scaling.
    StoredDivisors,
}

/// Where LongRoPE's divisors are.
#[derive(Debug, Clone, PartialEq)]
pub enum LongRopeFactors {
    /// In the configuration.
    Listed {
        /// For sequences within the original context.
        short: Vec<f64>,
        /// For longer ones.
        long: Vec<f64>,
    },
    /// In the weights.
    Stored,
}

/// What a norm multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormWeight {
    /// Its weight.
    Plain,
    /// One plus its weight (Gemma).
    PlusOne,
}

/// Where the norms of a layer stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the feed-forward network.
    Before,
    /// Before and after each of both (Gemma).
    Around,
}

/// Whether queries and keys are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryKeyNorm {
    /// No.
    Absent,
    /// Each head by itself, before the rotation.
    PerHead,
}

/// Whether a projection has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// No.
    Absent,
    /// Yes.
    Present,
}

/// Which attention projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// None.
    Absent,
    /// Query, key and value (Qwen 2).
    QueryKeyValue,
    /// Query, key, value and output.
    All,
}

impl AttentionBias {
    pub(crate) fn query_key_value(self) -> Bias {
        if self == Self::Absent { Bias::Absent } else { Bias::Present }
    }

    pub(crate) fn output(self) -> Bias {
        if self == Self::All { Bias::Present } else { Bias::Absent }
    }
}

/// How the projections that share an input are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// One tensor each.
    Separate,
    /// Query, key and value in one tensor, gate and up in another (Phi-3).
    Fused,
}

/// The feed-forward network's nonlinearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU by the error function.
    Gelu,
    /// GELU by the hyperbolic tangent.
    GeluTanh,
}

/// What turns the last hidden state into logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputProjection {
    /// The embedding table.
    TiedToEmbedding,
    /// A tensor of its own.
    Separate,
}

/// How tensors are named and laid out in the weight files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorNaming {
    /// Hugging Face's names and layout.
    HuggingFace,
    /// GGUF's names; the rows of query and key stand as in Hugging Face's layout.
    Gguf,
    /// GGUF's names; the rows of query and key are reordered for a rotation of neighbouring pairs.
    GgufPairedRows,
}
