//! The log: JSON lines on standard error that tell all but what was said (C46).

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{CHAT, errors, with};
use crate::catalogue::Case;
use crate::site::Site;
use crate::target::Kind;

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-LOG-01", "The log is JSON lines, one for each request, found by its id", lines),
    Case::installed(
        "AMP-LOG-02",
        "No prompt, answer, key or value of a client's is logged, at any level (C46)",
        canaries,
    ),
];

fn lines(site: &Site) -> anyhow::Result<()> {
    let server = site.serve(&[])?;
    let target = server.target();
    let (path, request) = errors::smallest(target.facts()?);
    let headers = [("content-type", "application/json"), ("x-request-id", "conformance-line-1")];
    target.post_bytes(path, &headers, request.to_string().as_bytes())?.json(200)?;
    let log = server.stop()?.stderr;
    let mut found = None;
    for line in log.lines() {
        let parsed: Value = serde_json::from_str(line).with_context(|| format!("a line is no JSON: {line}"))?;
        if line.contains("conformance-line-1") {
            found = Some(parsed);
        }
    }
    let line = found.context("no line has the request's id")?.to_string();
    for wanted in ["\"status\":200", "\"method\":\"POST\"", "\"key\":\"conformance\"", "duration_seconds"] {
        ensure!(line.contains(wanted), "the request's line does not tell {wanted}: {line}");
    }
    Ok(())
}

fn canaries(site: &Site) -> anyhow::Result<()> {
    let canary = "canary-5e1f";
    let server = site.serve(&["--log-level", "trace"])?;
    let target = server.target();
    let facts = target.facts()?;
    let mut answer = String::new();
    match facts.kind {
        Kind::Generator => {
            let body = target.post(CHAT, &facts.chat(canary, 24))?.json(200)?;
            answer = body["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
        }
        Kind::Encoder => {
            target.post(super::EMBEDDINGS, &json!({ "model": facts.model, "input": canary }))?.json(200)?;
        }
    }
    let (path, request) = errors::smallest(facts);
    // Refusals too: the value at fault is the client's.
    for (field, value) in
        [("model", json!(canary)), ("messages", json!(canary)), ("user", json!({ canary: 1 })), (canary, json!(1))]
    {
        target.post(path, &with(request.clone(), json!({ field: value })))?;
    }
    target.get(&format!("/v1/{canary}"))?;
    target.send(
        "GET",
        "/v1/models",
        &[("authorization", &format!("Bearer amp-{canary}")), ("user-agent", canary)],
        None,
    )?;
    target.send_head("GET", "/livez", &[format!("x-request-id: {canary} forged")])?;
    let log = server.stop()?.stderr;
    ensure!(log.lines().count() > 5, "the log has {} lines, so nothing was judged", log.lines().count());
    let shown = |word: &str| log.lines().find(|line| line.contains(word)).map(str::to_owned);
    ensure!(shown(canary).is_none(), "a client's value is logged: {:?}", shown(canary));
    ensure!(shown(site.key()).is_none(), "the key is logged");
    // A short answer could stand in any line by chance.
    ensure!(answer.len() < 12 || shown(&answer).is_none(), "the answer is logged: {:?}", shown(&answer));
    Ok(())
}
