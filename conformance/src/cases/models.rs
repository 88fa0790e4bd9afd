//! `/v1/models`: what is served, as OpenAI's clients list it.

use anyhow::{Context, ensure};

use super::{METADATA, MODELS};
use crate::catalogue::Case;
use crate::target::Target;

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-API-01", "GET /v1/models lists the model and its adapters, and nothing else", models_are_listed),
    Case::served("AMP-API-02", "GET /v1/models/{id} is the listed object; another id is 404", one_model_is_retrieved),
];

fn models_are_listed(target: &Target) -> anyhow::Result<()> {
    let body = target.get(MODELS)?.json(200)?;
    ensure!(body["object"] == "list", "`object` is {}", body["object"]);
    let data = body["data"].as_array().context("`data` is no array")?;
    for model in data {
        ensure!(model["object"] == "model" && model["created"].is_i64(), "a model is {model}");
        ensure!(model["owned_by"].is_string() && model["id"].is_string(), "a model is {model}");
    }
    // The model comes first: clients that know no name take the first one.
    let metadata = target.get(METADATA)?.json(200)?;
    let adapters = metadata["adapters"].as_array().context("the metadata's `adapters` is no array")?;
    let served: Vec<_> =
        std::iter::once(&metadata["model"]["id"]).chain(adapters.iter().map(|adapter| &adapter["name"])).collect();
    let listed: Vec<_> = data.iter().map(|model| &model["id"]).collect();
    ensure!(listed == served, "{listed:?} are listed, and the metadata name {served:?}");
    ensure!(target.get(MODELS)?.json(200)? == body, "the list differs from one request to the next");
    Ok(())
}

fn one_model_is_retrieved(target: &Target) -> anyhow::Result<()> {
    let listed = target.get(MODELS)?.json(200)?["data"][0].clone();
    let id = listed["id"].as_str().context("the listed model has no id")?;
    let one = target.get(&format!("{MODELS}/{id}"))?.json(200)?;
    ensure!(one == listed, "the retrieved model is {one}, the listed one {listed}");
    target.get(&format!("{MODELS}/no-such-model"))?.error(404)?.names(Some("model"))?.coded("model_not_found")?;
    Ok(())
}
