//! The folder that training ends in: what Transformers reads and `ampoule-seal` takes.
//!
//! Weights are written in half precision: the model is small, but it is embedded in every binary.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde_json::json;
use tokenizers::Tokenizer;

use crate::error::TrainerError;
use crate::recipe::ModelShape;
use crate::vocabulary;

/// The files of a model, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    files: BTreeMap<&'static str, Vec<u8>>,
}

impl Folder {
    /// Lays out a trained model.
    ///
    /// # Errors
    /// What the libraries refuse to serialise.
    pub fn new(
        shape: &ModelShape,
        config_json: String,
        tokenizer: &Tokenizer,
        weights: &BTreeMap<String, Tensor>,
    ) -> Result<Self, TrainerError> {
        let halves: BTreeMap<&str, Tensor> = weights
            .iter()
            .map(|(name, tensor)| Ok((name.as_str(), tensor.to_dtype(DType::F16)?)))
            .collect::<Result<_, candle_core::Error>>()?;
        // Transformers refuses a file that does not say which framework's layout it has.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let tokenizer_json =
            tokenizer.to_string(true).map_err(|source| TrainerError::Tokenizer { action: "written", source })?;
        let generation = json!({
            "do_sample": false,
            "eos_token_id": vocabulary::END,
            "pad_token_id": vocabulary::PAD,
        });
        let files = BTreeMap::from([
            ("config.json", config_json.into_bytes()),
            ("generation_config.json", pretty(&generation).into_bytes()),
            ("model.safetensors", safetensors::serialize(&halves, Some(metadata))?),
            ("tokenizer.json", tokenizer_json.into_bytes()),
            ("tokenizer_config.json", pretty(&vocabulary::tokenizer_config(shape.context_length)).into_bytes()),
        ]);
        Ok(Self { files })
    }

    /// The bytes of one file.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    /// Writes the folder; it appears whole or not at all.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn write(&self, out: &Path) -> Result<(), TrainerError> {
        write_whole(out, self.files.iter().map(|(name, bytes)| (*name, bytes.as_slice())))
    }
}

/// Writes a folder of files; it appears whole or not at all.
///
/// # Errors
/// What the file system refuses.
pub fn write_whole<'a>(out: &Path, files: impl Iterator<Item = (&'a str, &'a [u8])>) -> Result<(), TrainerError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TrainerError::Write { path, source }
    };
    let partial = beside(out, ".partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial).map_err(failed(&partial))?;
    }
    std::fs::create_dir_all(&partial).map_err(failed(&partial))?;
    for (name, bytes) in files {
        let path = partial.join(name);
        std::fs::write(&path, bytes).map_err(failed(&path))?;
    }
    std::fs::rename(&partial, out).map_err(failed(out))
}

/// The path with an ending after its name.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// `config.json` of a Llama of this shape.
pub fn config_json(shape: &ModelShape, vocabulary_size: usize) -> String {
    pretty(&json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "eos_token_id": vocabulary::END,
        "head_dim": shape.hidden_size / shape.heads,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.context_length,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
        "pad_token_id": vocabulary::PAD,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "torch_dtype": "float16",
        "vocab_size": vocabulary_size,
    }))
}

fn pretty(value: &serde_json::Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value with string keys always serialises");
    text.push('\n');
    text
}
