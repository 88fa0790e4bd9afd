//! The folder that fine-tuning ends in: `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them.
//!
//! PEFT only warns about names that it does not expect, and then computes with half of an adapter; so the names are
//! written from the one list of the model's own modules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use candle_core::Tensor;
use serde_json::json;

use crate::error::TrainerError;

use super::schedule::Settings;

/// What PEFT puts before the name of a module of the base.
const PREFIX: &str = "base_model.model.";

/// The weights' file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The configuration's file.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Writes both files into `folder`, which must exist.
///
/// # Errors
/// What the file system and the library refuse.
pub fn write(
    folder: &Path,
    base_name: &str,
    matrices: &BTreeMap<String, Tensor>,
    settings: &Settings,
) -> Result<(), TrainerError> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|source| TrainerError::Write { path, source })
    };
    write(CONFIG_FILE, config_json(base_name, matrices, settings).as_bytes())?;
    write(WEIGHTS_FILE, &weights(matrices)?)
}

/// `adapter_model.safetensors`.
///
/// # Errors
/// What the library refuses.
pub fn weights(matrices: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, TrainerError> {
    let named: BTreeMap<String, Tensor> =
        matrices.iter().map(|(name, tensor)| (format!("{PREFIX}{name}"), tensor.clone())).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(&named, Some(metadata))?)
}

/// `adapter_config.json`.  The base is named by its bundle, never by a path, which would mean nothing elsewhere.
pub fn config_json(base_name: &str, matrices: &BTreeMap<String, Tensor>, settings: &Settings) -> String {
    let targets: BTreeSet<&str> =
        matrices.keys().filter_map(|name| name.split(".lora_").next()?.rsplit('.').next()).collect();
    let config = json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": settings.rank,
        "rank_pattern": {},
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": false,
    });
    let mut text = serde_json::to_string_pretty(&config).expect("a JSON value with string keys always serialises");
    text.push('\n');
    text
}
