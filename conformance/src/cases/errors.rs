//! What a wrong request is told: the right status, OpenAI's body of four members, the field at fault, and nothing about
//! the inside.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{CHAT, EMBEDDINGS, MODELS, with};
use crate::catalogue::Case;
use crate::target::{Facts, Kind, Target};

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-ERR-01", "A body that is no JSON object is 400 with a code", not_json),
    Case::served("AMP-ERR-02", "An unknown or missing field is 400 and is named in `param`", unknown_field),
    Case::served("AMP-ERR-03", "A value of a wrong type or out of range is 400 and is named in `param`", wrong_values),
    Case::served("AMP-ERR-04", "A request without a key is 401 with `WWW-Authenticate: Bearer`", no_key),
    Case::served(
        "AMP-ERR-05",
        "An unknown path is 404 `unknown_url`, an unknown model 404 `model_not_found`",
        not_found,
    ),
    Case::served("AMP-ERR-06", "A wrong method is 405 `method_not_allowed`", wrong_method),
    Case::served("AMP-ERR-07", "A body that is declared too long is 413 before it is sent", too_long),
    Case::served("AMP-ERR-08", "A body of another type, or a compressed one, is 415", wrong_media_type),
    Case::served("AMP-ERR-09", "What asks for an unsupported feature is refused by name, not ignored", unsupported),
    Case::served("AMP-ERR-10", "No error tells a path, a type or a line of the program", nothing_inside),
];

/// The endpoint that this model serves, and a request that it answers.
pub(super) fn smallest(facts: &Facts) -> (&'static str, Value) {
    match facts.kind {
        Kind::Generator => (CHAT, facts.chat("hello", 1)),
        Kind::Encoder => (EMBEDDINGS, json!({ "model": facts.model, "input": "hello" })),
    }
}

fn not_json(target: &Target) -> anyhow::Result<()> {
    let json_type = [("content-type", "application/json")];
    for (body, code) in [
        (&b"{\"model\":"[..], Some("invalid_json")),
        (b"{\"model\":\"m\",\"temperature\":NaN}", Some("invalid_json")),
        (b"{} x", None),
        (b"{\"a\":\"\xff\"}", Some("invalid_utf8")),
        (b"", None),
        (b"[]", None),
        (b"\"text\"", None),
    ] {
        let error = target.post_bytes(CHAT, &json_type, body)?.error(400)?;
        ensure!(error.kind == "invalid_request_error", "the type is {:?}", error.kind);
        if let Some(code) = code {
            error.coded(code)?;
        }
    }
    target.still_serves()
}

fn unknown_field(target: &Target) -> anyhow::Result<()> {
    let (path, request) = smallest(target.facts()?);
    target.post(path, &with(request.clone(), json!({ "colour": 1 })))?.error(400)?.names(Some("colour"))?;
    for field in request.as_object().into_iter().flat_map(|request| request.keys()) {
        let mut lacking = request.clone();
        let is_required = matches!(field.as_str(), "model" | "messages" | "input");
        if let (true, Some(lacking)) = (is_required, lacking.as_object_mut()) {
            lacking.remove(field);
            target.post(path, &json!(lacking))?.error(400)?.names(Some(field))?;
        }
    }
    Ok(())
}

fn wrong_values(target: &Target) -> anyhow::Result<()> {
    let facts = target.facts()?;
    let (path, request) = smallest(facts);
    let wrong: &[(&str, Value)] = match facts.kind {
        Kind::Encoder => &[
            ("dimensions", json!(-1)),
            ("dimensions", json!(1.5)),
            ("encoding_format", json!("int8")),
            ("input", json!([])),
            ("input", json!("")),
        ],
        Kind::Generator => &[
            ("temperature", json!(-0.1)),
            ("temperature", json!("1")),
            ("top_p", json!(1.1)),
            ("n", json!(0)),
            ("n", json!(1.5)),
            ("n", json!(9_223_372_036_854_775_808_u64)),
            ("max_tokens", json!(-1)),
            ("max_tokens", json!(0)),
            ("max_tokens", json!("8")),
            ("top_logprobs", json!(-1)),
            ("presence_penalty", json!(2.5)),
            ("stop", json!(["a", "b", "c", "d", "e"])),
            ("messages", json!([])),
            ("messages", json!("hello")),
            ("logit_bias", json!({ "-1": 1 })),
        ],
    };
    for (field, value) in wrong {
        let error = target.post(path, &with(request.clone(), json!({ *field: value })))?.error(400)?;
        error.names(Some(field))?;
    }
    target.still_serves()
}

fn no_key(target: &Target) -> anyhow::Result<()> {
    let reply = target.send("GET", MODELS, &[], None)?;
    let error = reply.error(401)?.names(None)?.coded("invalid_api_key")?;
    ensure!(error.kind == "invalid_request_error", "the type is {:?}", error.kind);
    let challenge = reply.header("www-authenticate");
    ensure!(challenge == Some("Bearer"), "`WWW-Authenticate` is {challenge:?}");
    Ok(())
}

fn not_found(target: &Target) -> anyhow::Result<()> {
    for path in ["/index.html", "/v1", "/v1/nothing", "/v1/chat/completions/", "/v1/fine_tuning/jobs", "/admin"] {
        target.get(path)?.error(404)?.names(None)?.coded("unknown_url")?;
    }
    let (path, request) = smallest(target.facts()?);
    let request = with(request, json!({ "model": "no-such-model" }));
    target.post(path, &request)?.error(404)?.names(Some("model"))?.coded("model_not_found")?;
    Ok(())
}

fn wrong_method(target: &Target) -> anyhow::Result<()> {
    let (path, _) = smallest(target.facts()?);
    target.get(path)?.error(405)?.names(None)?.coded("method_not_allowed")?;
    target.post(MODELS, &json!({}))?.error(405)?.coded("method_not_allowed")?;
    Ok(())
}

fn too_long(target: &Target) -> anyhow::Result<()> {
    // Longer than any limit that can be configured, and not a byte of it is ever sent.
    for length in ["2000000000", "9223372036854775808"] {
        let head = format!("{}content-length: {length}\r\n\r\n", target.head_of_post(CHAT)?);
        let reply =
            target.connect()?.first_reply(head.as_bytes()).with_context(|| format!("a body of {length} bytes"))?;
        reply.error(413)?.names(None)?.coded("request_too_large")?;
        ensure!(reply.header("connection") == Some("close"), "the connection of an unread body is kept");
    }
    target.still_serves()
}

fn wrong_media_type(target: &Target) -> anyhow::Result<()> {
    let (path, request) = smallest(target.facts()?);
    let body = request.to_string();
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
        &[("content-type", "application/json"), ("content-encoding", "br")],
    ] {
        let error = target.post_bytes(path, headers, body.as_bytes())?.error(415)?;
        error.names(None)?.coded("unsupported_media_type")?;
    }
    let plain = [("content-type", "application/json; charset=utf-8")];
    target.post_bytes(path, &plain, body.as_bytes())?.json(200)?;
    Ok(())
}

fn unsupported(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    for (field, value) in [
        ("tools", json!([{ "type": "function", "function": { "name": "f" } }])),
        ("functions", json!([{ "name": "f" }])),
        ("response_format", json!({ "type": "json_object" })),
        ("modalities", json!(["text", "audio"])),
        ("store", json!(true)),
        ("service_tier", json!("flex")),
    ] {
        let reply = target.post(CHAT, &with(facts.chat("hello", 1), json!({ field: value })))?;
        reply.error(400)?.names(Some(field))?.coded("unsupported_parameter")?;
    }
    Ok(())
}

fn nothing_inside(target: &Target) -> anyhow::Result<()> {
    let (path, request) = smallest(target.facts()?);
    for value in [json!(null), json!([1]), json!({}), json!(1e300), json!("x".repeat(1000)), json!("\u{1b}[31m\r\n")] {
        for field in ["model", "messages", "input", "user", "seed", "stop", "x\u{0}y"] {
            let reply = target.post(path, &with(request.clone(), json!({ field: value })))?;
            ensure!(reply.status < 500, "a field of another kind is answered {}: {}", reply.status, reply.text());
            if reply.status >= 400 {
                let text = String::from_utf8_lossy(&reply.body).into_owned();
                for word in
                    [".rs", "panicked", "src/", "/usr/", "/tmp/", "struct ", "enum ", "::", "0x", "i128", "backtrace"]
                {
                    ensure!(!text.contains(word), "an error tells {word:?}: {text}");
                }
                ensure!(text.len() < 2000, "an error repeats what it was sent: {} bytes", text.len());
                reply.error(reply.status)?;
            }
        }
    }
    Ok(())
}
