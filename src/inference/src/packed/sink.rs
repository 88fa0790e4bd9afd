//! Turns verified tensor bytes into packed weights, row by row as they arrive and from several threads: a tensor is in
//! memory once, in the layout that the products read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ampoule_bundle::{TensorEntry, TensorKind, TensorMemory, TensorSink};
use ampoule_kernels::{Format, Packing};

use super::weights::{FUSED, PackedWeights, Tensor};
use crate::model::{self, Config, ModelError, OutputProjection};
use crate::numbers;

/// Collects the tensors of one model; give it to `AdmittedBundle::load_weights`.
#[derive(Debug)]
pub struct PackedSink<'a> {
    config: &'a Config,
    expected: BTreeMap<String, Vec<usize>>,
    weights: Mutex<PackedWeights>,
}

/// The memory of one tensor while it is read.
#[derive(Debug)]
pub struct IncomingRows {
    /// The bytes of one row, or of a whole vector.
    row: Vec<u8>,
    filled: usize,
    /// How many rows were taken.
    taken: usize,
    into: Into,
}

#[derive(Debug)]
enum Into {
    /// A matrix, or the parts of a fused one: the row where each ends, and its packing.
    Matrix { parts: Vec<(usize, Packing)>, order: RowOrder },
    /// A vector's bytes are all in `row`.
    Vector,
}

/// Where a row of the file belongs.
#[derive(Debug, Clone, Copy)]
enum RowOrder {
    AsInFile,
    /// The two halves of each head are interleaved in the file: see [`model::gguf_layout`].
    Paired {
        half: usize,
    },
}

impl RowOrder {
    fn of(self, row: usize) -> usize {
        match self {
            Self::AsInFile => row,
            Self::Paired { half } => {
                let (head, within) = (row / (2 * half), row % (2 * half));
                head * 2 * half + within % 2 * half + within / 2
            }
        }
    }
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
            return Ok(IncomingRows { row: vec![0; length], filled: 0, taken: 0, into: Into::Vector });
        }
        let (name, shape) = self.known(tensor)?;
        model::check_length(&name, tensor.kind, shape, length)?;
        let &[outputs, inputs] = shape else {
            return Ok(IncomingRows { row: vec![0; length], filled: 0, taken: 0, into: Into::Vector });
        };
        let format = format(&name, tensor.kind)?;
        let order = match model::paired_rows(self.config, &name) {
            Some(heads) => RowOrder::Paired { half: outputs / heads / 2 },
            None => RowOrder::AsInFile,
        };
        let mut start = 0;
        let parts = self.parts(&name, outputs).into_iter().map(|(_, end)| {
            let rows = end - start;
            start = end;
            (end, Packing::new(format, rows, inputs))
        });
        let into = Into::Matrix { parts: parts.collect(), order };
        Ok(IncomingRows { row: vec![0; format.row_bytes(inputs)], filled: 0, taken: 0, into })
    }

    fn place(&self, tensor: TensorEntry<'_>, memory: IncomingRows) -> Result<(), ModelError> {
        if model::is_derived(tensor.name) {
            return Ok(());
        }
        let (name, shape) = self.known(tensor)?;
        let lock = || self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        match memory.into {
            Into::Matrix { parts, .. } => {
                for ((name, _), (_, packing)) in self.parts(&name, shape[0]).into_iter().zip(parts) {
                    lock().insert(name, Tensor::Matrix(Arc::new(packing.finish())))?;
                }
            }
            Into::Vector => {
                let mut values = Vec::new();
                match tensor.kind {
                    TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => {
                        numbers::widen(tensor.kind, &memory.row, &mut values);
                    }
                    other => return Err(unsupported(&name, other)),
                }
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

impl TensorMemory for IncomingRows {
    fn room(&mut self) -> &mut [u8] {
        &mut self.row[self.filled..]
    }

    fn filled(&mut self, count: usize) {
        self.filled += count;
        let Into::Matrix { parts, order } = &mut self.into else { return };
        if self.filled < self.row.len() {
            return;
        }
        let row = order.of(self.taken);
        let mut start = 0;
        for (end, packing) in parts {
            if row < *end {
                packing.put(row - start, &self.row);
                break;
            }
            start = *end;
        }
        self.taken += 1;
        self.filled = 0;
    }
}

fn format(name: &str, kind: TensorKind) -> Result<Format, ModelError> {
    Ok(match kind {
        TensorKind::F32 => Format::F32,
        TensorKind::F16 => Format::F16,
        TensorKind::BF16 => Format::BF16,
        TensorKind::Q8_0 => Format::Q8_0,
        TensorKind::Q4_0 => Format::Q4_0,
        TensorKind::Q4K => Format::Q4_K,
        TensorKind::Q5K => Format::Q5_K,
        TensorKind::Q6K => Format::Q6_K,
        other => return Err(unsupported(name, other)),
    })
}

fn unsupported(name: &str, kind: TensorKind) -> ModelError {
    ModelError::UnsupportedTensorKind { name: name.to_owned(), found: format!("{kind:?}") }
}
