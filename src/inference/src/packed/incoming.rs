//! The memory of one tensor while it is read: a matrix is packed as its rows arrive, a vector kept until it is whole.

use ampoule_bundle::{TensorKind, TensorMemory};
use ampoule_kernels::{Format, Packed, Packing};

use crate::model::ModelError;
use crate::numbers;

/// How many bytes of rows wait to be packed: each room costs a call of the system, and these stay in the cache.
const WAITING_BYTES: usize = 256 << 10;

/// The memory of one tensor while it is read.
#[derive(Debug)]
pub struct IncomingRows {
    /// Room for some whole rows, or for a whole vector.
    bytes: Vec<u8>,
    /// How many of the bytes are there.
    filled: usize,
    /// How many rows were packed.
    taken: usize,
    kept: Kept,
}

/// What is kept of the bytes.
#[derive(Debug)]
enum Kept {
    /// A matrix, or the parts of a fused one: the row where each ends, and its packing.
    Matrix { parts: Vec<(usize, Packing)>, order: RowOrder, row_bytes: usize },
    /// A vector's bytes themselves.
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
        IncomingRows { bytes: vec![0; length], filled: 0, taken: 0, kept: Kept::Vector }
    }

    /// Room for a matrix with rows of `inputs` numbers, of which each part ends at the row that is given.
    pub(crate) fn matrix(
        format: Format,
        ends: impl IntoIterator<Item = usize>,
        inputs: usize,
        order: RowOrder,
    ) -> Self {
        let mut parts = Vec::new();
        let mut rows = 0;
        for end in ends {
            parts.push((end, Packing::new(format, end - rows, inputs)));
            rows = end;
        }
        let row_bytes = format.row_bytes(inputs);
        let rows_at_once = (WAITING_BYTES / row_bytes).min(rows).max(1);
        let kept = Kept::Matrix { parts, order, row_bytes };
        IncomingRows { bytes: vec![0; rows_at_once * row_bytes], filled: 0, taken: 0, kept }
    }

    /// The matrix's parts, or a vector's numbers.
    pub(crate) fn finish(self, name: &str, kind: TensorKind) -> Result<Finished, ModelError> {
        match self.kept {
            Kept::Matrix { parts, .. } => {
                Ok(Finished::Matrix(parts.into_iter().map(|(_, packing)| packing.finish()).collect()))
            }
            Kept::Vector => match kind {
                TensorKind::F32 | TensorKind::F16 | TensorKind::BF16 => {
                    let mut values = Vec::new();
                    numbers::widen(kind, &self.bytes, &mut values);
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
        &mut self.bytes[self.filled..]
    }

    fn filled(&mut self, count: usize) {
        self.filled += count;
        let Kept::Matrix { parts, order, row_bytes } = &mut self.kept else { return };
        let whole = self.filled - self.filled % *row_bytes;
        for bytes in self.bytes[..whole].chunks_exact(*row_bytes) {
            let row = order.of(self.taken);
            let mut start = 0;
            for (end, packing) in parts.iter_mut() {
                if row < *end {
                    packing.put(row - start, bytes);
                    break;
                }
                start = *end;
            }
            self.taken += 1;
        }
        // The beginning of a row waits for what is missing of it.
        self.bytes.copy_within(whole..self.filled, 0);
        self.filled -= whole;
    }
}

/// The format of a matrix that is stored so.
pub(crate) fn packed_format(name: &str, kind: TensorKind) -> Result<Format, ModelError> {
    Ok(match kind {
        TensorKind::F32 => Format::F32,
        TensorKind::F16 => Format::F16,
        TensorKind::BF16 => Format::BF16,
        TensorKind::Q8_0 => Format::Q8_0,
        TensorKind::Q4_0 => Format::Q4_0,
        TensorKind::Q5_0 => Format::Q5_0,
        TensorKind::Q4K => Format::Q4_K,
        TensorKind::Q5K => Format::Q5_K,
        TensorKind::Q6K => Format::Q6_K,
        other => return Err(unsupported(name, other)),
    })
}

pub(crate) fn unsupported(name: &str, kind: TensorKind) -> ModelError {
    ModelError::UnsupportedTensorKind { name: name.to_owned(), found: format!("{kind:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of a matrix whose bytes come in pieces of so many at most.
    fn rows(ends: &[usize], inputs: usize, mut bytes: &[u8], most: usize) -> Vec<Vec<f32>> {
        let mut memory = IncomingRows::matrix(Format::F32, ends.iter().copied(), inputs, RowOrder::AsInFile);
        while !bytes.is_empty() {
            let room = memory.room();
            let count = room.len().min(bytes.len()).min(most);
            room[..count].copy_from_slice(&bytes[..count]);
            memory.filled(count);
            bytes = &bytes[count..];
        }
        let Ok(Finished::Matrix(parts)) = memory.finish("matrix", TensorKind::F32) else { panic!("it is a matrix") };
        let mut rows = Vec::new();
        for part in parts {
            for output in 0..part.outputs() {
                let mut row = vec![0.0; inputs];
                part.row(output, &mut row);
                rows.push(row);
            }
        }
        rows
    }

    #[test]
    fn rows_are_whole_however_their_bytes_arrive() {
        // The second matrix has rows longer than what waits, the third more of them than fit.
        let cases: [(&[usize], usize, &[usize]); 3] = [
            (&[1, 3], 5, &[1, 7, 20, 39, 60]),
            (&[2], WAITING_BYTES / 4 + 3, &[WAITING_BYTES, usize::MAX]),
            (&[700, 1500], 63, &[1000, usize::MAX]),
        ];
        for (ends, inputs, pieces) in cases {
            let outputs = ends.last().copied().unwrap_or(0);
            let numbers: Vec<f32> = (0..outputs * inputs).map(|number| number as f32).collect();
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let expected: Vec<&[f32]> = numbers.chunks(inputs).collect();
            for &most in pieces {
                assert_eq!(rows(ends, inputs, &bytes, most), expected, "{ends:?} in pieces of {most}");
            }
        }
    }
}
