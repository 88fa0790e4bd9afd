//! Encoders of the BERT family: token sequences in, one vector each out.  What makes the transformer's hidden states a
//! sentence's vector (pooling, normalisation, the longest input) is read from the model's own files, as
//! sentence-transformers reads it.

mod config;
mod network;
mod pooling;
mod sink;

use ampoule_kernels::Processor;

use crate::error::InferenceError;
use crate::model::{InputLimits, ModelError};
use crate::packed::PackedWeights;
use network::{Network, Scratch};

pub use config::{Case, EncoderConfig, Family, HiddenActivation, Transformer};
pub use pooling::{Normalisation, Pooling};
pub use sink::EncoderSink;

/// An encoder with its weights, and what it computes with.
#[derive(Debug)]
pub struct Encoder {
    config: EncoderConfig,
    network: Network,
    processor: Processor,
    scratch: Scratch,
}

impl Encoder {
    /// Builds the encoder from its configuration and its tensors, by their Hugging Face names.
    ///
    /// # Errors
    /// Names the first tensor that is missing or misshapen.
    pub fn new(
        config: EncoderConfig,
        mut weights: PackedWeights,
        processor: Processor,
    ) -> Result<Encoder, InferenceError> {
        // A checkpoint that was saved with a head on top names the encoder's own tensors with a prefix.
        let prefix = config.tensor_prefix();
        let prefix = if weights.any_begins(prefix) { prefix } else { "" };
        let network = Network::take(config.transformer, &mut weights, prefix)?;
        Ok(Encoder { config, network, processor, scratch: Scratch::default() })
    }

    /// What it was built from.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// What computes.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The vectors of several token sequences, in their order.  A sequence's vector does not depend on its neighbours.
    ///
    /// # Errors
    /// Refuses an empty sequence, one that is longer than [`EncoderConfig::max_tokens`], and a token outside of the
    /// vocabulary, before anything is computed.
    pub fn embed(&mut self, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, ModelError> {
        let (vocabulary_size, length) = (self.config.transformer.vocabulary_size, self.config.max_tokens);
        let limits = InputLimits { vocabulary_size, length };
        inputs.iter().try_for_each(|input| limits.check(input, 0))?;
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let width = self.config.transformer.hidden_size;
        let mut hidden = self.network.forward(&self.processor, &mut self.scratch, inputs);
        let mut vectors = Vec::with_capacity(inputs.len());
        for input in inputs {
            let (own, rest) = hidden.split_at(input.len() * width);
            hidden = rest;
            let mut vector = self.config.pooling.pool(own, width);
            self.config.normalisation.apply(&mut vector);
            vectors.push(vector);
        }
        Ok(vectors)
    }
}
