//! Takes the tensors of an encoder while the bundle reads and hashes them: matrices are packed, vectors widened.

use std::sync::{Arc, Mutex, PoisonError};

use ampoule_bundle::{TensorEntry, TensorKind, TensorSink};

use crate::error::InferenceError;
use crate::model::{self, ModelError};
use crate::packed::{Finished, IncomingRows, PackedWeights, RowOrder, Tensor, packed_format};

/// Collects the tensors of an encoder, by the names that they have in their file.
#[derive(Debug, Default)]
pub struct EncoderSink {
    weights: Mutex<PackedWeights>,
}

impl TensorSink for EncoderSink {
    type Output = PackedWeights;
    type Error = InferenceError;
    type Memory = IncomingRows;

    fn open(&self, tensor: TensorEntry<'_>, length: usize) -> Result<IncomingRows, InferenceError> {
        if is_table_of_integers(tensor.kind) {
            return Ok(IncomingRows::vector(length));
        }
        let format = packed_format(tensor.name, tensor.kind)?;
        // No configuration is known here that the shape could be held against, and rows of nothing cannot be packed.
        if tensor.shape.contains(&0) {
            let (name, found) = (tensor.name.to_owned(), tensor.shape.to_vec());
            return Err(ModelError::EmptyTensor { name, found }.into());
        }
        model::check_length(tensor.name, tensor.kind, tensor.shape, length)?;
        Ok(match *tensor.shape {
            [outputs, inputs] => IncomingRows::matrix(format, [outputs], inputs, RowOrder::AsInFile),
            _ => IncomingRows::vector(length),
        })
    }

    fn place(&self, tensor: TensorEntry<'_>, memory: IncomingRows) -> Result<(), InferenceError> {
        if is_table_of_integers(tensor.kind) {
            return Ok(());
        }
        let finished = match memory.finish(tensor.name, tensor.kind)? {
            Finished::Vector(values) => Tensor::Vector(values),
            Finished::Matrix(parts) => {
                let name = || tensor.name.to_owned();
                let matrix = parts.into_iter().next().ok_or_else(|| ModelError::MissingTensor { name: name() })?;
                Tensor::Matrix(Arc::new(matrix))
            }
        };
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(weights.insert(tensor.name.to_owned(), finished)?)
    }

    fn finish(self) -> Result<PackedWeights, InferenceError> {
        Ok(self.weights.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// No weights: checkpoints carry such tables as `position_ids`.
fn is_table_of_integers(kind: TensorKind) -> bool {
    matches!(kind, TensorKind::I64 | TensorKind::I32 | TensorKind::U8)
}
