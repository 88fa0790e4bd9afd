//! Translates GGUF metadata.  Where it is silent, what llama.cpp assumes for the family holds: some families' settings
//! are not in the file at all but follow from the number of layers.

use ampoule_bundle::{GgufArray, GgufHeader, GgufValue};
use serde_json::{Map, Number, Value};

use super::fields::Fields;
use super::rope_fields::long_rope_attention_factor;
use super::{
    Activation, Architecture, AttentionBias, AttentionSpan, Bias, Config, LayerConfig, LongRopeFactors, NormPlacement,
    NormWeight, OutputProjection, Projections, QueryKeyNorm, ROPE_DIVISORS, ROPE_LONG_FACTORS, RopeConfig, RopeScaling,
    TensorNaming,
};
use crate::model::ModelError;

/// The `general.architecture` values that this runtime serves.
const SUPPORTED: &str = "llama, qwen2, qwen3, phi3, gemma2, gemma3, smollm3 and granite";

impl Config {
    /// Translates the metadata and the tensor table of a GGUF file as llama.cpp's converter writes them.
    ///
    /// # Errors
    /// Refuses, by name, an unknown architecture, every field of it that is not known, and every value that this
    /// runtime cannot honour.  What stands outside of the architecture's own fields (`general.*`, `tokenizer.*`) says
    /// nothing about the logits.
    pub fn from_gguf(header: &GgufHeader) -> Result<Self, ModelError> {
        let text = |key: &str| header.metadata.get(key).and_then(GgufValue::as_str);
        let name = text("general.architecture").unwrap_or("(none)");
        let architecture = match name {
            "llama" => Architecture::Llama,
            "qwen2" => Architecture::Qwen2,
            "qwen3" => Architecture::Qwen3,
            "phi3" => Architecture::Phi3,
            "gemma2" => Architecture::Gemma2,
            "gemma3" => Architecture::Gemma3,
            "smollm3" => Architecture::SmolLm3,
            "granite" => Architecture::Granite,
            _ => return Err(ModelError::UnsupportedArchitecture { found: name.to_owned(), supported: SUPPORTED }),
        };
        if let Some(other) = text("general.type").filter(|kind| *kind != "model") {
            return Err(ModelError::UnsupportedConfigField {
                field: "general.type".to_owned(),
                found: other.to_owned(),
                supported: "model",
            });
        }
        let prefix = format!("{name}.");
        let values: Map<String, Value> = header
            .metadata
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?.to_owned(), json(value))))
            .collect();
        let mut fields = Fields::new(name, &prefix, values);
        let config = translate(architecture, &mut fields, header)?;
        fields.finish(INERT)?;
        config.checked()
    }
}

/// Fields that say nothing about the logits.
const INERT: &[&str] = &["rope.scaling.finetuned", "tensor_data_layout"];

fn translate(architecture: Architecture, fields: &mut Fields, header: &GgufHeader) -> Result<Config, ModelError> {
    use Architecture::{Gemma2, Gemma3, Granite, Llama, Phi3, Qwen3, SmolLm3};

    let gemma = matches!(architecture, Gemma2 | Gemma3);
    let has = |name: &str| header.tensors.iter().any(|tensor| tensor.name == name);
    let hidden_size = fields.required_size("embedding_length")?;
    let layer_count = fields.required_size("block_count")?;
    let head_count = fields.required_size("attention.head_count")?;
    let context_length = fields.required_size("context_length")?;
    let head_dimension = fields.size("attention.key_length")?.unwrap_or(hidden_size / head_count.max(1));
    if fields.size("attention.value_length")?.is_some_and(|length| length != head_dimension) {
        return Err(fields.conflict("attention.key_length", "attention.value_length"));
    }
    let vocabulary_size = vocabulary_size(fields, header)?;
    for name in ["expert_count", "expert_used_count"] {
        if let Some(found) = fields.size(name)?.filter(|&count| count != 0) {
            return Err(fields.unsupported(name, found, "0, no mixture of experts"));
        }
    }
    if fields.flag("attention.causal")? == Some(false) {
        return Err(fields.unsupported("attention.causal", false, "true"));
    }

    let granite = |fields: &mut Fields, name: &str| match architecture {
        Granite => fields.positive(name),
        _ => Ok(None),
    };
    // The largest Gemmas scale by another width than the head's; the file does not say so.
    let scaled_width = match (architecture, layer_count) {
        (Gemma2, 46) | (Gemma3, 62) => hidden_size / head_count.max(1),
        _ => head_dimension,
    };
    let softcap = |fields: &mut Fields, name: &str, default: Option<f64>| match architecture {
        Gemma2 => Ok(fields.positive(name)?.or(default)),
        Gemma3 if name == "final_logit_softcapping" => fields.positive(name),
        _ => Ok(None),
    };

    Ok(Config {
        architecture,
        naming: match architecture {
            Llama | SmolLm3 | Granite => TensorNaming::GgufPairedRows,
            _ => TensorNaming::Gguf,
        },
        vocabulary_size,
        hidden_size,
        intermediate_size: fields.required_size("feed_forward_length")?,
        context_length,
        head_count,
        key_value_head_count: fields.size("attention.head_count_kv")?.unwrap_or(head_count),
        head_dimension,
        layers: layers(architecture, layer_count, fields)?,
        ropes: ropes(architecture, head_dimension, context_length, fields, has)?,
        norm_epsilon: {
            let epsilon = fields.positive("attention.layer_norm_rms_epsilon")?;
            fields.required("attention.layer_norm_rms_epsilon", epsilon)?
        },
        // The converter has already added the one.
        norm_weight: NormWeight::Plain,
        norm_placement: if gemma { NormPlacement::Around } else { NormPlacement::Before },
        query_key_norm: match architecture {
            Qwen3 | Gemma3 => QueryKeyNorm::PerHead,
            _ => QueryKeyNorm::Absent,
        },
        attention_bias: if has("blk.0.attn_output.bias") {
            AttentionBias::All
        } else if has("blk.0.attn_q.bias") {
            AttentionBias::QueryKeyValue
        } else {
            AttentionBias::Absent
        },
        feed_forward_bias: if has("blk.0.ffn_up.bias") { Bias::Present } else { Bias::Absent },
        projections: if architecture == Phi3 { Projections::Fused } else { Projections::Separate },
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        attention_scale: granite(fields, "attention.scale")?.unwrap_or((scaled_width as f64).powf(-0.5)),
        attention_softcap: softcap(fields, "attn_logit_softcapping", Some(50.0))?,
        logit_softcap: softcap(fields, "final_logit_softcapping", Some(30.0))?,
        embedding_scale: match architecture {
            Gemma2 | Gemma3 => Some((hidden_size as f64).sqrt()),
            _ => granite(fields, "embedding_scale")?,
        },
        residual_scale: granite(fields, "residual_scale")?,
        logit_divisor: granite(fields, "logit_scale")?,
        output: if has("output.weight") { OutputProjection::Separate } else { OutputProjection::TiedToEmbedding },
    })
}

/// The embedding table decides; the field, where there is one, must agree.
fn vocabulary_size(fields: &mut Fields, header: &GgufHeader) -> Result<usize, ModelError> {
    let table = header.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
    let table = table.ok_or_else(|| ModelError::MissingTensor { name: "token_embd.weight".to_owned() })?;
    let rows = table.shape.first().copied().unwrap_or(0);
    match fields.size("vocab_size")? {
        Some(found) if found != rows => Err(fields.conflict("vocab_size", "the shape of token_embd.weight")),
        _ => Ok(rows),
    }
}

fn layers(architecture: Architecture, count: usize, fields: &mut Fields) -> Result<Vec<LayerConfig>, ModelError> {
    use Architecture::{Gemma2, Gemma3, Phi3, SmolLm3};

    if count > super::MAX_LAYERS {
        return Err(fields.unsupported("block_count", count, "at most 1024 layers"));
    }
    let window = match architecture {
        Gemma2 => fields.size("attention.sliding_window")?.or(Some(4096)),
        Gemma3 | Phi3 => fields.size("attention.sliding_window")?,
        _ => None,
    };
    // Zero stands for no window.
    let span = window.filter(|&window| window > 0).map_or(AttentionSpan::Full, AttentionSpan::Sliding);
    let pattern = match architecture {
        Gemma2 => sliding_pattern(fields, 2)?,
        Gemma3 => sliding_pattern(fields, 6)?,
        _ => 1,
    };
    Ok((0..count)
        .map(|layer| {
            let full = pattern > 1 && (layer + 1).is_multiple_of(pattern);
            let span = if full { AttentionSpan::Full } else { span };
            let rope = if architecture == Gemma3 && !full { 1 } else { 0 };
            // SmolLM 3 leaves every fourth layer without positions; the file does not say so.
            let without_rope = architecture == SmolLm3 && (layer + 1).is_multiple_of(4);
            LayerConfig { span, rope: (!without_rope).then_some(rope) }
        })
        .collect())
}

fn sliding_pattern(fields: &mut Fields, default: usize) -> Result<usize, ModelError> {
    const NAME: &str = "attention.sliding_window_pattern";
    match fields.size(NAME)?.unwrap_or(default) {
        pattern if pattern < 2 => Err(fields.unsupported(NAME, pattern, "a pattern of at least two layers")),
        pattern => Ok(pattern),
    }
}

fn ropes(
    architecture: Architecture,
    head_dimension: usize,
    context_length: usize,
    fields: &mut Fields,
    has: impl Fn(&str) -> bool,
) -> Result<Vec<RopeConfig>, ModelError> {
    let rotary_dimension = fields.size("rope.dimension_count")?.unwrap_or(head_dimension);
    if rotary_dimension != head_dimension && architecture != Architecture::Phi3 {
        return Err(fields.conflict("rope.dimension_count", "attention.key_length"));
    }
    let theta = fields.positive("rope.freq_base")?.unwrap_or(10_000.0);
    let kind = fields.text("rope.scaling.type")?;
    let factor = fields.positive("rope.scaling.factor")?;
    let original_context = fields.size("rope.scaling.original_context_length")?;
    let attention_factor = fields.positive("rope.scaling.attn_factor")?;

    let scaling = if has(ROPE_LONG_FACTORS) {
        let original_context = fields.required("rope.scaling.original_context_length", original_context)?;
        RopeScaling::LongRope {
            factors: LongRopeFactors::Stored,
            original_context,
            attention_factor: attention_factor
                .unwrap_or_else(|| long_rope_attention_factor(factor, context_length, original_context)),
        }
    } else if has(ROPE_DIVISORS) {
        RopeScaling::StoredDivisors
    } else {
        match (kind.as_deref(), factor) {
            (Some("none"), _) | (None, None) => RopeScaling::Unscaled,
            (Some("linear") | None, Some(factor)) => RopeScaling::Linear { factor },
            (Some("yarn"), Some(factor)) => RopeScaling::Yarn {
                factor,
                beta_fast: fields.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: fields.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                original_context: original_context.unwrap_or(context_length),
                attention_factor: attention_factor.unwrap_or(1.0)
                    * if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 },
            },
            (Some("linear" | "yarn"), None) => return Err(fields.conflict("rope.scaling.type", "rope.scaling.factor")),
            (Some(other), _) => {
                return Err(fields.unsupported("rope.scaling.type", other, "none, linear, yarn and longrope"));
            }
        }
    };
    let global = RopeConfig { theta, rotary_dimension, scaling };
    if architecture != Architecture::Gemma3 {
        return Ok(vec![global]);
    }
    let local_theta = fields.positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let local = RopeConfig { theta: local_theta, rotary_dimension, scaling: RopeScaling::Unscaled };
    Ok(vec![global, local])
}

/// The value as the reader of fields takes it.
fn json(value: &GgufValue) -> Value {
    match value {
        GgufValue::Bool(flag) => Value::Bool(*flag),
        GgufValue::String(text) => Value::String(text.clone()),
        GgufValue::Array(array) => array_json(array),
        number => number.as_u64().map(Number::from).or_else(|| number.as_f64().and_then(Number::from_f64)).map_or_else(
            // Negative or not finite: no field of these families takes such a number.
            || Value::String(format!("{number:?}")),
            Value::Number,
        ),
    }
}

/// Arrays where one number is expected (a value per layer) are shown by length, so that refusing one stays short.
fn array_json(array: &GgufArray) -> Value {
    Value::String(format!("an array of {} values", array.len()))
}
