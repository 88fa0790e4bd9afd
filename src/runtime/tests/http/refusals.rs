//! Requests that are wrong: each gets the right status, OpenAI's error body and the field's name, and the server serves
//! on (THREATS C29 to C37).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{MODEL, Running, Setup, chat};

/// Every refusal is quick: nothing is tokenised or generated for it.
const QUICK: Duration = Duration::from_secs(5);

fn check(server: &Running, path: &str, body: &Value, status: u16, param: Option<&str>) -> Value {
    let started = Instant::now();
    let reply = server.post(path, body);
    assert_eq!(reply.status, status, "{path} {body}: {}", reply.text());
    let error = reply.error();
    assert_eq!(error["param"], json!(param), "{path} {body}: {error}");
    assert!(started.elapsed() < QUICK, "{path} took {:?}", started.elapsed());
    error
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

#[test]
fn c30_every_integer_field_is_swept() {
    let server = Setup::default().start();
    let hostile = |allows_zero: bool| {
        let mut values = vec![json!(-1), json!(2_147_483_648_i64), json!(9_223_372_036_854_775_808_u64)];
        values.push(serde_json::from_str("18446744073709551616").expect("2^64 is JSON"));
        values.push(serde_json::from_str("1e30").expect("1e30 is JSON"));
        values.extend([json!(1.5), json!("1"), json!([1]), json!({}), json!(true)]);
        if !allows_zero {
            values.push(json!(0));
        }
        values
    };
    for (field, allows_zero) in
        [("n", false), ("max_tokens", false), ("max_completion_tokens", false), ("top_k", true), ("top_logprobs", true)]
    {
        for value in hostile(allows_zero) {
            let body = with(with(chat("hello"), "logprobs", json!(true)), field, value);
            check(&server, "/v1/chat/completions", &body, 400, Some(field));
        }
    }
    for field in ["n", "max_tokens", "best_of", "logprobs"] {
        for value in hostile(field == "logprobs") {
            let body = with(json!({ "model": MODEL, "prompt": "hello" }), field, value);
            check(&server, "/v1/completions", &body, 400, Some(field));
        }
    }
    for value in [json!(1.5), json!("1"), json!([1]), serde_json::from_str("9223372036854775808").expect("2^63")] {
        check(&server, "/v1/chat/completions", &with(chat("hello"), "seed", value), 400, Some("seed"));
    }
    for value in [json!(-1), json!(i64::MIN), json!(i64::MAX), json!(0)] {
        let body = with(with(chat("hello"), "seed", value), "max_tokens", json!(1));
        assert_eq!(server.post("/v1/chat/completions", &body).status, 200, "{body}");
    }
    server.still_serves();
}

#[test]
fn null_means_absent() {
    let server = Setup::default().start();
    let mut body = with(chat("hello"), "max_tokens", json!(1));
    for field in [
        "n",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "seed",
        "logprobs",
        "top_logprobs",
        "stop",
        "stream",
        "stream_options",
        "response_format",
        "tools",
        "tool_choice",
        "user",
        "store",
        "service_tier",
        "metadata",
        "modalities",
        "audio",
        "reasoning_effort",
        "functions",
        "function_call",
        "parallel_tool_calls",
    ] {
        body[field] = Value::Null;
    }
    assert_eq!(server.post("/v1/chat/completions", &body).status, 200);
    check(&server, "/v1/chat/completions", &with(chat("x"), "messages", Value::Null), 400, Some("messages"));
    check(&server, "/v1/chat/completions", &with(chat("x"), "model", Value::Null), 400, Some("model"));
}

#[test]
fn c32_numbers_outside_their_ranges_are_refused() {
    let server = Setup::default().start();
    for (field, least, most) in [
        ("temperature", 0.0, 2.0),
        ("top_p", 0.0, 1.0),
        ("min_p", 0.0, 1.0),
        ("presence_penalty", -2.0, 2.0),
        ("frequency_penalty", -2.0, 2.0),
        ("repetition_penalty", 0.01, 10.0),
    ] {
        for value in [json!(least - 0.1), json!(most + 0.1), json!(1e40), json!(-1e40), json!("1"), json!([])] {
            check(&server, "/v1/chat/completions", &with(chat("hello"), field, value), 400, Some(field));
        }
        for value in [least, most] {
            let body = with(with(chat("hello"), field, json!(value)), "max_tokens", json!(2));
            let reply = server.post("/v1/chat/completions", &body);
            assert_eq!(reply.status, 200, "{body}: {}", reply.text());
        }
    }
    let tiny = with(with(chat("hello"), "temperature", json!(1e-40)), "max_tokens", json!(2));
    assert_eq!(server.post("/v1/chat/completions", &tiny).status, 200);
    for literal in ["NaN", "Infinity", "-Infinity", "1e999"] {
        let body =
            format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"x"}}],"temperature":{literal}}}"#);
        let reply = server.post_bytes("/v1/chat/completions", body.as_bytes());
        assert_eq!((reply.status, &reply.error()["code"]), (400, &json!("invalid_json")), "{literal}");
    }
}

#[test]
fn c31_empty_and_odd_prompts() {
    let server = Setup::default().start();
    for messages in [
        json!([]),
        json!([{ "role": "user", "content": "" }]),
        json!([{ "role": "user", "content": [] }]),
        json!([{ "role": "user", "content": "" }, { "role": "assistant", "content": "" }]),
    ] {
        check(&server, "/v1/chat/completions", &json!({ "model": MODEL, "messages": messages }), 400, Some("messages"));
    }
    for (messages, param) in [
        (json!([{ "role": "user" }]), "messages[0].content"),
        (json!([{ "content": "x" }]), "messages[0].role"),
        (json!([{ "role": "king", "content": "x" }]), "messages[0].role"),
        (json!([["user", "x"]]), "messages[0]"),
        (json!([{ "role": "user", "content": 5 }]), "messages[0].content"),
        (json!([{ "role": "user", "content": "x" }, { "role": "user", "content": { "a": 1 } }]), "messages[1].content"),
        (json!([{ "role": "user", "content": [{ "type": "text" }] }]), "messages[0].content[0].text"),
        (json!([{ "role": "user", "content": "x", "colour": 1 }]), "messages[0].colour"),
        (json!("x"), "messages"),
        (json!({}), "messages"),
    ] {
        check(&server, "/v1/chat/completions", &json!({ "model": MODEL, "messages": messages }), 400, Some(param));
    }
    for (prompt, param) in [
        (json!(""), "prompt"),
        (json!([]), "prompt"),
        (json!([""]), "prompt"),
        (json!([[]]), "prompt"),
        (json!(["x", ""]), "prompt"),
        (json!([4_294_967_295_u32]), "prompt"),
        (json!([4_294_967_296_u64]), "prompt[0]"),
        (json!([-1]), "prompt[0]"),
        (json!([1, "x"]), "prompt[1]"),
        (json!([[1], "x"]), "prompt[1]"),
        (json!(5), "prompt"),
        (json!({}), "prompt"),
    ] {
        check(&server, "/v1/completions", &json!({ "model": MODEL, "prompt": prompt }), 400, Some(param));
    }
    let nul = json!({ "model": MODEL, "prompt": "a\u{0}b", "max_tokens": 1 });
    assert_eq!(server.post("/v1/completions", &nul).status, 200);
    server.still_serves();
}

#[test]
fn unknown_and_unsupported_fields_are_named() {
    let server = Setup::default().start();
    let error = check(&server, "/v1/chat/completions", &with(chat("x"), "colour", json!(1)), 400, Some("colour"));
    assert_eq!(error["message"], "Unrecognized request argument supplied: `colour`");
    for (field, value) in [
        ("tools", json!([{ "type": "function", "function": { "name": "f" } }])),
        ("functions", json!([{ "name": "f" }])),
        ("tool_choice", json!("required")),
        ("tool_choice", json!({ "type": "function", "function": { "name": "f" } })),
        ("function_call", json!({ "name": "f" })),
        ("response_format", json!({ "type": "json_object" })),
        ("response_format", json!({ "type": "json_schema", "json_schema": {} })),
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({ "voice": "x", "format": "wav" })),
        ("prediction", json!({ "type": "content", "content": "x" })),
        ("store", json!(true)),
        ("service_tier", json!("flex")),
        ("reasoning_effort", json!("high")),
        ("web_search_options", json!({})),
    ] {
        let error = check(&server, "/v1/chat/completions", &with(chat("x"), field, value), 400, Some(field));
        assert_eq!(error["code"], "unsupported_parameter");
    }
    for (field, value) in [
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("response_format", json!({ "type": "text" })),
        ("store", json!(false)),
        ("service_tier", json!("auto")),
        ("user", json!("somebody")),
        ("metadata", json!({ "a": "b" })),
    ] {
        let body = with(with(chat("x"), field, value), "max_tokens", json!(1));
        assert_eq!(server.post("/v1/chat/completions", &body).status, 200, "{body}");
    }
    let completion = json!({ "model": MODEL, "prompt": "x" });
    for (field, value) in [("suffix", json!("y")), ("best_of", json!(2))] {
        check(&server, "/v1/completions", &with(completion.clone(), field, value), 400, Some(field));
    }
    let echoed = with(with(completion, "echo", json!(true)), "logprobs", json!(1));
    check(&server, "/v1/completions", &echoed, 400, Some("echo"));
    let options = with(chat("x"), "chat_template_kwargs", json!({ "chat_template": "{{ 1 }}" }));
    check(&server, "/v1/chat/completions", &options, 400, Some("chat_template_kwargs"));
    check(&server, "/v1/chat/completions", &with(chat("x"), "stream_options", json!({})), 400, Some("stream_options"));
}

#[test]
fn c33_images_and_audio_are_refused_without_a_look() {
    let server = Setup::default().start();
    for url in
        ["http://169.254.169.254/latest", "file:///etc/passwd", "gopher://127.0.0.1:1/x", "data:image/png;base64,"]
    {
        let part = json!({ "type": "image_url", "image_url": { "url": url } });
        let messages = json!([{ "role": "user", "content": [{ "type": "text", "text": "what is it?" }, part] }]);
        let body = json!({ "model": MODEL, "messages": messages });
        let error = check(&server, "/v1/chat/completions", &body, 400, Some("messages[0].content[1].type"));
        assert!(!error["message"].as_str().unwrap_or_default().contains(url));
    }
    for part in [json!({ "type": "input_audio", "input_audio": {} }), json!({ "type": "file", "file": {} })] {
        let body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": [part] }] });
        check(&server, "/v1/chat/completions", &body, 400, Some("messages[0].content[0].type"));
    }
}

#[test]
fn c29_fan_out_is_bounded() {
    let server = Setup::default().start();
    check(&server, "/v1/chat/completions", &with(chat("x"), "n", json!(1_000_000)), 400, Some("n"));
    check(&server, "/v1/completions", &json!({ "model": MODEL, "prompt": vec!["x"; 17] }), 400, Some("prompt"));
    let product = json!({ "model": MODEL, "prompt": ["x", "y", "z"], "n": 6 });
    check(&server, "/v1/completions", &product, 400, Some("prompt"));
    check(
        &server,
        "/v1/chat/completions",
        &with(chat("x"), "stop", json!(["a", "b", "c", "d", "e"])),
        400,
        Some("stop"),
    );
    check(&server, "/v1/chat/completions", &with(chat("x"), "stop", json!("")), 400, Some("stop"));
    check(&server, "/v1/chat/completions", &with(chat("x"), "stop", json!([1])), 400, Some("stop[0]"));
    let biases: serde_json::Map<String, Value> = (0..301).map(|token| (token.to_string(), json!(1))).collect();
    check(&server, "/v1/chat/completions", &with(chat("x"), "logit_bias", biases.into()), 400, Some("logit_bias"));
    let logprobs = with(with(chat("x"), "logprobs", json!(true)), "top_logprobs", json!(21));
    check(&server, "/v1/chat/completions", &logprobs, 400, Some("top_logprobs"));
    check(&server, "/v1/chat/completions", &with(chat("x"), "top_logprobs", json!(1)), 400, Some("top_logprobs"));
}

#[test]
fn c27_a_megabyte_of_text_is_refused_by_its_length() {
    let server = Setup::default().start();
    for unit in ["a", "^", " ", "é", "👩‍👩‍👧"] {
        let text = unit.repeat(1_000_000 / unit.len());
        let error = check(&server, "/v1/chat/completions", &chat(&text), 400, Some("messages"));
        assert_eq!(error["code"], "context_length_exceeded");
        let error = check(&server, "/v1/completions", &json!({ "model": MODEL, "prompt": text }), 400, Some("prompt"));
        assert_eq!(error["code"], "context_length_exceeded");
    }
    server.still_serves();
}

#[test]
fn a_prompt_and_an_answer_beyond_the_context_are_refused() {
    let server = Setup::default().start();
    let context = server.context_length();
    let body = with(chat("hello"), "max_tokens", json!(context));
    let error = check(&server, "/v1/chat/completions", &body, 400, Some("max_tokens"));
    assert_eq!(error["code"], "context_length_exceeded");
    let tokens: Vec<u32> = vec![1; context];
    let error = check(&server, "/v1/completions", &json!({ "model": MODEL, "prompt": tokens }), 400, Some("prompt"));
    assert_eq!(error["code"], "context_length_exceeded");
}

#[test]
fn unknown_models_paths_and_methods() {
    let server = Setup::default().start();
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let body = with(with(chat("x"), "model", json!("no-such\r\nmodel")), "prompt", json!("x"));
        let body = match path {
            "/v1/completions" => json!({ "model": body["model"], "prompt": "x" }),
            _ => with(chat("x"), "model", body["model"].clone()),
        };
        let error = check(&server, path, &body, 404, Some("model"));
        assert_eq!(error["code"], "model_not_found");
    }
    let reply = server.get("/v1/models/no-such-model");
    assert_eq!((reply.status, &reply.error()["code"]), (404, &json!("model_not_found")));
    assert_eq!(server.get("/v1/models/%ff").status, 404);
    for path in ["/index.html", "/v1", "/v1/nothing", "/v1/chat/completions/", "/v2/health/ready"] {
        let reply = server.get(path);
        assert_eq!((reply.status, &reply.error()["code"]), (404, &json!("unknown_url")), "{path}");
    }
    for (method, path) in [("GET", "/v1/chat/completions"), ("DELETE", "/v1/models"), ("PUT", "/v1/metadata")] {
        let reply = server.send(method, path, &[], b"");
        assert_eq!((reply.status, &reply.error()["code"]), (405, &json!("method_not_allowed")), "{method} {path}");
        assert!(reply.header("allow").is_some(), "{method} {path}");
    }
    let reply = server.post("/v1/embeddings", &json!({ "model": MODEL, "input": "x" }));
    assert_eq!((reply.status, &reply.error()["code"]), (400, &json!("unsupported_model")));
    assert_eq!(reply.error()["param"], "model");
}

#[test]
fn an_endpoint_that_is_not_allowed_does_not_exist() {
    let endpoints = Some([ampoule_bundle::statement::Endpoint::ChatCompletions].into());
    let server = Setup { endpoints, ..Setup::default() }.start();
    let reply = server.post("/v1/completions", &json!({ "model": MODEL, "prompt": "x" }));
    assert_eq!((reply.status, &reply.error()["code"]), (404, &json!("unknown_url")));
    server.still_serves();
}

#[test]
fn an_answer_beyond_the_allowed_length_is_refused() {
    let limits = ampoule::http::HttpLimits { max_output_tokens: Some(4), ..Default::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    check(&server, "/v1/chat/completions", &with(chat("x"), "max_tokens", json!(5)), 400, Some("max_tokens"));
    let forced = with(chat("x"), "logit_bias", json!({ "38": 100 }));
    let reply = server.post("/v1/chat/completions", &forced).json();
    assert_eq!(reply["usage"]["completion_tokens"], 4);
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
}

#[test]
fn what_is_no_json_is_told_so() {
    let server = Setup::default().start();
    let deep = format!(r#"{{"model":"{MODEL}","messages":{}"#, "[".repeat(1_000_000));
    let deep_unknown = format!(r#"{{"user":{}{}}}"#, "[".repeat(500_000), "]".repeat(500_000));
    for body in
        [&b""[..], b"{", b"nonsense", b"[]", b"null", b"5", b"\"x\"", b"{}", deep.as_bytes(), deep_unknown.as_bytes()]
    {
        let reply = server.post_bytes("/v1/chat/completions", body);
        assert_eq!(reply.status, 400, "{}", String::from_utf8_lossy(&body[..body.len().min(80)]));
        reply.error();
    }
    let mut invalid = format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"x"#).into_bytes();
    invalid.extend_from_slice(b"\xff\xfe\"}]}");
    let reply = server.post_bytes("/v1/chat/completions", &invalid);
    assert_eq!((reply.status, &reply.error()["code"]), (400, &json!("invalid_utf8")));
    let reply = server.post_bytes("/v1/chat/completions", br#"{"model":"a","model":"b"}"#);
    assert_eq!((reply.status, &reply.error()["param"]), (400, &json!("model")));
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let reply = server.send("POST", "/v1/chat/completions", &[("content-type", kind)], b"{}");
        assert_eq!((reply.status, &reply.error()["code"]), (415, &json!("unsupported_media_type")), "{kind}");
    }
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let reply = server.send("POST", "/v1/chat/completions", &headers, b"\x1f\x8b");
    assert_eq!((reply.status, &reply.error()["code"]), (415, &json!("unsupported_media_type")));
    server.still_serves();
}
