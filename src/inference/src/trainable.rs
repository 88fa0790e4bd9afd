//! From an admitted bundle to a model that is trained beside: the same line as for one that is served, over tensors through
//! which a gradient can flow.

use std::sync::Arc;

use ampoule_bundle::AdmittedBundle;

use crate::describe::Description;
use crate::error::InferenceError;
use crate::load::{LoadOptions, load_weights};
use crate::model::{Decoder, WeightsSink};
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
        let description = Description::of(bundle)?;
        let Some(config) = description.decoder()? else { return Ok(None) };
        let text = description.text(|path| bundle.file(path))?;
        let weights = load_weights(bundle, WeightsSink::new(&config), &LoadOptions::default())?;
        let decoder = Decoder::new(config, weights)?;
        proof::compute_trained(&decoder)?;
        if let Some(expected) = &bundle.release().known_answers {
            known_answers::replay_trained(&decoder, expected)?;
        }
        Ok(Some(TrainableModel { decoder, text: Arc::new(text) }))
    }
}
