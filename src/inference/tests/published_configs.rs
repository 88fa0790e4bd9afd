//! The configurations of published checkpoints are understood as they are, with the fields that Transformers never
//! writes; and such a field is let through for its one harmless value only.
//!
//! `fixtures/published_configs.json` has the fields and sizes of the publishers; LongRoPE's factors are cut to ones.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;

use ampoule_inference::model::Config;
use serde_json::{Value, json};

fn published() -> BTreeMap<String, Value> {
    serde_json::from_str(include_str!("fixtures/published_configs.json")).unwrap()
}

fn read(config: &Value) -> Result<Config, String> {
    Config::from_hugging_face(config.to_string().as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn published_checkpoints_are_understood() {
    let published = published();
    assert_eq!(published.len(), 11);
    for (name, config) in published {
        let read = read(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(json!(read.layers.len()), config["num_hidden_layers"], "{name}");
    }
}

#[test]
fn fields_that_only_a_publisher_reads_must_ask_for_nothing() {
    for (name, field, other) in [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "is_llama_config", json!(false)),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "rope_interleaved", json!(true)),
        ("Qwen/Qwen2.5-0.5B", "use_mrope", json!(true)),
        ("microsoft/Phi-3-mini-4k-instruct", "attention_bias", json!(true)),
        ("microsoft/Phi-4-mini-instruct", "full_attn_mod", json!(2)),
        ("microsoft/Phi-4-mini-instruct", "interpolate_factor", json!(2)),
        ("microsoft/Phi-4-mini-instruct", "lm_head_bias", json!(true)),
        ("microsoft/Phi-4-mini-instruct", "mlp_bias", json!(true)),
        ("google/gemma-3-270m-it", "_sliding_window_pattern", json!(5)),
    ] {
        let mut config = published().remove(name).unwrap();
        config[field] = other;
        let error = read(&config).unwrap_err();
        assert!(error.contains(field), "{name}: {error}");
    }
}
