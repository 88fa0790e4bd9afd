//! Reads the rotary encoding out of `config.json`, in its older form (`rope_theta` beside `rope_scaling`) and in its
//! newer one (`rope_parameters`).

use super::fields::Fields;
use super::{LongRopeFactors, RopeConfig, RopeScaling};
use crate::model::ModelError;

/// What a family says about its rotary encoding outside of the fields that hold it.
pub(super) struct RopeContext {
    /// Base of the frequencies where the file names none.
    pub(super) default_theta: f64,
    /// Width of one head.
    pub(super) head_dimension: usize,
    /// `max_position_embeddings`.
    pub(super) context_length: usize,
    /// Which scalings and partial rotations Transformers computes for this family.
    pub(super) dialect: RopeDialect,
    /// `original_max_position_embeddings` where the family keeps it at the top of the file.
    pub(super) original_context: Option<usize>,
}

/// Which scalings and partial rotations Transformers computes for a family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RopeDialect {
    /// Unscaled, linear, Llama 3 and YaRN, over the whole head.
    Common,
    /// Unscaled and LongRoPE (also spelt `su` and `yarn`), over a part of the head.
    Phi3,
}

/// Reads the encoding from the outermost fields of the file.
pub(super) fn read(fields: &mut Fields, context: &RopeContext) -> Result<RopeConfig, ModelError> {
    let outer = Outer { theta: fields.positive("rope_theta")?, rotary_part: fields.positive("partial_rotary_factor")? };
    let older = fields.object("rope_scaling")?;
    let newer = fields.object("rope_parameters")?;
    match (older, newer) {
        (Some(_), Some(_)) => Err(fields.conflict("rope_scaling", "rope_parameters")),
        (Some(scaling), None) | (None, Some(scaling)) => read_scaling(scaling, outer, context),
        (None, None) => Ok(RopeConfig {
            theta: outer.theta.unwrap_or(context.default_theta),
            rotary_dimension: rotary_dimension(fields, outer.rotary_part, context)?,
            scaling: RopeScaling::Unscaled,
        }),
    }
}

/// The two encodings of Gemma 3: first the one of layers that see everything, then that of layers with a window.
pub(super) fn read_gemma3(fields: &mut Fields, context: &RopeContext) -> Result<[RopeConfig; 2], ModelError> {
    const DEFAULT_LOCAL_THETA: f64 = 10_000.0;
    let local = RopeContext { default_theta: DEFAULT_LOCAL_THETA, ..*context };
    if let Some(mut nested) = fields.object("rope_parameters")? {
        let mut part = |name: &str, context: &RopeContext| {
            let scaling = nested.object(name)?;
            let scaling = nested.required(name, scaling)?;
            read_scaling(scaling, Outer::default(), context)
        };
        let ropes = [part("full_attention", context)?, part("sliding_attention", &local)?];
        nested.finish(&[])?;
        return Ok(ropes);
    }
    let local_theta = fields.positive("rope_local_base_freq")?.unwrap_or(DEFAULT_LOCAL_THETA);
    let unscaled =
        RopeConfig { theta: local_theta, rotary_dimension: context.head_dimension, scaling: RopeScaling::Unscaled };
    Ok([read(fields, context)?, unscaled])
}

/// What the older form writes beside the object that holds the scaling.
#[derive(Clone, Copy, Default)]
struct Outer {
    theta: Option<f64>,
    rotary_part: Option<f64>,
}

fn read_scaling(mut fields: Fields, outer: Outer, context: &RopeContext) -> Result<RopeConfig, ModelError> {
    let theta = fields.positive("rope_theta")?;
    let theta = agree(&fields, "rope_theta", theta, outer.theta)?;
    let rotary_part = fields.positive("partial_rotary_factor")?;
    let rotary_part = agree(&fields, "partial_rotary_factor", rotary_part, outer.rotary_part)?;
    let rotary_dimension = rotary_dimension(&fields, rotary_part, context)?;
    let newer = fields.text("rope_type")?;
    let older = fields.text("type")?;
    let kind = agree(&fields, "rope_type", newer, older)?.unwrap_or_else(|| "default".to_owned());

    let scaling = match (kind.as_str(), context.dialect) {
        ("default", _) => {
            // Some writers leave the original length beside an unscaled encoding, where it has no effect.
            fields.size("original_max_position_embeddings")?;
            RopeScaling::Unscaled
        }
        ("linear", RopeDialect::Common) => RopeScaling::Linear { factor: required(&mut fields, "factor")? },
        ("llama3", RopeDialect::Common) => RopeScaling::Llama3 {
            factor: required(&mut fields, "factor")?,
            low_frequency_factor: required(&mut fields, "low_freq_factor")?,
            high_frequency_factor: required(&mut fields, "high_freq_factor")?,
            original_context: original_context(&mut fields, context)?.unwrap_or(context.context_length),
        },
        ("yarn", RopeDialect::Common) => yarn(&mut fields, context)?,
        ("longrope" | "su" | "yarn", RopeDialect::Phi3) => long_rope(&mut fields, context, rotary_dimension)?,
        (other, RopeDialect::Common) => {
            return Err(fields.unsupported("rope_type", other, "default, linear, llama3 and yarn"));
        }
        (other, RopeDialect::Phi3) => return Err(fields.unsupported("rope_type", other, "default and longrope")),
    };
    fields.finish(&[])?;
    Ok(RopeConfig { theta: theta.unwrap_or(context.default_theta), rotary_dimension, scaling })
}

fn yarn(fields: &mut Fields, context: &RopeContext) -> Result<RopeScaling, ModelError> {
    let original_context = original_context(fields, context)?.unwrap_or(context.context_length);
    let factor =
        fields.positive("factor")?.unwrap_or_else(|| context.context_length as f64 / original_context.max(1) as f64);
    let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
    let given = fields.positive("attention_factor")?;
    let inferred = match (fields.positive("mscale")?, fields.positive("mscale_all_dim")?) {
        (Some(numerator), Some(denominator)) => scale(numerator) / scale(denominator),
        _ => scale(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast: fields.positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: fields.positive("beta_slow")?.unwrap_or(1.0),
        truncate: fields.flag("truncate")?.unwrap_or(true),
        original_context,
        attention_factor: given.unwrap_or(inferred),
    })
}

fn long_rope(fields: &mut Fields, context: &RopeContext, rotary_dimension: usize) -> Result<RopeScaling, ModelError> {
    let original_context = original_context(fields, context)?;
    let original_context = fields.required("original_max_position_embeddings", original_context)?;
    let mut factors = |name: &str| -> Result<Vec<f64>, ModelError> {
        let factors = fields.positives(name)?;
        let factors = fields.required(name, factors)?;
        if factors.len() != rotary_dimension / 2 {
            return Err(fields.unsupported(
                name,
                format!("a list of {} numbers", factors.len()),
                "one number for every two rotated dimensions",
            ));
        }
        Ok(factors)
    };
    let (short, long) = (factors("short_factor")?, factors("long_factor")?);
    let factor = fields.positive("factor")?;
    let given = fields.positive("attention_factor")?;
    Ok(RopeScaling::LongRope {
        factors: LongRopeFactors::Listed { short, long },
        original_context,
        attention_factor: given
            .unwrap_or_else(|| long_rope_attention_factor(factor, context.context_length, original_context)),
    })
}

/// LongRoPE's factor on cosine and sine, where none is given.
pub(super) fn long_rope_attention_factor(factor: Option<f64>, context_length: usize, original_context: usize) -> f64 {
    let original = original_context.max(2) as f64;
    let factor = factor.unwrap_or(context_length as f64 / original);
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

fn original_context(fields: &mut Fields, context: &RopeContext) -> Result<Option<usize>, ModelError> {
    let inner = fields.size("original_max_position_embeddings")?;
    agree(fields, "original_max_position_embeddings", inner, context.original_context)
}

fn rotary_dimension(fields: &Fields, part: Option<f64>, context: &RopeContext) -> Result<usize, ModelError> {
    match (part, context.dialect) {
        (None, _) => Ok(context.head_dimension),
        // Truncated as Transformers does; `Config::checked` refuses what is odd, zero or too wide.
        (Some(part), RopeDialect::Phi3) => Ok((context.head_dimension as f64 * part) as usize),
        (Some(1.0), RopeDialect::Common) => Ok(context.head_dimension),
        (Some(part), RopeDialect::Common) => Err(fields.unsupported("partial_rotary_factor", part, "1.0")),
    }
}

/// One value that may stand in two places; both must then say the same.
fn agree<T: PartialEq>(
    fields: &Fields,
    name: &str,
    inner: Option<T>,
    outer: Option<T>,
) -> Result<Option<T>, ModelError> {
    match (inner, outer) {
        (Some(inner), Some(outer)) if inner != outer => Err(fields.conflict(name, &format!("the outer {name}"))),
        (inner, outer) => Ok(inner.or(outer)),
    }
}

fn required(fields: &mut Fields, name: &str) -> Result<f64, ModelError> {
    let value = fields.positive(name)?;
    fields.required(name, value)
}
