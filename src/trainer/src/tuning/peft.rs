//! The folder that fine-tuning ends in: `adapter_config.json` and `adapter_model.safetensors` as PEFT reads them.
//!
//! PEFT only warns about names that it does not expect, and then computes with half of an adapter; so the names are
//! written from the one list of the model's own modules.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use ampoule_inference::model::{Adapter, Config, PEFT_DOWN, PEFT_PREFIX};
use ampoule_sealing::{SealingError, first_not_finite};
use candle_core::{Device, Tensor};
use serde_json::json;

use crate::error::TrainerError;
use crate::export;

use super::schedule::Settings;

/// The weights' file.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The configuration's file.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// Writes the folder, with what else belongs into it; it appears whole or not at all.
///
/// # Errors
/// What the file system and the library refuse.
pub fn write(
    folder: &Path,
    base_name: &str,
    matrices: &BTreeMap<String, Tensor>,
    settings: &Settings,
    others: &[(&str, String)],
) -> Result<(), TrainerError> {
    let (config, weights) = (config_json(base_name, matrices, settings), weights(matrices)?);
    let files = [(CONFIG_FILE, config.as_bytes()), (WEIGHTS_FILE, &weights[..])].into_iter();
    export::write_whole(folder, files.chain(others.iter().map(|(name, text)| (*name, text.as_bytes()))))
}

/// Reads such a folder as an adapter of the model that `config` describes.
///
/// # Errors
/// A file that is missing or no regular file, a number that is none, and what [`Adapter::from_peft`] refuses.
pub fn read(folder: &Path, config: &Config) -> Result<Adapter, TrainerError> {
    let weights = read_regular(&folder.join(WEIGHTS_FILE), MAX_WEIGHTS_BYTES)?;
    let tensors = candle_core::safetensors::load_buffer(&weights, &Device::Cpu)?.into_iter().collect();
    let config_file = read_regular(&folder.join(CONFIG_FILE), MAX_CONFIG_BYTES)?;
    let adapter = Adapter::from_peft(config, &config_file, tensors)
        .map_err(|source| TrainerError::Adapter { path: folder.to_owned(), source })?;
    let not_finite = |module: &str| TrainerError::NotFinite { path: folder.to_owned(), module: module.to_owned() };
    let defect = |source| SealingError::WeightHeader { path: folder.join(WEIGHTS_FILE), source };
    if let Some(tensor) = first_not_finite(&weights).map_err(defect)? {
        return Err(not_finite(&tensor));
    }
    if let Some((module, _)) = adapter.modules().iter().find(|(_, matrices)| !(matrices.scale as f32).is_finite()) {
        return Err(not_finite(module));
    }
    Ok(adapter)
}

/// Far beyond any adapter.
const MAX_WEIGHTS_BYTES: u64 = 64 << 30;
/// Far beyond any configuration of one.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// Reads a file of an adapter's folder, which may come from anywhere: a pipe would wait for ever, a link lead elsewhere.
///
/// # Errors
/// What is no regular file, or longer than `limit`.
pub(super) fn read_regular(path: &Path, limit: u64) -> Result<Vec<u8>, TrainerError> {
    let failed = |source| TrainerError::Read { path: path.to_owned(), source };
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > limit {
        let found = format!("it must be a regular file of at most {limit} bytes");
        return Err(failed(std::io::Error::other(found)));
    }
    std::fs::read(path).map_err(failed)
}

/// `adapter_model.safetensors`.
///
/// # Errors
/// What the library refuses.
pub fn weights(matrices: &BTreeMap<String, Tensor>) -> Result<Vec<u8>, TrainerError> {
    let named: BTreeMap<String, Tensor> =
        matrices.iter().map(|(name, tensor)| (format!("{PEFT_PREFIX}{name}"), tensor.clone())).collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(&named, Some(metadata))?)
}

/// `adapter_config.json`.  The base is named by its bundle, never by a path, which would mean nothing elsewhere.
pub fn config_json(base_name: &str, matrices: &BTreeMap<String, Tensor>, settings: &Settings) -> String {
    let module =
        |name: &'_ String| name.strip_suffix(PEFT_DOWN).and_then(|module| module.rsplit('.').next()).map(str::to_owned);
    let targets: BTreeSet<String> = matrices.keys().filter_map(module).collect();
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
