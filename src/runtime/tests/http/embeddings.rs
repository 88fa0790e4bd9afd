//! Embeddings: forms of input, both encodings, and what is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{ENCODER, Running, Setup};

fn embed(server: &Running, input: Value) -> Value {
    let reply = server.post("/v1/embeddings", &json!({ "model": ENCODER, "input": input }));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn vectors_come_in_the_order_of_the_inputs() {
    let server = Setup::encoder().start();
    let body = embed(&server, json!(["hello", "something else", "hello"]));
    assert_eq!((&body["object"], &body["model"]), (&json!("list"), &json!(ENCODER)));
    let data = body["data"].as_array().unwrap();
    assert_eq!(data.iter().map(|item| item["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(data.iter().all(|item| item["object"] == "embedding"));
    assert_eq!(data[0]["embedding"].as_array().unwrap().len(), 16);
    assert_eq!(data[0]["embedding"], data[2]["embedding"], "the same text has the same vector in any company");
    assert_ne!(data[0]["embedding"], data[1]["embedding"]);
    assert_eq!(body["usage"]["prompt_tokens"], body["usage"]["total_tokens"]);
    // [CLS] h ##e ##l ##l ##o [SEP]
    assert_eq!(embed(&server, json!("hello"))["usage"]["prompt_tokens"], 7);
    assert_eq!(embed(&server, json!("HELLO"))["data"], embed(&server, json!("hello"))["data"]);
    assert_eq!(embed(&server, json!([[2, 11, 3]]))["usage"]["prompt_tokens"], 3);
}

#[test]
fn base64_holds_the_same_floats() {
    let server = Setup::encoder().start();
    let floats = embed(&server, json!("hello"))["data"][0]["embedding"].clone();
    let body = json!({ "model": ENCODER, "input": "hello", "encoding_format": "base64" });
    let text = server.post("/v1/embeddings", &body).json()["data"][0]["embedding"].as_str().unwrap().to_owned();
    let bytes = STANDARD.decode(text).unwrap();
    let decoded: Vec<f32> = bytes.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect();
    let floats: Vec<f32> = floats.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
    assert_eq!(decoded, floats);
}

#[test]
fn what_cannot_be_embedded_is_refused_by_name() {
    let server = Setup::encoder().start();
    let long = "a ".repeat(60);
    for (fields, param) in [
        (json!({ "input": "" }), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": ["x", ""] }), "input"),
        (json!({ "input": [[]] }), "input"),
        (json!({ "input": [999_999] }), "input"),
        (json!({ "input": [1, -1] }), "input[1]"),
        (json!({ "input": long }), "input"),
        (json!({ "input": "a".repeat(1_000_000) }), "input"),
        (json!({ "input": vec!["x"; 2049] }), "input"),
        (json!({ "input": "x", "dimensions": 8 }), "dimensions"),
        (json!({ "input": "x", "dimensions": -1 }), "dimensions"),
        (json!({ "input": "x", "dimensions": 1.5 }), "dimensions"),
        (json!({ "input": "x", "dimensions": 1_000_000_000_000_000_000_u64 }), "dimensions"),
        (json!({ "input": "x", "encoding_format": "int8" }), "encoding_format"),
        (json!({ "input": "x", "colour": 1 }), "colour"),
        (json!({}), "input"),
    ] {
        let mut body = fields.clone();
        body["model"] = json!(ENCODER);
        let reply = server.post("/v1/embeddings", &body);
        assert_eq!(reply.status, 400, "{}: {}", fields.to_string().chars().take(80).collect::<String>(), reply.text());
        assert_eq!(reply.error()["param"], param);
    }
    let reply = server.post("/v1/embeddings", &json!({ "model": ENCODER, "input": "x", "dimensions": 16 }));
    assert_eq!(reply.status, 200, "the model's own dimension is no change");
    let chat = json!({ "model": ENCODER, "messages": [{ "role": "user", "content": "x" }] });
    let reply = server.post("/v1/chat/completions", &chat);
    assert_eq!((reply.status, &reply.error()["param"]), (400, &json!("model")), "{}", reply.text());
    assert_eq!(reply.error()["code"], "unsupported_model");
    // Its model is looked at first: what else is wrong with such a request is no matter.
    let completion = json!({ "model": ENCODER, "prompt": "x", "n": 1000 });
    assert_eq!(server.post("/v1/completions", &completion).error()["code"], "unsupported_model");
    server.still_serves();
}
