//! Reads an adapter as PEFT saves it: `adapter_config.json`, and tensors named after the base's modules.
//!
//! PEFT itself only warns about a name that it does not expect and goes on without that matrix. Here every tensor must
//! find its place, and what this runtime does not compute is refused by name.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Adapter, Config, LowRank, ModelError};

/// What PEFT puts before the name of a module of the base.
pub const PEFT_PREFIX: &str = "base_model.model.";
/// What it puts after that name for `A`.
pub const PEFT_DOWN: &str = ".lora_A.weight";
/// What it puts after that name for `B`.
pub const PEFT_UP: &str = ".lora_B.weight";

/// The members of `adapter_config.json` that decide what is computed.
#[derive(Debug, Deserialize)]
struct PeftConfig {
    peft_type: String,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// Members that ask for another computation unless they have the value that stands here.
const NEUTRAL: &[(&str, &[&str])] = &[
    ("bias", &["\"none\""]),
    ("fan_in_fan_out", &["false"]),
    ("layer_replication", &["null"]),
    ("lora_bias", &["false"]),
    ("modules_to_save", &["null", "[]"]),
    ("target_parameters", &["null", "[]"]),
    ("trainable_token_indices", &["null"]),
    ("use_dora", &["false"]),
    ("use_qalora", &["false"]),
];

impl Adapter {
    /// An adapter from PEFT's two files.
    ///
    /// # Errors
    /// [`ModelError::UnsupportedAdapter`] for a kind of adapter that is not computed here, [`ModelError::UnknownModule`] and
    /// [`ModelError::UnknownTensor`] for names that belong to nothing, and what [`Adapter::new`] refuses.
    pub fn from_peft(
        config: &Config,
        adapter_config: &[u8],
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<Self, ModelError> {
        let peft: PeftConfig = serde_json::from_slice(adapter_config)
            .map_err(|error| unsupported("adapter_config.json", error, "PEFT's configuration of a LoRA"))?;
        if peft.peft_type != "LORA" {
            return Err(unsupported("peft_type", peft.peft_type, "LORA"));
        }
        for (name, neutral) in NEUTRAL {
            match peft.others.get(*name).map(Value::to_string) {
                Some(found) if !neutral.contains(&found.as_str()) => return Err(unsupported(name, found, neutral[0])),
                _ => {}
            }
        }
        let mut halves: BTreeMap<String, (Option<Tensor>, Option<Tensor>)> = BTreeMap::new();
        for (name, tensor) in tensors {
            let unknown = || ModelError::UnknownTensor { name: name.clone() };
            let rest = name.strip_prefix(PEFT_PREFIX).ok_or_else(unknown)?;
            if let Some(module) = rest.strip_suffix(PEFT_DOWN) {
                halves.entry(module.to_owned()).or_default().0 = Some(tensor);
            } else if let Some(module) = rest.strip_suffix(PEFT_UP) {
                halves.entry(module.to_owned()).or_default().1 = Some(tensor);
            } else {
                return Err(unknown());
            }
        }
        let mut modules = BTreeMap::new();
        for (module, halves) in halves {
            let missing = |half: &str| ModelError::MissingTensor { name: format!("{PEFT_PREFIX}{module}{half}") };
            let down = halves.0.ok_or_else(|| missing(PEFT_DOWN))?;
            let up = halves.1.ok_or_else(|| missing(PEFT_UP))?;
            let rank = of_module(&peft.rank_pattern, &module).unwrap_or(peft.r);
            let alpha = of_module(&peft.alpha_pattern, &module).unwrap_or(peft.lora_alpha);
            let found = down.dims().first().copied().unwrap_or(0);
            if found != rank || rank == 0 {
                return Err(unsupported("r", format!("{rank}, and the matrices of {module} have {found}"), "the same"));
            }
            let divisor = if peft.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
            modules.insert(module, LowRank { down, up, scale: alpha / divisor });
        }
        Self::new(config, modules)
    }
}

/// PEFT matches a pattern's key with the end of a module's name.
fn of_module<T: Copy>(pattern: &BTreeMap<String, T>, module: &str) -> Option<T> {
    let matches = |key: &str| module.strip_suffix(key).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    pattern.iter().find(|(key, _)| matches(key)).map(|(_, value)| *value)
}

fn unsupported(field: &str, found: impl ToString, supported: &'static str) -> ModelError {
    ModelError::UnsupportedAdapter { field: field.to_owned(), found: found.to_string(), supported }
}
