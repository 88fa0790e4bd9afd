//! Rotary position encoding: frequencies from the configuration, then cosine and sine for the positions of one pass.
//!
//! The arithmetic is Transformers': frequencies and angles in single precision, so that long contexts round alike.

use std::ops::Range;

use candle_core::{D, Device, Tensor};
use candle_nn::rotary_emb;

use super::config::{LongRopeFactors, ROPE_DIVISORS, ROPE_LONG_FACTORS, ROPE_SHORT_FACTORS};
use super::{ModelError, RopeConfig, RopeScaling};

/// One rotary encoding, ready to make tables.
#[derive(Debug)]
pub(crate) struct Rope {
    rotary_dimension: usize,
    attention_factor: f32,
    frequencies: Vec<f32>,
    /// LongRoPE's second set, and the length up to which the first holds.
    beyond: Option<(usize, Vec<f32>)>,
}

impl Rope {
    /// Computes the frequencies; `stored` gives the divisors that are among the weights, by name.
    pub(crate) fn new(
        config: &RopeConfig,
        mut stored: impl FnMut(&str) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        let dimension = config.rotary_dimension;
        let theta = config.theta as f32;
        let base: Vec<f32> =
            (0..dimension).step_by(2).map(|index| 1.0 / theta.powf(index as f32 / dimension as f32)).collect();
        let mut rope =
            Self { rotary_dimension: dimension, attention_factor: 1.0, frequencies: Vec::new(), beyond: None };
        rope.frequencies = match &config.scaling {
            RopeScaling::Unscaled => base,
            RopeScaling::Linear { factor } => base.iter().map(|frequency| frequency / *factor as f32).collect(),
            RopeScaling::Llama3 { .. } => {
                base.iter().map(|&frequency| llama3_frequency(frequency, &config.scaling)).collect()
            }
            RopeScaling::Yarn { attention_factor, .. } => {
                rope.attention_factor = *attention_factor as f32;
                yarn_frequencies(config)
            }
            RopeScaling::LongRope { factors, original_context, attention_factor } => {
                rope.attention_factor = *attention_factor as f32;
                let (short, long) = match factors {
                    LongRopeFactors::Listed { short, long } => (single(short), single(long)),
                    LongRopeFactors::Stored => (stored(ROPE_SHORT_FACTORS)?, stored(ROPE_LONG_FACTORS)?),
                };
                rope.beyond = Some((*original_context, divide(&base, &long)));
                divide(&base, &short)
            }
            RopeScaling::StoredDivisors => divide(&base, &stored(ROPE_DIVISORS)?),
        };
        Ok(rope)
    }

    /// The length beyond which all positions rotate with other frequencies (LongRoPE).
    pub(crate) fn original_context(&self) -> Option<usize> {
        self.beyond.as_ref().map(|(original_context, _)| *original_context)
    }

    /// Whether a sequence of `reach` tokens rotates with LongRoPE's second set of frequencies.
    pub(crate) fn is_beyond(&self, reach: usize) -> bool {
        self.original_context().is_some_and(|original_context| reach > original_context)
    }

    /// Half of a head's rotated dimensions.
    pub(crate) fn half(&self) -> usize {
        self.frequencies.len()
    }

    /// Appends cosine and sine, `[position, half]`, in a sequence of `reach` tokens.
    pub(crate) fn append(&self, positions: Range<usize>, reach: usize, cosine: &mut Vec<f32>, sine: &mut Vec<f32>) {
        let frequencies = match &self.beyond {
            Some((_, long)) if self.is_beyond(reach) => long,
            _ => &self.frequencies,
        };
        let angles = || {
            let at = |position: usize| frequencies.iter().map(move |frequency| position as f32 * frequency);
            positions.clone().flat_map(at)
        };
        cosine.extend(angles().map(|angle| angle.cos() * self.attention_factor));
        sine.extend(angles().map(|angle| angle.sin() * self.attention_factor));
    }

    /// Cosine and sine for `count` positions from `start` on, in a sequence of `reach` tokens.
    pub(super) fn table(&self, start: usize, count: usize, reach: usize) -> Result<RopeTable, ModelError> {
        let (mut cosine, mut sine) = (Vec::new(), Vec::new());
        self.append(start..start + count, reach, &mut cosine, &mut sine);
        let shape = (count, self.half());
        Ok(RopeTable {
            rotary_dimension: self.rotary_dimension,
            cosine: Tensor::from_vec(cosine, shape, &Device::Cpu)?,
            sine: Tensor::from_vec(sine, shape, &Device::Cpu)?,
        })
    }
}

/// Cosine and sine for the positions of one pass: `[t, rotary / 2]`.
#[derive(Debug)]
pub(super) struct RopeTable {
    rotary_dimension: usize,
    cosine: Tensor,
    sine: Tensor,
}

impl RopeTable {
    /// Cosine and sine.
    pub(super) fn tensors(&self) -> (&Tensor, &Tensor) {
        (&self.cosine, &self.sine)
    }

    /// Rotates heads `[b, h, t, d]`, which must be contiguous.
    pub(super) fn rotate(&self, heads: &Tensor) -> Result<Tensor, ModelError> {
        let width = heads.dim(D::Minus1)?;
        if self.rotary_dimension == width {
            return self.rotate_all(heads);
        }
        let rotated = heads.narrow(D::Minus1, 0, self.rotary_dimension)?.contiguous()?;
        let rotated = self.rotate_all(&rotated)?;
        let passed = heads.narrow(D::Minus1, self.rotary_dimension, width - self.rotary_dimension)?;
        Ok(Tensor::cat(&[&rotated, &passed], D::Minus1)?)
    }

    fn rotate_all(&self, heads: &Tensor) -> Result<Tensor, ModelError> {
        Ok(rotary_emb::rope(heads, &self.cosine, &self.sine)?)
    }
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn divide(frequencies: &[f32], divisors: &[f32]) -> Vec<f32> {
    frequencies.iter().zip(divisors).map(|(frequency, divisor)| frequency / divisor).collect()
}

fn llama3_frequency(frequency: f32, scaling: &RopeScaling) -> f32 {
    let RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } = *scaling else {
        return frequency;
    };
    let (factor, low, high) = (factor as f32, low_frequency_factor as f32, high_frequency_factor as f32);
    let original = original_context as f32;
    let wavelength = 2.0 * std::f32::consts::PI / frequency;
    if wavelength < original / high {
        frequency
    } else if wavelength > original / low {
        frequency / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

fn yarn_frequencies(config: &RopeConfig) -> Vec<f32> {
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_context, .. } = config.scaling else {
        return Vec::new();
    };
    let dimension = config.rotary_dimension as f64;
    // The (fractional) dimension that turns this many times within the original context.
    let turning = |rotations: f64| {
        dimension * (original_context as f64 / (rotations * 2.0 * std::f64::consts::PI)).ln()
            / (2.0 * config.theta.ln())
    };
    let (mut low, mut high) = (turning(beta_fast), turning(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dimension - 1.0));
    if low == high {
        high += 0.001;
    }
    let factor = factor as f32;
    (0..config.rotary_dimension / 2)
        .map(|index| {
            let power = (config.theta as f32).powf((2 * index) as f32 / config.rotary_dimension as f32);
            let interpolated = ((index as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - interpolated;
            (1.0 / (factor * power)) * (1.0 - kept) + (1.0 / power) * kept
        })
        .collect()
}
