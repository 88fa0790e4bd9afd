//! `/v1/completions`: the older endpoint, which many tools still speak.

use anyhow::{Context, ensure};
use serde_json::json;

use super::{COMPLETIONS, chat, with};
use crate::catalogue::Case;
use crate::target::{Kind, Target};

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-API-09", "A whole completion has OpenAI's shape; an encoder refuses with 400", whole),
    Case::served("AMP-API-10", "A streamed completion tells the same as the whole one", streamed),
];

fn whole(target: &Target) -> anyhow::Result<()> {
    let facts = target.facts()?;
    let reply = target.post(COMPLETIONS, &facts.completion("hello", 8))?;
    if facts.kind == Kind::Encoder {
        reply.error(400)?.names(Some("model"))?.coded("unsupported_model")?;
        return Ok(());
    }
    let body = reply.json(200)?;
    ensure!(body["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")), "the id is {}", body["id"]);
    ensure!(body["object"] == "text_completion" && body["model"] == facts.model.as_str(), "the answer is {body}");
    let choice = &body["choices"][0];
    ensure!(choice["index"] == 0 && choice["text"].is_string(), "the choice is {choice}");
    ensure!(matches!(choice["finish_reason"].as_str(), Some("stop" | "length")), "the choice is {choice}");
    chat::adds_up(&body["usage"], 8)
}

fn streamed(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    let request = facts.completion("once upon a time", 24);
    let whole = target.post(COMPLETIONS, &request)?.json(200)?;
    let events = target.stream(COMPLETIONS, &with(request, json!({ "stream": true })))?.rest()?;
    ensure!(events.iter().all(|event| event["object"] == "text_completion"), "an event is of another kind");
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    let expected = &whole["choices"][0];
    ensure!(expected["text"] == text, "streamed {text:?}, whole {}", expected["text"]);
    let last = events.last().context("the stream holds no event")?;
    ensure!(last["choices"][0]["finish_reason"] == expected["finish_reason"], "the stream ends with {last}");
    Ok(())
}
