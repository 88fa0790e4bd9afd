//! The memory of one tensor while it is read: numbers become f32 as they arrive, so that they are in memory once; all
//! else is kept as it stands in the file.

use ampoule_bundle::{TensorBytes, TensorKind, TensorMemory};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// How many bytes wait to be widened; they stay in the cache.
const PIECE_BYTES: usize = 256 << 10;

/// Where a tensor goes.
#[derive(Debug)]
pub enum Incoming {
    /// Numbers, widened to f32, which is exact for the half-precision types.
    Numbers(Numbers),
    /// Bytes as they stand in the file.
    Bytes(TensorBytes),
}

/// Numbers that are widened piece by piece.
#[derive(Debug)]
pub struct Numbers {
    kind: TensorKind,
    piece: Vec<u8>,
    /// How many bytes are still to come.
    left: usize,
    values: Vec<f32>,
}

impl Incoming {
    /// Room for `length` bytes of a tensor of this kind; widened if they are numbers.
    pub(crate) fn new(kind: TensorKind, length: usize) -> Incoming {
        let bytes_each = match kind {
            TensorKind::F32 => 4,
            TensorKind::F16 | TensorKind::BF16 => 2,
            _ => return Incoming::as_they_stand(length),
        };
        let (piece, values) = (vec![0; PIECE_BYTES.min(length)], Vec::with_capacity(length / bytes_each));
        Incoming::Numbers(Numbers { kind, piece, left: length, values })
    }

    /// Room for bytes that are not looked at on the way.
    pub(crate) fn as_they_stand(length: usize) -> Incoming {
        Incoming::Bytes(TensorBytes::new(length))
    }
}

impl Numbers {
    pub(crate) fn into_values(self) -> Vec<f32> {
        self.values
    }
}

impl TensorMemory for Incoming {
    fn room(&mut self) -> &mut [u8] {
        match self {
            Incoming::Numbers(numbers) => {
                let count = numbers.left.min(PIECE_BYTES);
                &mut numbers.piece[..count]
            }
            Incoming::Bytes(bytes) => bytes.room(),
        }
    }

    fn filled(&mut self, count: usize) {
        match self {
            Incoming::Numbers(numbers) => {
                widen(numbers.kind, &numbers.piece[..count], &mut numbers.values);
                numbers.left -= count;
            }
            Incoming::Bytes(bytes) => bytes.filled(count),
        }
    }
}

/// Adds the numbers in `bytes` to `values`.
pub(crate) fn widen(kind: TensorKind, bytes: &[u8], values: &mut Vec<f32>) {
    let pairs = || bytes.as_chunks::<2>().0.iter().copied();
    match kind {
        TensorKind::F16 => values.extend(pairs().map(f16::from_le_bytes).collect::<Vec<f16>>().to_f32_vec()),
        TensorKind::BF16 => values.extend(pairs().map(bf16::from_le_bytes).collect::<Vec<bf16>>().to_f32_vec()),
        _ => values.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))),
    }
}
