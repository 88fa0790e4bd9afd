//! `POST /v1/completions` on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::chat::StreamOptions;
use super::value::{Ignored, Inputs, Integer, LogitBias, Number, Object, OneOrMany};
use super::{ReplyHead, Usage};

/// The request body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompletionRequest {
    pub(crate) model: String,
    pub(crate) prompt: Inputs,

    pub(crate) stream: Option<bool>,
    pub(crate) stream_options: Option<Object<StreamOptions>>,
    pub(crate) n: Option<Integer>,
    pub(crate) best_of: Option<Integer>,
    pub(crate) max_tokens: Option<Integer>,
    pub(crate) stop: Option<OneOrMany>,
    pub(crate) echo: Option<bool>,
    pub(crate) suffix: Option<String>,

    pub(crate) temperature: Option<Number>,
    pub(crate) top_p: Option<Number>,
    pub(crate) top_k: Option<Integer>,
    pub(crate) min_p: Option<Number>,
    pub(crate) presence_penalty: Option<Number>,
    pub(crate) frequency_penalty: Option<Number>,
    pub(crate) repetition_penalty: Option<Number>,
    pub(crate) logit_bias: Option<LogitBias>,
    pub(crate) seed: Option<Integer>,
    pub(crate) logprobs: Option<Integer>,

    #[serde(rename = "user")]
    _user: Option<Ignored>,
}

/// The whole reply, and also one event of a streamed reply: OpenAI gives both the same shape.
#[derive(Debug, Serialize)]
pub(crate) struct Completion {
    #[serde(flatten)]
    pub(crate) head: ReplyHead,
    pub(crate) choices: Vec<CompletionChoice>,
    /// Always in a whole reply; in a stream only if the client asked, and then null in all events but the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Option<Usage>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CompletionChoice {
    pub(crate) index: usize,
    pub(crate) text: String,
    pub(crate) logprobs: Option<CompletionLogprobs>,
    pub(crate) finish_reason: Option<&'static str>,
}

/// The log probabilities of a completion's tokens: four parallel lists, one item a token.
#[derive(Debug, Default, Clone, Serialize)]
pub(crate) struct CompletionLogprobs {
    pub(crate) tokens: Vec<String>,
    pub(crate) token_logprobs: Vec<f32>,
    pub(crate) top_logprobs: Vec<BTreeMap<String, f32>>,
    /// Where the token's text begins in the choice's text, in characters.
    pub(crate) text_offset: Vec<usize>,
}
