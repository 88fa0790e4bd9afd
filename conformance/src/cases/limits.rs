//! What one request may cost: each way to ask for too much is refused, by name and at once.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use super::{CHAT, COMPLETIONS, errors, with};
use crate::catalogue::Case;
use crate::target::{Kind, Target};

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-LIM-01", "Fan-out is bounded: too many choices or prompts are 400 (C29)", fan_out),
    Case::served(
        "AMP-LIM-02",
        "A prompt longer than the context is 400 `context_length_exceeded`, at once (C27)",
        long_prompt,
    ),
    Case::served("AMP-LIM-03", "An answer longer than the context is refused by `max_tokens` (C30)", long_answer),
    Case::served("AMP-LIM-04", "A body nested a hundred thousand deep is 400 and harms nothing (C37)", nesting),
    Case::served(
        "AMP-LIM-05",
        "Images and files are refused without a look at what they point to (C33)",
        foreign_content,
    ),
    Case::served("AMP-LIM-06", "Empty and odd prompts are answered or refused, and harm nothing (C31)", odd_prompts),
];

/// A refusal does no work, so it needs no time; this leaves room for a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

fn fan_out(target: &Target) -> anyhow::Result<()> {
    let facts = target.facts()?;
    if facts.kind == Kind::Encoder {
        let inputs = vec!["x"; 100_000];
        let request = json!({ "model": facts.model, "input": inputs });
        target.post(super::EMBEDDINGS, &request)?.error(400)?.names(Some("input"))?;
        return target.still_serves();
    }
    target.post(CHAT, &with(facts.chat("x", 1), json!({ "n": 1_000_000 })))?.error(400)?.names(Some("n"))?;
    let many = json!({ "prompt": vec!["x"; 10_000] });
    target.post(COMPLETIONS, &with(facts.completion("x", 1), many))?.error(400)?.names(Some("prompt"))?;
    let best = json!({ "best_of": 1_000_000 });
    target.post(COMPLETIONS, &with(facts.completion("x", 1), best))?.error(400)?.names(Some("best_of"))?;
    target.still_serves()
}

fn long_prompt(target: &Target) -> anyhow::Result<()> {
    let facts = target.facts()?;
    // A token is seldom longer than four letters of a nonsense word; a megabyte is where tokenising would be felt.
    let words = "qz ".repeat((facts.context_length as usize + 16).clamp(350_000, 600_000));
    let started = Instant::now();
    let (reply, param) = match facts.kind {
        Kind::Generator => (target.post(CHAT, &facts.chat(&words, 1))?, "messages"),
        Kind::Encoder => {
            let request = json!({ "model": facts.model, "input": words });
            (target.post(super::EMBEDDINGS, &request)?, "input")
        }
    };
    reply.error(400)?.names(Some(param))?.coded("context_length_exceeded")?;
    ensure!(started.elapsed() < AT_ONCE, "the refusal took {:.1} s", started.elapsed().as_secs_f64());
    target.still_serves()
}

fn long_answer(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    let context = facts.context_length;
    for asked in [context, context + 1, 1_000_000_000_000] {
        target.post(CHAT, &facts.chat("hello", asked))?.error(400)?.names(Some("max_tokens"))?;
    }
    target.still_serves()
}

fn nesting(target: &Target) -> anyhow::Result<()> {
    let (path, _) = errors::smallest(target.facts()?);
    let model = &target.facts()?.model;
    for field in ["messages", "input", "metadata", "unknown"] {
        let deep = format!("{{\"model\":{},\"{field}\":{}", json!(model), "[".repeat(100_000));
        target.post_bytes(path, &[("content-type", "application/json")], deep.as_bytes())?.error(400)?;
    }
    target.still_serves()
}

fn foreign_content(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    for url in
        ["http://169.254.169.254/latest", "file:///etc/passwd", "gopher://127.0.0.1:1/x", "data:image/png;base64,"]
    {
        let image = json!({ "type": "image_url", "image_url": { "url": url } });
        let content = json!([{ "type": "text", "text": "what is it?" }, image]);
        let messages = json!({ "messages": [{ "role": "user", "content": content }] });
        let error = target.post(CHAT, &with(facts.chat("x", 1), messages))?.error(400)?;
        ensure!(!error.message.contains(url), "the refusal repeats the address: {}", error.message);
        error.names(Some("messages[0].content[1].type"))?;
    }
    for part in [json!({ "type": "input_audio", "input_audio": {} }), json!({ "type": "file", "file": {} })] {
        let messages = json!({ "messages": [{ "role": "user", "content": [part] }] });
        let error = target.post(CHAT, &with(facts.chat("x", 1), messages))?.error(400)?;
        error.names(Some("messages[0].content[0].type"))?;
    }
    Ok(())
}

fn odd_prompts(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    for prompt in [json!(""), json!([]), json!([""]), json!([[]]), json!([4_294_967_295_u32]), json!(5), json!({})] {
        let request = with(facts.completion("x", 1), json!({ "prompt": prompt }));
        target.post(COMPLETIONS, &request)?.error(400)?.names(Some("prompt"))?;
    }
    for prompt in [json!([-1]), json!([4_294_967_296_u64]), json!(["x", 1])] {
        target.post(COMPLETIONS, &with(facts.completion("x", 1), json!({ "prompt": prompt })))?.error(400)?;
    }
    for prompt in ["a\u{0}b", "\u{202e}abc", "^^^^^^^^", "👩‍👩‍👧‍👦", "<|im_end|>"] {
        target.post(COMPLETIONS, &facts.completion(prompt, 1))?.json(200)?;
    }
    target.still_serves()
}
