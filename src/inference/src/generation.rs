//! One completion from its first logits to its last event: sample, detokenise, look for stop strings, count.  Knows
//! neither the model nor the scheduler, only the logits that it is given.

use std::collections::BTreeSet;

use crate::error::InferenceError;
use crate::event::{FinishReason, TokenEvent, TokenLogprobs, Usage};
use crate::request::{EndOfSequence, GenerationRequest, TokenMask};
use crate::sampling::{Sampler, log_probabilities};
use crate::stop::{Characters, Gate, StopGate};
use crate::text::Detokenizer;

/// The state of one completion.
#[derive(Debug)]
pub(crate) struct Generation {
    sampler: Sampler,
    mask: Option<Box<dyn TokenMask>>,
    detokenizer: Detokenizer,
    gate: StopGate,
    /// Tokens that end the completion.
    last_tokens: BTreeSet<u32>,
    /// How many tokens are generated at most.
    limit: u64,
    logprobs: Option<u8>,
    usage: Usage,
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// This token is fed to the model next.
    Next(u32),
    /// The completion ended.
    Ended(FinishReason),
}

impl Generation {
    /// Takes the request apart; gives the prompt back beside the state.  `limit` is `max_tokens` or what the context
    /// length leaves of it.
    pub(crate) fn new(
        request: GenerationRequest,
        limit: u64,
        end_of_sequence: &[u32],
        detokenizer: Detokenizer,
    ) -> (Vec<u32>, Generation) {
        let GenerationRequest { prompt, max_tokens: _, sampling, stop, logprobs, mask, .. } = request;
        let mut last_tokens: BTreeSet<u32> = stop.tokens.into_iter().collect();
        if stop.end_of_sequence == EndOfSequence::Stops {
            last_tokens.extend(end_of_sequence);
        }
        let generation = Generation {
            sampler: Sampler::new(sampling, &prompt),
            mask,
            detokenizer,
            gate: StopGate::new(stop.strings),
            last_tokens,
            limit,
            logprobs,
            usage: Usage { prompt_tokens: prompt.len() as u64, completion_tokens: 0 },
        };
        (prompt, generation)
    }

    /// What the completion has cost so far.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Chooses the next token from `logits` and appends to `events` what became certain, the last event included.
    pub(crate) fn advance(
        &mut self,
        logits: &mut [f32],
        events: &mut Vec<TokenEvent>,
    ) -> Result<Progress, InferenceError> {
        let untouched = self.logprobs.map(|top| (top, logits.to_vec()));
        let token = self.sampler.choose(logits, self.mask.as_deref_mut())?;
        if let Some(mask) = &mut self.mask {
            mask.accept(token);
        }
        self.usage.completion_tokens += 1;
        if self.last_tokens.contains(&token) {
            return Ok(self.end(FinishReason::Stop, events));
        }
        let logprobs = untouched.map(|(top, logits)| log_probabilities(&logits, token, top));
        if self.emit(token, logprobs, events) == Gate::Closed {
            return Ok(self.end(FinishReason::Stop, events));
        }
        if self.usage.completion_tokens >= self.limit {
            return Ok(self.end(FinishReason::Length, events));
        }
        Ok(Progress::Next(token))
    }

    fn emit(&mut self, token: u32, logprobs: Option<TokenLogprobs>, events: &mut Vec<TokenEvent>) -> Gate {
        let text = self.detokenizer.push(token);
        let characters = if self.detokenizer.is_complete() { Characters::Whole } else { Characters::Unfinished };
        self.gate.push(token, &text, logprobs, characters, events)
    }

    /// Releases what is still held and adds the last event.  Bytes that never became a character come out as U+FFFD.
    fn end(&mut self, reason: FinishReason, events: &mut Vec<TokenEvent>) -> Progress {
        let tail = self.detokenizer.clone().finish();
        let reason = match self.gate.finish(&tail, events) {
            Gate::Open => reason,
            Gate::Closed => FinishReason::Stop,
        };
        events.push(TokenEvent::Finished { reason, usage: self.usage });
        Progress::Ended(reason)
    }
}
