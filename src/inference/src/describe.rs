//! Where a bundle describes its model: in the header of its GGUF file, or in `config.json` and the files beside it.
//!
//! Whoever loads a model, trains it or foresees its memory asks here, so that all of them see the same one.

use ampoule_bundle::{AdmittedBundle, BundleError, GgufHeader, WeightFile, WeightHeader};
use serde::Deserialize;

use crate::encoder::EncoderConfig;
use crate::error::InferenceError;
use crate::load::missing;
use crate::model::Config;
use crate::text::TextProcessor;

/// Where a model is described.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Description<'a> {
    /// In the header of its GGUF file.
    Header(&'a GgufHeader),
    /// In `config.json`, whose bytes these are, and the files beside it.
    Files(&'a [u8]),
}

impl<'a> Description<'a> {
    /// The description of a model of its own: a bundle that is locked and one that is an adapter are refused.
    pub(crate) fn of(bundle: &'a AdmittedBundle) -> Result<Description<'a>, InferenceError> {
        if bundle.is_locked() {
            return Err(InferenceError::Bundle(BundleError::Locked));
        }
        // A site's key vouches for adapters only: whatever calls itself one must never be a base, whatever it holds.
        if bundle.release().adapter.is_some() {
            return Err(InferenceError::AnAdapter { name: bundle.identity().name.to_string() });
        }
        Description::find(bundle.weights(), bundle.file("config.json"))
    }

    /// The description of the model with these weights, `config` being its bundle's `config.json`.
    pub(crate) fn find(weights: &'a [WeightFile], config: Option<&'a [u8]>) -> Result<Description<'a>, InferenceError> {
        match gguf_header(weights, config.is_some())? {
            Some(header) => Ok(Description::Header(header)),
            None => config.map(Description::Files).ok_or_else(|| missing("config.json")),
        }
    }

    /// What a decoder is made of; `None` for an encoder, which [`EncoderConfig::from_files`] reads.
    pub(crate) fn decoder(self) -> Result<Option<Config>, InferenceError> {
        match self {
            Description::Header(header) => Ok(Some(Config::from_gguf(header)?)),
            Description::Files(config) => {
                let is_encoder = EncoderConfig::is_encoder(&model_type(config)?);
                if is_encoder { Ok(None) } else { Ok(Some(Config::from_hugging_face(config)?)) }
            }
        }
    }

    /// The tokenizer and the chat template; `file` gives the content of a file of the bundle by its path.
    pub(crate) fn text<'b>(self, file: impl Fn(&str) -> Option<&'b [u8]>) -> Result<TextProcessor, InferenceError> {
        match self {
            Description::Header(header) => Ok(TextProcessor::from_gguf(header)?),
            Description::Files(_) => Ok(TextProcessor::from_bundle_files(file)?),
        }
    }
}

/// The header of the GGUF file that describes the model; `None` if the bundle's `config.json` does: its weights are
/// safetensors, or a GGUF file of tensors alone, without a vocabulary, under the names that Hugging Face gives them.
fn gguf_header(weights: &[WeightFile], has_config: bool) -> Result<Option<&GgufHeader>, InferenceError> {
    let headers: Vec<&WeightHeader> = weights.iter().map(|file| &file.header).collect();
    match headers[..] {
        [] => Err(InferenceError::NoWeights),
        [WeightHeader::Gguf(header)] if has_config && !header.metadata.contains_key("tokenizer.ggml.model") => Ok(None),
        [WeightHeader::Gguf(header)] => Ok(Some(header)),
        _ if headers.iter().all(|header| matches!(header, WeightHeader::Safetensors(_))) => Ok(None),
        _ => Err(InferenceError::MixedWeights { found: headers.len() }),
    }
}

fn model_type(config: &[u8]) -> Result<String, InferenceError> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        model_type: String,
    }
    let head: Result<Head, _> = serde_json::from_slice(config);
    let malformed = |source| InferenceError::MalformedFile { path: "config.json".to_owned(), source };
    head.map(|head| head.model_type).map_err(malformed)
}
