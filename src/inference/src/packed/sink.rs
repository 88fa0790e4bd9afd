//! Turns verified tensor bytes into packed weights, row by row as they arrive and from several threads: a tensor is in
//! memory once, in the layout that the products read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ampoule_bundle::{TensorEntry, TensorSink};

use super::incoming::{Finished, IncomingRows, RowOrder, packed_format};
use super::weights::{FUSED, PackedWeights, Tensor};
use crate::model::{self, Config, ModelError, OutputProjection};

/// Collects the tensors of one model; give it to `AdmittedBundle::load_weights`.
#[derive(Debug)]
pub struct PackedSink<'a> {
    config: &'a Config,
    expected: BTreeMap<String, Vec<usize>>,
    weights: Mutex<PackedWeights>,
}

impl<'a> PackedSink<'a> {
    /// A sink for the tensors that `config` calls for, named as the file that it was read from names them.
    pub fn new(config: &'a Config) -> Self {
        let mut expected = config.tensors();
        if config.output == OutputProjection::TiedToEmbedding {
            // Some files repeat the embeddings under this name; `PackedWeights::check` refuses it where it differs.
            expected.insert("lm_head.weight".to_owned(), vec![config.vocabulary_size, config.hidden_size]);
        }
        Self { config, expected, weights: Mutex::default() }
    }

    /// The name and the shape that the configuration has for a tensor.
    fn known(&self, tensor: TensorEntry<'_>) -> Result<(String, &[usize]), ModelError> {
        let unknown = || ModelError::UnknownTensor { name: tensor.name.to_owned() };
        let name = model::hugging_face_name(self.config, tensor.name).ok_or_else(unknown)?;
        let shape = self.expected.get(&name).ok_or_else(unknown)?;
        model::check_shape(&name, tensor.shape, shape)?;
        Ok((name, shape))
    }

    /// The names of the matrices that a tensor's rows become, each with the row at which it ends.
    fn parts(&self, name: &str, outputs: usize) -> Vec<(String, usize)> {
        let fused = FUSED.iter().find_map(|(fused, parts)| Some((name.split_once(fused)?, *parts)));
        let Some(((before, after), parts)) = fused else { return vec![(name.to_owned(), outputs)] };
        let Config { head_count, key_value_head_count, head_dimension, intermediate_size, .. } = *self.config;
        let (query, key) = (head_count * head_dimension, key_value_head_count * head_dimension);
        let ends = match parts.len() {
            2 => vec![intermediate_size, 2 * intermediate_size],
            _ => vec![query, query + key, query + 2 * key],
        };
        parts.iter().map(|part| format!("{before}{part}{after}")).zip(ends).collect()
    }
}

impl TensorSink for PackedSink<'_> {
    type Output = PackedWeights;
    type Error = ModelError;
    type Memory = IncomingRows;

    fn open(&self, tensor: TensorEntry<'_>, length: usize) -> Result<IncomingRows, ModelError> {
        if model::is_derived(tensor.name) {
            return Ok(IncomingRows::vector(length));
        }
        let (name, shape) = self.known(tensor)?;
        model::check_length(&name, tensor.kind, shape, length)?;
        let &[outputs, inputs] = shape else {
            return Ok(IncomingRows::vector(length));
        };
        let format = packed_format(&name, tensor.kind)?;
        let order = match model::paired_rows(self.config, &name) {
            Some(heads) => RowOrder::Paired { half: outputs / heads / 2 },
            None => RowOrder::AsInFile,
        };
        let ends = self.parts(&name, outputs).into_iter().map(|(_, end)| end);
        Ok(IncomingRows::matrix(format, ends, inputs, order))
    }

    fn place(&self, tensor: TensorEntry<'_>, memory: IncomingRows) -> Result<(), ModelError> {
        if model::is_derived(tensor.name) {
            return Ok(());
        }
        let (name, shape) = self.known(tensor)?;
        let lock = || self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        match memory.finish(&name, tensor.kind)? {
            Finished::Matrix(parts) => {
                for ((name, _), part) in self.parts(&name, shape[0]).into_iter().zip(parts) {
                    lock().insert(name, Tensor::Matrix(Arc::new(part)))?;
                }
            }
            Finished::Vector(values) => {
                let mut start = 0;
                for (name, end) in self.parts(&name, values.len()) {
                    lock().insert(name, Tensor::Vector(values[start..end].to_vec()))?;
                    start = end;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<PackedWeights, ModelError> {
        let mut weights = self.weights.into_inner().unwrap_or_else(PoisonError::into_inner);
        weights.check(self.config)?;
        Ok(weights)
    }
}
