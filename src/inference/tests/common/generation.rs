//! Requests and whole completions, for tests of the engine.

use ampoule_inference::{
    EndOfSequence, FinishReason, GenerationRequest, InferenceError, Sampling, StopRules, Ticket, TokenEvent,
    TokenLogprobs, Usage,
};

/// A request that runs for exactly `tokens` tokens, greedily.
pub(crate) fn forced(prompt: &[u32], tokens: u32) -> GenerationRequest {
    GenerationRequest {
        sampling: Sampling::greedy(),
        stop: StopRules { end_of_sequence: EndOfSequence::Ignored, ..StopRules::default() },
        ..GenerationRequest::new(prompt.to_vec(), tokens)
    }
}

/// A whole completion.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    pub(crate) started: bool,
    pub(crate) tokens: Vec<u32>,
    pub(crate) text: String,
    pub(crate) logprobs: Vec<TokenLogprobs>,
    pub(crate) end: Option<(FinishReason, Usage)>,
    pub(crate) error: Option<InferenceError>,
}

pub(crate) fn collect(mut ticket: Ticket) -> Completion {
    let mut completion = Completion::default();
    while let Some(event) = ticket.blocking_next() {
        assert!(completion.end.is_none() && completion.error.is_none(), "an event after the last");
        match event {
            TokenEvent::Started => {
                assert!(!completion.started && completion.tokens.is_empty(), "it starts once, and first");
                completion.started = true;
            }
            TokenEvent::Token { token, text, logprobs } => {
                assert!(completion.started, "a token before the start");
                completion.tokens.push(token);
                completion.text.push_str(&text);
                completion.logprobs.extend(logprobs);
            }
            TokenEvent::Finished { reason, usage } => completion.end = Some((reason, usage)),
            TokenEvent::Failed(error) => completion.error = Some(error),
        }
    }
    completion
}
