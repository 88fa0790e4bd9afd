//! Text completions: prompts in all their forms, echo, the older log probabilities, streams.

use serde_json::{Value, json};

use crate::support::{MODEL, Running, Setup};

fn complete(server: &Running, fields: Value) -> Value {
    let mut body = json!({ "model": MODEL, "seed": 4 });
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    let reply = server.post("/v1/completions", &body);
    assert_eq!(reply.status, 200, "{body}: {}", reply.text());
    reply.json()
}

#[test]
fn a_completion_has_openai_s_shape() {
    let server = Setup::default().start();
    let body = complete(&server, json!({ "prompt": "hello" }));
    assert!(body["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!((&body["object"], &body["model"]), (&json!("text_completion"), &json!(MODEL)));
    assert!(body["choices"][0]["text"].is_string() && body["choices"][0]["logprobs"].is_null());
    assert_eq!(body["usage"]["prompt_tokens"], 5);
    assert!(body["usage"]["completion_tokens"].as_u64().unwrap() <= 16, "OpenAI's default length");
}

#[test]
fn texts_and_token_numbers_are_the_same_prompt() {
    let server = Setup::default().start();
    // "hello" in bytes, after six special tokens; the byte alphabet is sorted and "!" is its first.
    let numbers: Vec<u32> = "hello".bytes().map(|byte| u32::from(byte) - u32::from(b'!') + 6).collect();
    let of_text = complete(&server, json!({ "prompt": "hello" }));
    let of_tokens = complete(&server, json!({ "prompt": numbers }));
    assert_eq!(of_text["choices"], of_tokens["choices"]);
    let both = complete(&server, json!({ "prompt": ["hello", "other"], "n": 2 }));
    assert_eq!(both["choices"].as_array().unwrap().len(), 4);
    assert_eq!(both["choices"][0]["text"], of_text["choices"][0]["text"]);
    assert_eq!(both["choices"][3]["index"], 3);
    assert_eq!(both["usage"]["prompt_tokens"], 10);
    let lists = complete(&server, json!({ "prompt": [numbers, [70, 71]] }));
    assert_eq!(lists["choices"][0]["text"], of_text["choices"][0]["text"]);
}

#[test]
fn an_echo_puts_the_prompt_before_the_answer() {
    let server = Setup::default().start();
    let plain = complete(&server, json!({ "prompt": "hello" }));
    let echoed = complete(&server, json!({ "prompt": "hello", "echo": true }));
    let expected = format!("hello{}", plain["choices"][0]["text"].as_str().unwrap());
    assert_eq!(echoed["choices"][0]["text"], expected);
    let body = json!({ "model": MODEL, "seed": 4, "prompt": "hello", "echo": true, "stream": true });
    let events = server.post("/v1/completions", &body).events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, expected);
}

#[test]
fn the_older_log_probabilities_are_parallel_lists() {
    let server = Setup::default().start();
    let body = complete(&server, json!({ "prompt": "hello", "logprobs": 2, "temperature": 0, "max_tokens": 8 }));
    let logprobs = &body["choices"][0]["logprobs"];
    let length = |name: &str| logprobs[name].as_array().unwrap().len();
    let count = length("tokens");
    assert!(count > 0);
    assert_eq!([length("token_logprobs"), length("top_logprobs"), length("text_offset")], [count; 3]);
    assert_eq!(logprobs["text_offset"][0], 0);
    for top in logprobs["top_logprobs"].as_array().unwrap() {
        assert!((1..=2).contains(&top.as_object().unwrap().len()));
    }
}

#[test]
fn a_stream_has_the_same_text_and_asks_for_usage() {
    let server = Setup::default().start();
    let whole = complete(&server, json!({ "prompt": "hello", "max_tokens": 30 }));
    let body = json!({
        "model": MODEL, "seed": 4, "prompt": "hello", "max_tokens": 30, "stream": true,
        "stream_options": { "include_usage": true }
    });
    let events = server.post("/v1/completions", &body).events();
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(json!(text), whole["choices"][0]["text"]);
    assert_eq!(events.last().unwrap()["usage"], whole["usage"]);
    let finish = &events[events.len() - 2]["choices"][0]["finish_reason"];
    assert_eq!(finish, &whole["choices"][0]["finish_reason"]);
}
