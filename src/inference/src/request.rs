//! What a caller may ask of the engine.  These are the inner types: already parsed, in the engine's own units, and
//! not serialisable; the HTTP layer converts its wire types into them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::adapters::LoadedAdapter;
use crate::error::SubmitError;

/// One completion to be generated.
#[derive(Debug)]
pub struct GenerationRequest {
    /// The prompt as token ids, specials included; must not be empty.
    pub prompt: Vec<u32>,
    /// How many tokens to generate at most; at least 1.  What would pass the context length is cut to it.
    pub max_tokens: u32,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// When to stop before `max_tokens`.
    pub stop: StopRules,
    /// Ask for log-probabilities: `Some(n)` gives the chosen token's and those of the `n` most likely tokens.
    pub logprobs: Option<u8>,
    /// On whose account it goes: tenants are served by fair shares, and what was computed for one is not used for another,
    /// who could learn of it by the time that is saved.
    pub tenant: u64,
    /// The adapter to compute with, one of [`crate::EngineHandle::adapters`]; the model alone if absent.
    pub adapter: Option<Arc<LoadedAdapter>>,
    /// Restricts each step to a set of tokens (structured output).
    pub mask: Option<Box<dyn TokenMask>>,
}

impl GenerationRequest {
    /// A request with the given prompt and limit that samples from the model's own distribution (temperature 1).
    pub fn new(prompt: Vec<u32>, max_tokens: u32) -> GenerationRequest {
        GenerationRequest {
            prompt,
            max_tokens,
            sampling: Sampling::default(),
            stop: StopRules::default(),
            logprobs: None,
            tenant: 0,
            adapter: None,
            mask: None,
        }
    }
}

/// How the next token is drawn from the logits.
///
/// The transforms run in this order, which is the order of Transformers' `generate` (the two penalties that
/// Transformers lacks stand where vLLM has them):
///
/// 1. the token mask, 2. `logit_bias`, 3. `repetition_penalty`, 4. `frequency_penalty` and `presence_penalty`,
/// 5. `temperature`, 6. `top_k`, 7. `top_p`, 8. `min_p`.
///
/// A temperature of 0 takes the highest logit after step 4 (the lowest id among equals) and draws nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.  Not negative, not NaN; infinity gives the uniform distribution.
    pub temperature: f32,
    /// Keeps the `k` highest logits (and their equals); 0 keeps all.
    pub top_k: u32,
    /// Keeps the smallest set of tokens whose probability reaches this; in 0..=1, where 1 keeps all.  The most
    /// likely token always stays, so 0 is greedy.
    pub top_p: f32,
    /// Drops tokens less likely than this fraction of the most likely one; in 0..=1, where 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; above 0, 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted once from each token that the output already has.
    pub presence_penalty: f32,
    /// Subtracted from each token once per occurrence in the output.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Together with the step number it decides every draw: same seed, same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Always the most likely token.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// Refuses values that have no defined meaning (NaN, negative temperature, probabilities outside 0..=1, …).
    pub fn check(&self, vocabulary_size: usize) -> Result<(), SubmitError> {
        let within = |name, found: f32, allowed, fits: bool| match fits {
            true => Ok(()),
            false => Err(SubmitError::ParameterOutOfRange { name, found, allowed }),
        };
        let share = 0.0..=1.0;
        within("temperature", self.temperature, "0 or above", self.temperature >= 0.0)?;
        within("top_p", self.top_p, "0 to 1", share.contains(&self.top_p))?;
        within("min_p", self.min_p, "0 to 1", share.contains(&self.min_p))?;
        let repetition = self.repetition_penalty;
        within("repetition_penalty", repetition, "finite, above 0", repetition > 0.0 && repetition.is_finite())?;
        within("presence_penalty", self.presence_penalty, "finite", self.presence_penalty.is_finite())?;
        within("frequency_penalty", self.frequency_penalty, "finite", self.frequency_penalty.is_finite())?;
        for (&token, &bias) in &self.logit_bias {
            if token as usize >= vocabulary_size {
                return Err(SubmitError::TokenOutOfRange { token, vocabulary_size });
            }
            within("logit_bias", bias, "finite", bias.is_finite())?;
        }
        Ok(())
    }
}

/// When a completion ends before its token limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopRules {
    /// Texts that end the completion; neither they nor what follows is ever emitted.  Empty texts are refused.
    pub strings: Vec<String>,
    /// Further tokens that end the completion, as an end-of-sequence token does.
    pub tokens: Vec<u32>,
    /// What the model's own end-of-sequence tokens do.
    pub end_of_sequence: EndOfSequence,
}

/// What an end-of-sequence token does to a completion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EndOfSequence {
    /// It ends the completion and is not emitted.
    #[default]
    Stops,
    /// It is a token like any other: output lengths can be forced, as benchmarks need.
    Ignored,
}

/// The most stop strings that one request may carry.
pub const MAX_STOP_STRINGS: usize = 16;

/// The longest stop string in bytes: what may start one is held back, so this bounds what is held.
pub const MAX_STOP_STRING_BYTES: usize = 1024;

impl StopRules {
    /// Refuses empty, too long and too many stop strings.
    pub fn check(&self) -> Result<(), SubmitError> {
        if self.strings.len() > MAX_STOP_STRINGS {
            return Err(SubmitError::TooManyStopStrings { found: self.strings.len(), limit: MAX_STOP_STRINGS });
        }
        match self.strings.iter().find(|text| text.is_empty() || text.len() > MAX_STOP_STRING_BYTES) {
            Some(text) => Err(SubmitError::StopStringLength { found: text.len(), limit: MAX_STOP_STRING_BYTES }),
            None => Ok(()),
        }
    }
}

/// Decides which tokens may come next; asked once per step, on the engine's thread.
pub trait TokenMask: Send + fmt::Debug {
    /// Sets to −∞ the logit of every token that may not come next.
    fn apply(&mut self, logits: &mut [f32]);

    /// Tells the mask which token was chosen.
    fn accept(&mut self, token: u32);
}

/// Texts to be turned into vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingRequest {
    /// One token sequence per text, specials included; none may be empty.
    pub inputs: Vec<Vec<u32>>,
}
