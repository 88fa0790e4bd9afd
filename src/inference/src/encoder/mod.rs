//! Encoders of the BERT family: token sequences in, one vector each out.  The transformer is candle's; what makes its
//! hidden states a sentence's vector (pooling, normalisation, the longest input) is read from the model's own files,
//! as sentence-transformers reads it.

mod config;
mod pooling;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::BertModel;
use candle_transformers::models::xlm_roberta::XLMRobertaModel;

use crate::error::InferenceError;

pub use config::{Case, EncoderConfig, Family};
pub use pooling::{Normalisation, Pooling};

/// An encoder with its weights.
pub struct Encoder {
    config: EncoderConfig,
    network: Network,
}

enum Network {
    Bert(BertModel),
    Roberta(XLMRobertaModel),
}

impl Encoder {
    /// Builds the encoder from its configuration and its tensors, by their Hugging Face names.
    pub fn new(config: EncoderConfig, tensors: HashMap<String, Tensor>) -> Result<Encoder, InferenceError> {
        // A checkpoint that was saved with a head on top names the encoder's own tensors with a prefix.
        let prefix = config.tensor_prefix();
        let prefixed = tensors.keys().any(|name| name.starts_with(prefix));
        let root = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let root = if prefixed { root.pp(prefix.trim_end_matches('.')) } else { root };
        let network = match &config.family {
            Family::Bert(bert) => Network::Bert(BertModel::load(root, bert)?),
            Family::Roberta(roberta) => Network::Roberta(XLMRobertaModel::new(roberta, root)?),
        };
        Ok(Encoder { config, network })
    }

    /// What it was built from.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The vectors of several token sequences, none of them empty or longer than
    /// [`EncoderConfig::max_tokens`], in their order.
    ///
    /// The sequences are filled up to the longest and the filling is masked out of attention and pooling, so that a
    /// sequence's vector does not depend on its neighbours (beyond the rounding of the last bits).
    pub fn embed(&self, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, InferenceError> {
        let longest = inputs.iter().map(|input| input.len()).max().unwrap_or(0);
        if longest == 0 {
            return Ok(vec![Vec::new(); inputs.len()]);
        }
        let shape = (inputs.len(), longest);
        let fill = |with: &dyn Fn(&[u32], usize) -> u32| -> Vec<u32> {
            inputs.iter().flat_map(|input| (0..longest).map(|at| with(input, at))).collect()
        };
        let padding = self.config.padding;
        let tokens = fill(&|input, at| input.get(at).copied().unwrap_or(padding));
        let mask = fill(&|input, at| u32::from(at < input.len()));
        let tokens = Tensor::from_vec(tokens, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        let segments = tokens.zeros_like()?;
        let hidden = match &self.network {
            Network::Bert(network) => network.forward(&tokens, &segments, Some(&mask))?,
            Network::Roberta(network) => network.forward(&tokens, &mask, &segments, None, None, None)?,
        };
        let pooled = self.config.pooling.pool(&hidden, &mask.to_dtype(DType::F32)?)?;
        Ok(self.config.normalisation.apply(&pooled)?.to_vec2::<f32>()?)
    }
}
