//! `/v1/embeddings`: vectors from an encoder, and the right refusal from anything else.

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::EMBEDDINGS;
use crate::catalogue::{Case, Skipped};
use crate::target::{Facts, Kind, Target};

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-API-11", "Embeddings come in the order of their inputs; a generator refuses with 400", vectors),
    Case::served("AMP-API-12", "base64 holds the same vector as float", encodings),
];

fn vectors(target: &Target) -> anyhow::Result<()> {
    let facts = target.facts()?;
    let request = json!({ "model": facts.model, "input": ["one", "another text", "one"] });
    let reply = target.post(EMBEDDINGS, &request)?;
    if facts.kind == Kind::Generator {
        reply.error(400)?.names(Some("model"))?.coded("unsupported_model")?;
        return Ok(());
    }
    let body = reply.json(200)?;
    ensure!(
        body["object"] == "list" && body["model"] == facts.model.as_str(),
        "the answer is not a list of this model"
    );
    let data = body["data"].as_array().context("`data` is no array")?;
    let indices: Vec<_> = data.iter().filter_map(|item| item["index"].as_u64()).collect();
    ensure!(indices == [0, 1, 2], "the indices are {indices:?}");
    let vectors: Vec<_> = data.iter().map(floats).collect::<Result<_, _>>()?;
    let dimension = facts.embedding_dimension.context("the metadata of an encoder tell no dimension")?;
    ensure!(vectors.iter().all(|vector| vector.len() as u64 == dimension), "a vector has not {dimension} numbers");
    ensure!(vectors[0] == vectors[2], "the same text has two vectors in one request");
    ensure!(vectors[0] != vectors[1], "two texts have the same vector");
    let usage = &body["usage"];
    ensure!(
        usage["prompt_tokens"].as_u64() >= Some(3) && usage["prompt_tokens"] == usage["total_tokens"],
        "usage {usage}"
    );
    Ok(())
}

fn encodings(target: &Target) -> anyhow::Result<()> {
    let facts = target.facts()?;
    if facts.kind == Kind::Generator {
        return Err(Skipped("the bundle is a generator, which embeds nothing".to_owned()).into());
    }
    let plain = floats(&embed(target, facts, "float")?)?;
    let text = embed(target, facts, "base64")?["embedding"].clone();
    let bytes = STANDARD.decode(text.as_str().context("the base64 embedding is no text")?)?;
    let decoded: Vec<f32> =
        bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    ensure!(decoded.len() == plain.len(), "{} numbers as base64, {} as float", decoded.len(), plain.len());
    ensure!(decoded.iter().zip(&plain).all(|(one, other)| *one == *other as f32), "base64 and float differ");
    Ok(())
}

fn embed(target: &Target, facts: &Facts, encoding: &str) -> anyhow::Result<Value> {
    let request = json!({ "model": facts.model, "input": "hello", "encoding_format": encoding });
    Ok(target.post(EMBEDDINGS, &request)?.json(200)?["data"][0].clone())
}

fn floats(item: &Value) -> anyhow::Result<Vec<f64>> {
    let numbers = item["embedding"].as_array().context("an embedding is no array of numbers")?;
    numbers.iter().map(|number| number.as_f64().context("an embedding holds something else than numbers")).collect()
}
