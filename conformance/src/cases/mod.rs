//! The promises, grouped as `SPECIFICATION.md` groups them.  Each file holds one group: its table of cases, then one
//! function for each, in the same order.
//!
//! A case asks with requests of its own and compares with what was promised, never with what another case saw, so that
//! any of them can be run alone.

mod authentication;
mod chat;
mod completions;
mod determinism;
mod embeddings;
mod errors;
mod framing;
mod health;
mod limits;
mod metadata;
mod metrics;
mod models;
mod request_ids;

mod administration;
mod configuration;
mod drain;
mod egress;
mod exits;
mod installation;
mod load;
mod log;
mod sandbox;
mod state;
mod store;
mod tampering;
mod tls;

use serde_json::{Value, json};

use crate::catalogue::Case;
use crate::target::{Facts, Target};

/// All groups, in the order in which they run.
pub(crate) const GROUPS: &[&[Case]] = &[
    health::CASES,
    models::CASES,
    chat::CASES,
    completions::CASES,
    embeddings::CASES,
    errors::CASES,
    limits::CASES,
    framing::CASES,
    request_ids::CASES,
    metadata::CASES,
    metrics::CASES,
    authentication::CASES,
    determinism::CASES,
    tampering::CASES,
    installation::CASES,
    state::CASES,
    store::CASES,
    configuration::CASES,
    administration::CASES,
    exits::CASES,
    tls::CASES,
    drain::CASES,
    load::CASES,
    log::CASES,
    egress::CASES,
    sandbox::CASES,
];

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const MODELS: &str = "/v1/models";
const METADATA: &str = "/v1/metadata";

/// A request with more fields, or with other values in them.
fn with(mut body: Value, fields: Value) -> Value {
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields);
    }
    body
}

/// The fields that make an answer go on until its last allowed token: a token that is forced at every step.
///
/// Which number stands for a visible token differs from model to model, and a black box tells no token numbers; so
/// numbers from the middle of the vocabulary are tried until one gives an answer of plain letters that did not end.
fn lasting(target: &Target, facts: &Facts) -> anyhow::Result<Value> {
    const TRIES: u64 = 64;
    const STRIDE: u64 = 37;
    for number in 0..TRIES {
        let token = (facts.vocabulary_size / 2 + number * STRIDE) % facts.vocabulary_size.max(1);
        let fields = json!({ "logit_bias": { token.to_string(): 100 }, "temperature": 0 });
        let answer = target.post(COMPLETIONS, &with(facts.completion("a", 4), fields.clone()))?.json(200)?;
        let choice = &answer["choices"][0];
        let text = choice["text"].as_str().unwrap_or_default();
        let is_visible = text.len() >= 4 && text.chars().all(|c| c.is_ascii_graphic());
        if is_visible && choice["finish_reason"] == "length" {
            return Ok(fields);
        }
    }
    anyhow::bail!("no token of {TRIES} could be forced with `logit_bias` until `max_tokens`")
}
