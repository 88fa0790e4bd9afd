//! Turns verified tensor bytes into weights, one tensor at a time and from several threads.
//!
//! Each tensor is checked against the configuration before anything is made of it, and half precision is widened
//! here, so that a file is in memory once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ampoule_bundle::{TensorEntry, TensorKind, TensorSink};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::weights::{check_shape, is_derived};
use super::{Config, ModelError, OutputProjection, Weight, Weights, gguf_layout};
use crate::numbers::{self, Incoming};

/// Collects the tensors of one model; give it to `AdmittedBundle::load_weights`.
#[derive(Debug)]
pub struct WeightsSink<'a> {
    config: &'a Config,
    expected: BTreeMap<String, Vec<usize>>,
    weights: Mutex<Weights>,
}

impl<'a> WeightsSink<'a> {
    /// A sink for the tensors that `config` calls for, named as the file that it was read from names them.
    pub fn new(config: &'a Config) -> Self {
        let mut expected = config.tensors();
        if config.output == OutputProjection::TiedToEmbedding {
            // Some files repeat the embeddings under this name; `Weights::check` refuses it where it differs.
            expected.insert("lm_head.weight".to_owned(), vec![config.vocabulary_size, config.hidden_size]);
        }
        Self { config, expected, weights: Mutex::default() }
    }
}

impl WeightsSink<'_> {
    /// The name and the shape that the configuration has for a tensor.
    fn known(&self, tensor: TensorEntry<'_>) -> Result<(String, &[usize]), ModelError> {
        let unknown = || ModelError::UnknownTensor { name: tensor.name.to_owned() };
        let name = gguf_layout::hugging_face_name(self.config, tensor.name).ok_or_else(unknown)?;
        let shape = self.expected.get(&name).ok_or_else(unknown)?;
        check_shape(&name, tensor.shape, shape)?;
        Ok((name, shape))
    }
}

impl TensorSink for WeightsSink<'_> {
    type Output = Weights;
    type Error = ModelError;
    type Memory = Incoming;

    fn open(&self, tensor: TensorEntry<'_>, length: usize) -> Result<Incoming, ModelError> {
        if is_derived(tensor.name) {
            return Ok(Incoming::as_they_stand(length));
        }
        let (name, shape) = self.known(tensor)?;
        check_length(&name, tensor.kind, shape, length)?;
        if gguf_layout::paired_rows(self.config, &name).is_some() {
            return Ok(Incoming::as_they_stand(length));
        }
        Ok(Incoming::new(tensor.kind, length))
    }

    fn place(&self, tensor: TensorEntry<'_>, memory: Incoming) -> Result<(), ModelError> {
        if is_derived(tensor.name) {
            return Ok(());
        }
        let (name, shape) = self.known(tensor)?;
        let weight = match memory {
            Incoming::Numbers(numbers) => dense(numbers.into_values(), shape)?,
            Incoming::Bytes(bytes) => match gguf_layout::paired_rows(self.config, &name) {
                Some(heads) => {
                    let unpaired = gguf_layout::unpair_rows(&bytes, shape[0], heads);
                    Weight::from_bytes(&name, tensor.kind, shape, &unpaired)?
                }
                None => Weight::from_bytes(&name, tensor.kind, shape, &bytes)?,
            },
        };
        self.weights.lock().unwrap_or_else(PoisonError::into_inner).insert(name, weight)
    }

    fn finish(self) -> Result<Weights, ModelError> {
        let mut weights = self.weights.into_inner().unwrap_or_else(PoisonError::into_inner);
        weights.check(self.config)?;
        Ok(weights)
    }
}

impl Weight {
    /// A tensor from its bytes as they stand in a weight file: little-endian, outermost dimension first.
    ///
    /// # Errors
    /// Refuses number formats that this runtime does not compute with, and a length that does not fit the shape.
    pub fn from_bytes(name: &str, kind: TensorKind, shape: &[usize], data: &[u8]) -> Result<Self, ModelError> {
        check_length(name, kind, shape, data.len())?;
        let format = match kind {
            TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => {
                let mut values = Vec::new();
                numbers::widen(kind, data, &mut values);
                return dense(values, shape);
            }
            TensorKind::Q8_0 => GgmlDType::Q8_0,
            TensorKind::Q4_0 => GgmlDType::Q4_0,
            TensorKind::Q5_0 => GgmlDType::Q5_0,
            TensorKind::Q4K => GgmlDType::Q4K,
            TensorKind::Q5K => GgmlDType::Q5K,
            TensorKind::Q6K => GgmlDType::Q6K,
            other => {
                return Err(ModelError::UnsupportedTensorKind { name: name.to_owned(), found: format!("{other:?}") });
            }
        };
        // Blocks hold half-precision scales, and candle reads them in place: it panics on an odd address.
        let storage = if data.as_ptr().addr().is_multiple_of(align_of::<u16>()) {
            QStorage::from_data(data.into(), &Device::Cpu, format)?
        } else {
            let aligned: Vec<u16> = bytemuck::pod_collect_to_vec(data);
            QStorage::from_data(bytemuck::cast_slice(&aligned).into(), &Device::Cpu, format)?
        };
        Ok(Self::Quantized(Arc::new(QTensor::new(storage, shape)?)))
    }
}

fn dense(values: Vec<f32>, shape: &[usize]) -> Result<Weight, ModelError> {
    Ok(Weight::Dense(Tensor::from_vec(values, shape, &Device::Cpu)?))
}

pub(crate) fn check_length(name: &str, kind: TensorKind, shape: &[usize], found: usize) -> Result<(), ModelError> {
    let row = shape.last().copied().unwrap_or(1) as u64;
    if !row.is_multiple_of(kind.block_elements()) {
        let found = format!("{kind:?} in rows of {row}");
        return Err(ModelError::UnsupportedTensorKind { name: name.to_owned(), found });
    }
    let elements = shape.iter().try_fold(1_u64, |product, &length| product.checked_mul(length as u64));
    let expected = elements.and_then(|elements| (elements / kind.block_elements()).checked_mul(kind.block_bytes()));
    match expected.and_then(|bytes| usize::try_from(bytes).ok()) {
        Some(expected) if expected == found => Ok(()),
        expected => {
            Err(ModelError::MissizedTensor { name: name.to_owned(), found, expected: expected.unwrap_or(usize::MAX) })
        }
    }
}
