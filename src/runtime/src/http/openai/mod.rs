//! OpenAI's wire format: what arrives as JSON and what leaves as JSON, and nothing else.
//!
//! These types exist only at the edge.  A request type holds what the client wrote, in types wide enough that a wrong
//! value becomes an error message with the field's name; the modules beside this one turn it into validated work.
//! Every field that OpenAI documents is named, so that an unknown one is an error; a field that would change the
//! meaning of a request and is not supported is [`value::Refused`], never ignored.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod models;
pub(crate) mod parse;
pub(crate) mod value;

use serde::Serialize;

/// What every part of one reply repeats.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ReplyHead {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: i64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: String,
}

/// How many tokens a request cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    pub(crate) total_tokens: u64,
}

impl Usage {
    pub(crate) fn new(prompt_tokens: u64, completion_tokens: u64) -> Usage {
        Usage { prompt_tokens, completion_tokens, total_tokens: prompt_tokens.saturating_add(completion_tokens) }
    }
}
