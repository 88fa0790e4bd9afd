//! From the numbers of a request to [`Sampling`] and token limits: each field against its range, and a refusal that
//! names field, range and value.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ampoule_inference::{MAX_STOP_STRING_BYTES, Sampling, StopRules};

use super::defaults::SamplingDefaults;
use super::error::{ApiError, echo};
use super::openai::value::{Integer, LogitBias, Number, OneOrMany};

/// OpenAI's limit.
const MAX_STOP_STRINGS: usize = 4;

/// How many tokens may carry a bias; OpenAI's limit.
const MAX_BIASED_TOKENS: usize = 300;

/// A temperature below this is greedy: dividing logits by less would overflow, and the outcome would be the same
/// (THREATS C32).
const SMALLEST_TEMPERATURE: f32 = 1e-4;

/// The sampling fields that chat completions and completions share, as the client wrote them.
#[derive(Debug, Default)]
pub(crate) struct SamplingFields<'a> {
    pub(crate) temperature: Option<Number>,
    pub(crate) top_p: Option<Number>,
    pub(crate) top_k: Option<Integer>,
    pub(crate) min_p: Option<Number>,
    pub(crate) presence_penalty: Option<Number>,
    pub(crate) frequency_penalty: Option<Number>,
    pub(crate) repetition_penalty: Option<Number>,
    pub(crate) logit_bias: Option<&'a LogitBias>,
    pub(crate) seed: Option<Integer>,
}

impl SamplingFields<'_> {
    /// The fields within their ranges, with the model's defaults for those that are absent.
    pub(crate) fn check(&self, defaults: &SamplingDefaults, vocabulary_size: usize) -> Result<Sampling, ApiError> {
        let otherwise = defaults.sampling();
        let temperature = number("temperature", self.temperature, 0.0..=2.0)?.unwrap_or(otherwise.temperature);
        Ok(Sampling {
            temperature: if temperature < SMALLEST_TEMPERATURE { 0.0 } else { temperature },
            top_p: number("top_p", self.top_p, 0.0..=1.0)?.unwrap_or(otherwise.top_p),
            top_k: integer("top_k", self.top_k, 0..=1_000_000)?.unwrap_or(otherwise.top_k),
            min_p: number("min_p", self.min_p, 0.0..=1.0)?.unwrap_or(otherwise.min_p),
            presence_penalty: number("presence_penalty", self.presence_penalty, -2.0..=2.0)?
                .unwrap_or(otherwise.presence_penalty),
            frequency_penalty: number("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?
                .unwrap_or(otherwise.frequency_penalty),
            repetition_penalty: number("repetition_penalty", self.repetition_penalty, 0.01..=10.0)?
                .unwrap_or(otherwise.repetition_penalty),
            logit_bias: self.logit_bias.map_or_else(|| Ok(BTreeMap::new()), |bias| biases(bias, vocabulary_size))?,
            // Any 64-bit seed is as good as another, so a negative one is taken by its bits.
            seed: integer::<i64>("seed", self.seed, i64::MIN.into()..=i64::MAX.into())?
                .map_or_else(rand::random, i64::cast_unsigned),
        })
    }
}

/// A whole number within `allowed`.
pub(crate) fn integer<T: TryFrom<i128>>(
    param: &str,
    value: Option<Integer>,
    allowed: RangeInclusive<i128>,
) -> Result<Option<T>, ApiError> {
    let Some(Integer(found)) = value else { return Ok(None) };
    let converted = if allowed.contains(&found) { T::try_from(found).ok() } else { None };
    converted.map(Some).ok_or_else(|| out_of_range(param, allowed.start(), allowed.end(), &found))
}

/// A number within `allowed`.
fn number(param: &str, value: Option<Number>, allowed: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
    match value {
        None => Ok(None),
        Some(Number(found)) if allowed.contains(&found) => Ok(Some(found as f32)),
        Some(Number(found)) => Err(out_of_range(param, allowed.start(), allowed.end(), &found)),
    }
}

fn out_of_range<T: std::fmt::Display>(param: &str, least: &T, most: &T, found: &T) -> ApiError {
    let message = format!("`{param}` must be from {least} to {most}; found {}.", echo(&found.to_string()));
    ApiError::invalid(param, message)
}

fn biases(bias: &LogitBias, vocabulary_size: usize) -> Result<BTreeMap<u32, f32>, ApiError> {
    if bias.len() > MAX_BIASED_TOKENS {
        let message = format!("`logit_bias` may name {MAX_BIASED_TOKENS} tokens; found {}.", bias.len());
        return Err(ApiError::invalid("logit_bias", message));
    }
    let mut checked = BTreeMap::new();
    for (token, value) in bias {
        let known = token.parse::<u32>().ok().filter(|&token| (token as usize) < vocabulary_size);
        let token = known.ok_or_else(|| {
            let message = format!("{} is not the number of a token; there are {vocabulary_size}.", echo(token));
            ApiError::invalid("logit_bias", message)
        })?;
        let value = number("logit_bias", Some(*value), -100.0..=100.0)?.unwrap_or_default();
        checked.insert(token, value);
    }
    Ok(checked)
}

/// `stop`: at most four texts, none of them empty.
pub(crate) fn stop_rules(stop: Option<OneOrMany>) -> Result<StopRules, ApiError> {
    let OneOrMany(strings) = stop.unwrap_or(OneOrMany(Vec::new()));
    if strings.len() > MAX_STOP_STRINGS {
        let message = format!("`stop` may hold {MAX_STOP_STRINGS} texts; found {}.", strings.len());
        return Err(ApiError::invalid("stop", message));
    }
    if let Some(wrong) = strings.iter().find(|text| text.is_empty() || text.len() > MAX_STOP_STRING_BYTES) {
        let message = format!("Each `stop` text has 1 to {MAX_STOP_STRING_BYTES} bytes; found one of {}.", wrong.len());
        return Err(ApiError::invalid("stop", message));
    }
    Ok(StopRules { strings, ..StopRules::default() })
}

/// How long an answer may be, as the client asked and as the server allows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputLimit {
    /// The field by which the client asks.
    pub(crate) param: &'static str,
    /// What it asked for.
    pub(crate) asked: Option<u32>,
    /// What applies if it did not ask; `None` for as much as fits.
    pub(crate) otherwise: Option<u32>,
    /// What the bundle or the configuration allows.
    pub(crate) cap: Option<u32>,
    /// The most tokens that prompt and answer may have together.
    pub(crate) context: usize,
}

impl OutputLimit {
    /// The limit in tokens for a prompt of `prompt_tokens`, which must leave room for one.
    pub(crate) fn for_prompt(&self, prompt_param: &'static str, prompt_tokens: usize) -> Result<u32, ApiError> {
        let room = self.context.saturating_sub(prompt_tokens);
        if room == 0 {
            let context = self.context;
            let message = format!(
                "This model's maximum context length is {context} tokens, and the prompt has {prompt_tokens}: it \
                 leaves no room for an answer. Please shorten it."
            );
            return Err(ApiError::context_length(prompt_param, message));
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let most = self.cap.map_or(room, |cap| cap.min(room));
        match self.asked {
            None => Ok(self.otherwise.unwrap_or(most).min(most)),
            Some(asked) if asked > room => {
                let message = format!(
                    "This model's maximum context length is {} tokens; the prompt has {prompt_tokens} and {asked} \
                     were asked for. Please shorten the prompt or lower `{}`.",
                    self.context, self.param
                );
                Err(ApiError::context_length(self.param, message))
            }
            Some(asked) if asked > most => {
                let message = format!("`{}` may be at most {most} on this server; found {asked}.", self.param);
                Err(ApiError::invalid(self.param, message))
            }
            Some(asked) => Ok(asked),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn c30_integers_are_swept_over_their_ranges() {
        let huge = [-1, 1 << 31, 1 << 63, 1 << 64];
        for value in huge {
            let error = integer::<u32>("n", Some(Integer(value)), 1..=16).unwrap_err().body().error;
            assert_eq!(error.param.as_deref(), Some("n"), "{value}");
        }
        assert!(integer::<u32>("n", Some(Integer(0)), 1..=16).is_err());
        assert_eq!(integer::<u32>("n", Some(Integer(16)), 1..=16).unwrap(), Some(16));
        assert_eq!(integer::<u32>("n", None, 1..=16).unwrap(), None);
    }

    #[test]
    fn c32_odd_sampling_values_have_a_defined_meaning() {
        let check = |fields: SamplingFields<'_>| fields.check(&SamplingDefaults::default(), 100);
        let with = |temperature| SamplingFields { temperature: Some(Number(temperature)), ..Default::default() };
        assert_eq!(check(with(1e-40)).unwrap().temperature, 0.0);
        assert_eq!(check(with(0.5)).unwrap().temperature, 0.5);
        for wrong in [-0.1, 2.1, 1e40] {
            assert_eq!(check(with(wrong)).unwrap_err().body().error.param.as_deref(), Some("temperature"));
        }
        let all: LogitBias = (0..100).map(|token| (token.to_string(), Number(-100.0))).collect();
        let fields = SamplingFields { logit_bias: Some(&all), ..Default::default() };
        assert_eq!(check(fields).unwrap().logit_bias.len(), 100);
        for (token, value) in [("100", 1.0), ("-1", 1.0), ("a", 1.0), ("1", 101.0), ("", 1.0)] {
            let bias = LogitBias::from([(token.to_owned(), Number(value))]);
            let fields = SamplingFields { logit_bias: Some(&bias), ..Default::default() };
            assert_eq!(check(fields).unwrap_err().body().error.param.as_deref(), Some("logit_bias"), "{token}");
        }
    }

    #[test]
    fn the_answer_fits_the_context_or_is_refused() {
        let limit = |asked, cap| OutputLimit { param: "max_tokens", asked, otherwise: Some(16), cap, context: 100 };
        assert_eq!(limit(None, None).for_prompt("prompt", 10).unwrap(), 16);
        assert_eq!(limit(None, None).for_prompt("prompt", 95).unwrap(), 5);
        assert_eq!(limit(Some(90), None).for_prompt("prompt", 10).unwrap(), 90);
        assert_eq!(limit(None, Some(4)).for_prompt("prompt", 10).unwrap(), 4);
        let code = |asked, cap, prompt| limit(asked, cap).for_prompt("prompt", prompt).unwrap_err().body().error;
        assert_eq!(code(Some(91), None, 10).code, Some("context_length_exceeded"));
        assert_eq!(code(None, None, 100).param.as_deref(), Some("prompt"));
        assert_eq!(code(Some(5), Some(4), 10).param.as_deref(), Some("max_tokens"));
    }
}
