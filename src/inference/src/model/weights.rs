//! The model's tensors by name, and the checks that they are exactly those that the configuration calls for.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};

use super::{Config, ModelError, OutputProjection};

/// One tensor.
#[derive(Debug, Clone)]
pub enum Weight {
    /// Single precision.
    Dense(Tensor),
    /// Blocks of a quantised format; the last dimension is a multiple of the block length.
    Quantized(Arc<QTensor>),
}

impl Weight {
    /// Outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Dense(tensor) => tensor.dims(),
            Self::Quantized(tensor) => tensor.shape().dims(),
        }
    }

    /// The values in single precision; exact, for every format.
    ///
    /// # Errors
    /// Only those of the tensor library.
    pub fn dequantize(&self) -> Result<Tensor, ModelError> {
        match self {
            Self::Dense(tensor) => Ok(tensor.clone()),
            Self::Quantized(tensor) => Ok(tensor.dequantize(&Device::Cpu)?),
        }
    }
}

/// All tensors of a model, under Hugging Face's names.
#[derive(Debug, Default)]
pub struct Weights {
    tensors: BTreeMap<String, Weight>,
}

impl Weights {
    /// Weights from tensors that exist already, for training and tests.  What is not single precision is converted;
    /// variables in single precision stay variables.
    ///
    /// # Errors
    /// Only those of the tensor library.
    pub fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Result<Self, ModelError> {
        let tensors = tensors
            .into_iter()
            .map(|(name, tensor)| Ok((name, Weight::Dense(tensor.to_dtype(DType::F32)?))))
            .collect::<Result<_, ModelError>>()?;
        Ok(Self { tensors })
    }

    /// The tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Weight)> {
        self.tensors.iter().map(|(name, weight)| (name.as_str(), weight))
    }

    /// Adds a tensor.
    pub(super) fn insert(&mut self, name: String, weight: Weight) -> Result<(), ModelError> {
        match self.tensors.insert(name.clone(), weight) {
            None => Ok(()),
            Some(_) => Err(ModelError::RepeatedTensor { name }),
        }
    }

    /// Refuses weights that are not exactly what `config` calls for, and drops what is known to be redundant.
    pub(super) fn check(&mut self, config: &Config) -> Result<(), ModelError> {
        let expected = config.tensors();
        self.drop_redundant(config)?;
        for (name, weight) in &self.tensors {
            match expected.get(name) {
                None => return Err(ModelError::UnknownTensor { name: name.clone() }),
                Some(shape) => check_shape(name, weight.shape(), shape)?,
            }
        }
        match expected.keys().find(|name| !self.tensors.contains_key(*name)) {
            Some(name) => Err(ModelError::MissingTensor { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Drops what some published files carry beside the model: a copy of the tied embeddings under the output
    /// projection's name (which must be equal), and rotary frequencies that follow from the configuration.
    fn drop_redundant(&mut self, config: &Config) -> Result<(), ModelError> {
        self.tensors.retain(|name, _| !is_derived(name));
        if config.output != OutputProjection::TiedToEmbedding {
            return Ok(());
        }
        let Some(output) = self.tensors.remove("lm_head.weight") else { return Ok(()) };
        let Some(embedding) = self.tensors.get("model.embed_tokens.weight") else { return Ok(()) };
        if same(&output, embedding)? {
            Ok(())
        } else {
            Err(ModelError::UnknownTensor { name: "lm_head.weight".to_owned() })
        }
    }

    /// Takes a tensor that [`Weights::check`] has found.
    pub(super) fn take(&mut self, name: &str) -> Result<Weight, ModelError> {
        self.tensors.remove(name).ok_or_else(|| ModelError::MissingTensor { name: name.to_owned() })
    }

    /// Takes a tensor in single precision: norms and biases, which are small.
    pub(super) fn take_dense(&mut self, name: &str) -> Result<Tensor, ModelError> {
        self.take(name)?.dequantize()
    }

    /// Takes a vector's values.
    pub(super) fn take_values(&mut self, name: &str) -> Result<Vec<f32>, ModelError> {
        Ok(self.take_dense(name)?.to_vec1()?)
    }
}

/// Whether a tensor only repeats what the configuration says.
pub(crate) fn is_derived(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

pub(crate) fn check_shape(name: &str, found: &[usize], expected: &[usize]) -> Result<(), ModelError> {
    if found == expected {
        return Ok(());
    }
    Err(ModelError::MisshapenTensor { name: name.to_owned(), found: found.to_vec(), expected: expected.to_vec() })
}

fn same(left: &Weight, right: &Weight) -> Result<bool, ModelError> {
    if left.shape() != right.shape() {
        return Ok(false);
    }
    let (left, right) = (left.dequantize()?.flatten_all()?, right.dequantize()?.flatten_all()?);
    Ok(left.to_vec1::<f32>()? == right.to_vec1::<f32>()?)
}
