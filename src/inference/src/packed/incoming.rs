//! The memory of one tensor while it is read: a matrix is packed row by row as its bytes arrive, a vector is kept until it is
//! whole.

use ampoule_bundle::{TensorKind, TensorMemory};
use ampoule_kernels::{Format, Packed, Packing};

use crate::model::ModelError;
use crate::numbers;

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
pub(crate) enum RowOrder {
    AsInFile,
    /// The two halves of each head are interleaved in the file: see `model::gguf_layout`.
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

impl IncomingRows {
    /// Room for a vector, or for what is read and not kept.
    pub(crate) fn vector(length: usize) -> IncomingRows {
        IncomingRows { row: vec![0; length], filled: 0, taken: 0, into: Into::Vector }
    }

    /// Room for a matrix with rows of `inputs` numbers, of which each part ends at the row that is given.
    pub(crate) fn matrix(
        format: Format,
        ends: impl IntoIterator<Item = usize>,
        inputs: usize,
        order: RowOrder,
    ) -> Self {
        let mut start = 0;
        let parts = ends.into_iter().map(|end| {
            let rows = end - start;
            start = end;
            (end, Packing::new(format, rows, inputs))
        });
        let into = Into::Matrix { parts: parts.collect(), order };
        IncomingRows { row: vec![0; format.row_bytes(inputs)], filled: 0, taken: 0, into }
    }

    /// The matrix's parts, or a vector's numbers.
    pub(crate) fn finish(self, name: &str, kind: TensorKind) -> Result<Finished, ModelError> {
        match self.into {
            Into::Matrix { parts, .. } => {
                Ok(Finished::Matrix(parts.into_iter().map(|(_, packing)| packing.finish()).collect()))
            }
            Into::Vector => match kind {
                TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => {
                    let mut values = Vec::new();
                    numbers::widen(kind, &self.row, &mut values);
                    Ok(Finished::Vector(values))
                }
                other => Err(unsupported(name, other)),
            },
        }
    }
}

/// What a tensor has become.
pub(crate) enum Finished {
    Matrix(Vec<Packed>),
    Vector(Vec<f32>),
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

pub(crate) fn format(name: &str, kind: TensorKind) -> Result<Format, ModelError> {
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

pub(crate) fn unsupported(name: &str, kind: TensorKind) -> ModelError {
    ModelError::UnsupportedTensorKind { name: name.to_owned(), found: format!("{kind:?}") }
}
