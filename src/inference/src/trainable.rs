//! From an admitted bundle to a model that is trained beside: the same line as for one that is served, over tensors through
//! which a gradient can flow.

use std::sync::Arc;

use ampoule_bundle::{AdmittedBundle, BundleError};

use crate::encoder::EncoderConfig;
use crate::error::InferenceError;
use crate::load::{LoadOptions, gguf_header, load_weights, missing, model_type};
use crate::model::{Config, Decoder, WeightsSink};
use crate::text::TextProcessor;
use crate::{known_answers, proof};

/// A decoder whose passes can be differentiated, and its tokenizer and chat template.
pub struct TrainableModel {
    /// The model.
    pub decoder: Decoder,
    /// The tokenizer and the chat template.
    pub text: Arc<TextProcessor>,
}

impl TrainableModel {
    /// Reads the bundle's configuration, tokenizer and weights, and proves the model as one that is served is proved; `None`
    /// for an encoder, which is not trained.
    ///
    /// # Errors
    /// As [`crate::LoadedModel::load`] and [`crate::LoadedModel::prove`].
    pub fn load(bundle: &AdmittedBundle) -> Result<Option<TrainableModel>, InferenceError> {
        if bundle.is_locked() {
            return Err(InferenceError::Bundle(BundleError::Locked));
        }
        if bundle.release().adapter.is_some() {
            return Err(InferenceError::AnAdapter { name: bundle.identity().name.to_string() });
        }
        let file = |path: &str| bundle.file(path);
        let (config, text) = match gguf_header(bundle.weights())? {
            Some(header) => (Config::from_gguf(header)?, TextProcessor::from_gguf(header)?),
            None => {
                let config = file("config.json").ok_or_else(|| missing("config.json"))?;
                if EncoderConfig::is_encoder(&model_type(config)?) {
                    return Ok(None);
                }
                (Config::from_hugging_face(config)?, TextProcessor::from_bundle_files(file)?)
            }
        };
        let weights = load_weights(bundle, WeightsSink::new(&config), &LoadOptions::default())?;
        let decoder = Decoder::new(config, weights)?;
        proof::compute_trained(&decoder)?;
        if let Some(expected) = &bundle.release().known_answers {
            known_answers::replay_trained(&decoder, expected)?;
        }
        Ok(Some(TrainableModel { decoder, text: Arc::new(text) }))
    }
}
