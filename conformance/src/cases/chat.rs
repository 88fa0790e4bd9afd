//! `/v1/chat/completions`: the shapes that stock clients parse, whole and streamed, and what ends an answer.
//!
//! A bundle that is an encoder is held to the refusal instead.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{CHAT, lasting, with};
use crate::catalogue::Case;
use crate::target::{Kind, Target};

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-API-03", "A whole chat completion has OpenAI's shape; an encoder refuses with 400", whole),
    Case::served("AMP-API-04", "A streamed chat tells the same as the whole one and ends with [DONE]", streamed),
    Case::served("AMP-API-05", "max_tokens ends an answer after that many tokens with `length`", max_tokens),
    Case::served("AMP-API-06", "A stop text ends an answer before it with `stop`", stop_text),
    Case::served("AMP-API-07", "Log probabilities come once a token, the most likely first", log_probabilities),
    Case::served("AMP-API-08", "n asks for that many choices, each with its index", several_choices),
];

fn whole(target: &Target) -> anyhow::Result<()> {
    let facts = target.facts()?;
    let reply = target.post(CHAT, &facts.chat("hello", 8))?;
    if facts.kind == Kind::Encoder {
        reply.error(400)?.names(Some("model"))?.coded("unsupported_model")?;
        return Ok(());
    }
    let body = reply.json(200)?;
    ensure!(body["id"].as_str().is_some_and(|id| id.starts_with("chatcmpl-")), "the id is {}", body["id"]);
    ensure!(body["object"] == "chat.completion", "`object` is {}", body["object"]);
    ensure!(body["model"] == facts.model.as_str(), "`model` is {}", body["model"]);
    ensure!(body["created"].is_u64(), "`created` is {}", body["created"]);
    ensure!(body["system_fingerprint"] == facts.fingerprint.as_str(), "the fingerprint is not the metadata's: {body}");
    let choices = body["choices"].as_array().context("`choices` is no array")?;
    ensure!(choices.len() == 1, "{} choices where one was asked for", choices.len());
    let choice = &choices[0];
    ensure!(choice["index"] == 0 && choice["message"]["role"] == "assistant", "the choice is {choice}");
    ensure!(choice["message"]["content"].is_string(), "the content is no text: {choice}");
    ensure!(matches!(choice["finish_reason"].as_str(), Some("stop" | "length")), "the choice is {choice}");
    adds_up(&body["usage"], 8)
}

fn streamed(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    let request = facts.chat("tell me something", 24);
    let whole = target.post(CHAT, &request)?.json(200)?;
    let request = with(request, json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let events = target.stream(CHAT, &request)?.rest()?;
    let (last, chunks) = events.split_last().context("the stream holds no event")?;
    let first = chunks.first().context("the stream holds one event only")?;
    ensure!(first["choices"][0]["delta"]["role"] == "assistant", "the first event tells no role: {first}");
    for event in &events {
        ensure!(event["object"] == "chat.completion.chunk" && event["id"] == first["id"], "an event is {event}");
        ensure!(event["model"] == facts.model.as_str(), "an event is of another model: {event}");
    }
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    let expected = &whole["choices"][0];
    ensure!(expected["message"]["content"] == text, "streamed {text:?}, whole {}", expected["message"]["content"]);
    let reasons: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]).collect();
    let (finish, before) = reasons.split_last().context("no chunk")?;
    ensure!(*finish == &expected["finish_reason"], "the stream finishes with {finish}, the whole answer otherwise");
    ensure!(before.iter().all(|reason| reason.is_null()), "the stream finishes more than once");
    ensure!(last["usage"] == whole["usage"], "streamed usage {}, whole {}", last["usage"], whole["usage"]);
    ensure!(last["choices"] == json!([]), "the event with the usage has choices: {last}");
    Ok(())
}

fn max_tokens(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    let lasting = lasting(target, facts)?;
    for (field, limit) in [("max_tokens", 1), ("max_tokens", 5), ("max_completion_tokens", 9)] {
        let mut request = with(facts.chat("hello", 1), lasting.clone());
        if let Some(request) = request.as_object_mut() {
            request.remove("max_tokens");
        }
        let body = target.post(CHAT, &with(request, json!({ field: limit })))?.json(200)?;
        ensure!(body["choices"][0]["finish_reason"] == "length", "{field} {limit}: {}", body["choices"][0]);
        ensure!(body["usage"]["completion_tokens"] == limit, "{field} {limit}: {}", body["usage"]);
    }
    Ok(())
}

fn stop_text(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    let request = with(facts.chat("hello", 12), lasting(target, facts)?);
    let free = target.post(CHAT, &request)?.json(200)?;
    let text = free["choices"][0]["message"]["content"].as_str().context("no content")?;
    // Two thirds into the answer, so that the stop text is first found after some tokens, or at once if it repeats.
    let stop: String = text.chars().skip(text.chars().count() * 2 / 3).take(3).collect();
    let body = target.post(CHAT, &with(request, json!({ "stop": [stop] })))?.json(200)?;
    let choice = &body["choices"][0];
    let expected = text.split(&stop).next().unwrap_or_default();
    ensure!(choice["message"]["content"] == expected, "stopped at {stop:?}: {choice}, not stopped: {text:?}");
    ensure!(choice["finish_reason"] == "stop", "the stopped answer is {choice}");
    Ok(())
}

fn log_probabilities(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    let fields = json!({ "temperature": 0, "logprobs": true, "top_logprobs": 3 });
    let body = target.post(CHAT, &with(facts.chat("hello", 6), fields))?.json(200)?;
    let steps = body["choices"][0]["logprobs"]["content"].as_array().context("no logprobs.content")?;
    // A token that ends the answer is counted and may have no text to give a probability to.
    let counted = body["usage"]["completion_tokens"].as_u64().context("no usage")? as usize;
    ensure!(
        !steps.is_empty() && (counted - 1..=counted).contains(&steps.len()),
        "{} steps, {counted} tokens",
        steps.len()
    );
    for step in steps {
        ensure!(step["token"].is_string() && step["bytes"].is_array(), "a step is {step}");
        let top = step["top_logprobs"].as_array().context("no top_logprobs")?;
        ensure!(top.len() == 3, "{} alternatives where 3 were asked for", top.len());
        let values: Vec<f64> = top.iter().filter_map(|one| one["logprob"].as_f64()).collect();
        ensure!(values.len() == 3 && values.iter().all(|value| *value <= 0.0), "the alternatives are {values:?}");
        ensure!(values.is_sorted_by(|one, next| one >= next), "the alternatives are not sorted: {values:?}");
        ensure!(step["logprob"] == top[0]["logprob"], "greedy did not take the most likely token: {step}");
    }
    Ok(())
}

fn several_choices(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    let body = target.post(CHAT, &with(facts.chat("hello", 6), json!({ "n": 3 })))?.json(200)?;
    let choices = body["choices"].as_array().context("`choices` is no array")?;
    let indices: Vec<_> = choices.iter().filter_map(|choice| choice["index"].as_u64()).collect();
    ensure!(indices == [0, 1, 2], "the choices have the indices {indices:?}");
    ensure!(choices.iter().all(|choice| choice["message"]["content"].is_string()), "a choice has no content: {body}");
    Ok(())
}

/// Requires a usage that adds up, with at least one and at most `limit` tokens of answer.
pub(super) fn adds_up(usage: &Value, limit: u64) -> anyhow::Result<()> {
    let count = |name: &str| usage[name].as_u64().with_context(|| format!("usage has no {name}: {usage}"));
    let (prompt, completion) = (count("prompt_tokens")?, count("completion_tokens")?);
    ensure!(prompt >= 1 && (1..=limit).contains(&completion), "the usage is {usage}");
    ensure!(count("total_tokens")? == prompt + completion, "the usage does not add up: {usage}");
    Ok(())
}
