//! Translates `config.json` of each family.  Where the file is silent, Transformers' own default for that family holds.

use serde_json::Value;

use super::fields::Fields;
use super::rope_fields::{self, RopeContext, RopeDialect};
use super::{
    Activation, Architecture, AttentionBias, AttentionSpan, Bias, Config, LayerConfig, NormPlacement, NormWeight,
    OutputProjection, Projections, QueryKeyNorm, TensorNaming,
};
use crate::model::ModelError;

/// The `model_type` values that this runtime serves.
const SUPPORTED: &str = "llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text, smollm3 and granite";

impl Config {
    /// Translates a `config.json` as Transformers writes it.
    ///
    /// # Errors
    /// Refuses, by name, an unknown `model_type`, every field that is not known for it, and every value that this
    /// runtime cannot honour.
    pub fn from_hugging_face(config_json: &[u8]) -> Result<Self, ModelError> {
        let values = match serde_json::from_slice(config_json) {
            Ok(Value::Object(values)) => values,
            Ok(_) => return Err(ModelError::MalformedConfig { reason: "it is another JSON value".to_owned() }),
            Err(error) => return Err(ModelError::MalformedConfig { reason: error.to_string() }),
        };
        let model_type = values.get("model_type").and_then(Value::as_str).unwrap_or("(none)").to_owned();
        let architecture = match model_type.as_str() {
            "llama" => Architecture::Llama,
            "mistral" => Architecture::Mistral,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            "phi3" => Architecture::Phi3,
            "gemma2" => Architecture::Gemma2,
            "gemma3_text" => Architecture::Gemma3,
            "smollm3" => Architecture::SmolLm3,
            "granite" => Architecture::Granite,
            _ => return Err(ModelError::UnsupportedArchitecture { found: model_type, supported: SUPPORTED }),
        };
        let mut fields = Fields::new(&model_type, "", values);
        let config = translate(architecture, &mut fields)?;
        fields.require_neutral(NEUTRAL)?;
        fields.finish(INERT)?;
        config.checked()
    }
}

fn translate(architecture: Architecture, fields: &mut Fields) -> Result<Config, ModelError> {
    use Architecture::{Gemma2, Gemma3, Granite, Llama, Mistral, Phi3, Qwen2, Qwen3, SmolLm3};

    let gemma = matches!(architecture, Gemma2 | Gemma3);
    let hidden_size = fields.required_size("hidden_size")?;
    let layer_count = fields.required_size("num_hidden_layers")?;
    let head_count = fields.required_size("num_attention_heads")?;
    let context_length = fields.required_size("max_position_embeddings")?;
    let default_head_dimension = match architecture {
        Gemma2 | Gemma3 => 256,
        Qwen3 => 128,
        _ => hidden_size / head_count.max(1),
    };
    let head_dimension = fields.size("head_dim")?.unwrap_or(default_head_dimension);

    let context = RopeContext {
        default_theta: match architecture {
            Gemma3 => 1_000_000.0,
            SmolLm3 => 2_000_000.0,
            _ => 10_000.0,
        },
        head_dimension,
        context_length,
        dialect: if architecture == Phi3 { RopeDialect::Phi3 } else { RopeDialect::Common },
        original_context: match architecture {
            Phi3 => fields.size("original_max_position_embeddings")?,
            _ => None,
        },
    };
    let ropes = match architecture {
        Gemma3 => rope_fields::read_gemma3(fields, &context)?.to_vec(),
        _ => vec![rope_fields::read(fields, &context)?],
    };

    let attention_bias = match architecture {
        Qwen2 => AttentionBias::QueryKeyValue,
        Mistral | Phi3 => AttentionBias::Absent,
        _ if fields.flag("attention_bias")?.unwrap_or(false) => AttentionBias::All,
        _ => AttentionBias::Absent,
    };
    let feed_forward_bias = match architecture {
        Llama | SmolLm3 | Granite if fields.flag("mlp_bias")?.unwrap_or(false) => Bias::Present,
        _ => Bias::Absent,
    };
    let attention_scale = match architecture {
        Gemma2 | Gemma3 => fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5),
        Granite => fields.positive("attention_multiplier")?.unwrap_or(1.0),
        _ => (head_dimension as f64).powf(-0.5),
    };
    let attention_softcap = match architecture {
        Gemma2 if !fields.has("attn_logit_softcapping") => Some(50.0),
        Gemma2 => fields.positive("attn_logit_softcapping")?,
        Gemma3 => match fields.positive("attn_logit_softcapping")? {
            // Transformers reads this field for Gemma 3 and then does not apply it, so its meaning is undecided.
            Some(found) => return Err(fields.unsupported("attn_logit_softcapping", found, "null")),
            None => None,
        },
        _ => None,
    };
    if gemma && fields.flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(fields.unsupported("use_bidirectional_attention", true, "false"));
    }
    let granite = |fields: &mut Fields, name: &str| match architecture {
        Granite => fields.positive(name),
        _ => Ok(None),
    };
    let tied_by_default = matches!(architecture, Gemma2 | Gemma3 | SmolLm3);

    Ok(Config {
        architecture,
        naming: TensorNaming::HuggingFace,
        vocabulary_size: fields.required_size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required_size("intermediate_size")?,
        context_length,
        head_count,
        key_value_head_count: key_value_heads(architecture, head_count, fields)?,
        head_dimension,
        layers: layers(architecture, layer_count, fields)?,
        ropes,
        norm_epsilon: fields.positive("rms_norm_eps")?.unwrap_or(if architecture == Phi3 { 1e-5 } else { 1e-6 }),
        norm_weight: if gemma { NormWeight::PlusOne } else { NormWeight::Plain },
        norm_placement: if gemma { NormPlacement::Around } else { NormPlacement::Before },
        query_key_norm: match architecture {
            Qwen3 | Gemma3 => QueryKeyNorm::PerHead,
            _ => QueryKeyNorm::Absent,
        },
        attention_bias,
        feed_forward_bias,
        projections: if architecture == Phi3 { Projections::Fused } else { Projections::Separate },
        activation: activation(architecture, fields)?,
        attention_scale,
        attention_softcap,
        logit_softcap: match architecture {
            Gemma2 if !fields.has("final_logit_softcapping") => Some(30.0),
            Gemma2 | Gemma3 => fields.positive("final_logit_softcapping")?,
            _ => None,
        },
        embedding_scale: match architecture {
            Gemma2 | Gemma3 => Some((hidden_size as f64).sqrt()),
            _ => granite(fields, "embedding_multiplier")?,
        },
        residual_scale: granite(fields, "residual_multiplier")?,
        logit_divisor: granite(fields, "logits_scaling")?,
        output: match fields.flag("tie_word_embeddings")?.unwrap_or(tied_by_default) {
            true => OutputProjection::TiedToEmbedding,
            false => OutputProjection::Separate,
        },
    })
}

fn key_value_heads(architecture: Architecture, head_count: usize, fields: &mut Fields) -> Result<usize, ModelError> {
    use Architecture::{Granite, Llama, Phi3};

    // Elsewhere Transformers' default is the count of one published model, which nobody means by leaving it out.
    if matches!(architecture, Llama | Phi3 | Granite) || fields.has("num_key_value_heads") {
        Ok(fields.size("num_key_value_heads")?.unwrap_or(head_count))
    } else {
        fields.required("num_key_value_heads", None)
    }
}

fn activation(architecture: Architecture, fields: &mut Fields) -> Result<Activation, ModelError> {
    let (name, default) = match architecture {
        Architecture::Gemma2 | Architecture::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
        _ => ("hidden_act", "silu"),
    };
    let found = fields.text(name)?.unwrap_or_else(|| default.to_owned());
    if name == "hidden_activation" && fields.text("hidden_act")?.is_some_and(|other| other != found) {
        return Err(fields.conflict("hidden_activation", "hidden_act"));
    }
    match found.as_str() {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::Gelu),
        "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        _ => Err(fields.unsupported(name, found, "silu, gelu and gelu_pytorch_tanh")),
    }
}

/// Which layers see everything, which only a window, and which know positions at all.
fn layers(architecture: Architecture, count: usize, fields: &mut Fields) -> Result<Vec<LayerConfig>, ModelError> {
    use Architecture::{Gemma2, Gemma3, Granite, Llama, Mistral, Phi3, Qwen2, Qwen3, SmolLm3};

    if count > super::MAX_LAYERS {
        return Err(fields.unsupported("num_hidden_layers", count, "at most 1024 layers"));
    }
    if matches!(architecture, Llama | Granite) {
        return Ok(vec![LayerConfig { span: AttentionSpan::Full, rope: Some(0) }; count]);
    }
    // For these families an absent field means Transformers' default and `null` means no window.
    let absent = matches!(architecture, Mistral | Qwen2 | Qwen3 | Gemma2 | Gemma3) && !fields.has("sliding_window");
    let window = match if absent { Some(4096) } else { fields.size("sliding_window")? } {
        Some(0) => return Err(fields.unsupported("sliding_window", 0, "a window of at least one token")),
        window => window,
    };
    if matches!(architecture, Mistral | Phi3) {
        let span = window.map_or(AttentionSpan::Full, AttentionSpan::Sliding);
        return Ok(vec![LayerConfig { span, rope: Some(0) }; count]);
    }
    if architecture == SmolLm3 {
        // Published with the value of another family, and read by nobody: the windows follow from the rotations.
        fields.size("max_window_layers")?;
    }
    let window = match architecture {
        Gemma2 | Gemma3 => window,
        _ if fields.flag("use_sliding_window")?.unwrap_or(false) => window,
        _ => None,
    };

    let with_rope = match architecture {
        SmolLm3 => {
            let interval = fields.size("no_rope_layer_interval")?.unwrap_or(4);
            match fields.bits("no_rope_layers")? {
                Some(listed) if listed.len() >= count => listed[..count].to_vec(),
                Some(listed) => {
                    return Err(fields.unsupported("no_rope_layers", listed.len(), "an entry for every layer"));
                }
                None if interval == 0 => {
                    return Err(fields.unsupported("no_rope_layer_interval", 0, "an interval of at least one"));
                }
                None => (0..count).map(|layer| !(layer + 1).is_multiple_of(interval)).collect(),
            }
        }
        _ => vec![true; count],
    };
    let by_rule: Vec<bool> = match architecture {
        Gemma2 => (0..count).map(|layer| layer.is_multiple_of(2)).collect(),
        Gemma3 => match fields.size("sliding_window_pattern")?.unwrap_or(6) {
            0 => return Err(fields.unsupported("sliding_window_pattern", 0, "a pattern of at least one")),
            pattern => (0..count).map(|layer| !(layer + 1).is_multiple_of(pattern)).collect(),
        },
        Qwen2 | Qwen3 => {
            let first = fields.size("max_window_layers")?.unwrap_or(28);
            (0..count).map(|layer| window.is_some() && layer >= first).collect()
        }
        _ => with_rope.iter().map(|with_rope| window.is_some() && !with_rope).collect(),
    };
    let sliding = match fields.texts("layer_types")? {
        None => by_rule,
        Some(listed) if listed.len() != count => return Err(fields.conflict("layer_types", "num_hidden_layers")),
        Some(listed) => listed
            .iter()
            .map(|kind| match kind.as_str() {
                "full_attention" => Ok(false),
                "sliding_attention" => Ok(true),
                other => Err(fields.unsupported("layer_types", other, "full_attention and sliding_attention")),
            })
            .collect::<Result<_, _>>()?,
    };

    with_rope
        .into_iter()
        .zip(sliding)
        .map(|(with_rope, sliding)| {
            let span = match (sliding, window) {
                (false, _) => AttentionSpan::Full,
                (true, Some(window)) => AttentionSpan::Sliding(window),
                (true, None) => return Err(fields.conflict("layer_types", "sliding_window")),
            };
            // Gemma 3 has a second encoding for the layers with a window.
            let rope = if architecture == Gemma3 && sliding { 1 } else { 0 };
            Ok(LayerConfig { span, rope: with_rope.then_some(rope) })
        })
        .collect()
}

/// Fields of published checkpoints that Transformers does not read, each with the one value (as JSON) under which that is
/// right: the publisher's own code may read them.
const NEUTRAL: &[(&str, &str)] = &[
    ("_sliding_window_pattern", "6"),
    ("attention_bias", "false"),
    ("full_attn_mod", "1"),
    ("interpolate_factor", "1"),
    ("is_llama_config", "true"),
    ("lm_head_bias", "false"),
    ("mlp_bias", "false"),
    ("rope_interleaved", "false"),
    ("use_mrope", "false"),
];

/// Fields that say nothing about the logits: names, training, special tokens (the tokenizer's business), defaults of
/// generation (the engine's business), and switches of Transformers itself.
const INERT: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "neftune_noise_alpha",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];
