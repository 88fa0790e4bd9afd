//! What a weight file can hold: element types, block formats, and tensors as they are handed over.

use crate::error::WeightHeaderError;

/// The element type or block format of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are those of the safetensors and GGUF formats")]
pub enum TensorKind {
    F32,
    F16,
    BF16,
    F64,
    F8E4M3,
    F8E5M2,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
}

/// The types that a safetensors file can hold, by their names there.
const SAFETENSORS_NAMES: [(TensorKind, &str); 15] = [
    (TensorKind::F32, "F32"),
    (TensorKind::F16, "F16"),
    (TensorKind::BF16, "BF16"),
    (TensorKind::F64, "F64"),
    (TensorKind::F8E4M3, "F8_E4M3"),
    (TensorKind::F8E5M2, "F8_E5M2"),
    (TensorKind::I8, "I8"),
    (TensorKind::I16, "I16"),
    (TensorKind::I32, "I32"),
    (TensorKind::I64, "I64"),
    (TensorKind::U8, "U8"),
    (TensorKind::U16, "U16"),
    (TensorKind::U32, "U32"),
    (TensorKind::U64, "U64"),
    (TensorKind::Bool, "BOOL"),
];

/// The types that a GGUF file can hold, by their numbers there.
const GGUF_NUMBERS: [(TensorKind, u32); 18] = [
    (TensorKind::F32, 0),
    (TensorKind::F16, 1),
    (TensorKind::Q4_0, 2),
    (TensorKind::Q4_1, 3),
    (TensorKind::Q5_0, 6),
    (TensorKind::Q5_1, 7),
    (TensorKind::Q8_0, 8),
    (TensorKind::Q2K, 10),
    (TensorKind::Q3K, 11),
    (TensorKind::Q4K, 12),
    (TensorKind::Q5K, 13),
    (TensorKind::Q6K, 14),
    (TensorKind::I8, 24),
    (TensorKind::I16, 25),
    (TensorKind::I32, 26),
    (TensorKind::I64, 27),
    (TensorKind::F64, 28),
    (TensorKind::BF16, 30),
];

impl TensorKind {
    /// How many elements one block holds; 1 for plain element types.
    #[must_use]
    pub fn block_elements(self) -> u64 {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => 256,
            _ => 1,
        }
    }

    /// How many bytes one block takes.
    #[must_use]
    pub fn block_bytes(self) -> u64 {
        match self {
            Self::I8 | Self::U8 | Self::Bool | Self::F8E4M3 | Self::F8E5M2 => 1,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
            // A half-precision scale (and minimum), then packed quants (and their high bits).
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            // Super-blocks of 256: scales, quants, high bits, then the half-precision super-scales.
            Self::Q2K => 16 + 64 + 2 + 2,
            Self::Q3K => 32 + 64 + 12 + 2,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q5K => 2 + 2 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// The name that safetensors gives this type, if it has one.
    #[must_use]
    pub fn safetensors_name(self) -> Option<&'static str> {
        SAFETENSORS_NAMES.iter().find(|(kind, _)| *kind == self).map(|(_, name)| *name)
    }

    /// The type that safetensors gives this name.
    pub(crate) fn from_safetensors(name: &str) -> Option<Self> {
        SAFETENSORS_NAMES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }

    /// The type with this number in a GGUF tensor table.
    pub(crate) fn from_gguf(number: u32) -> Option<Self> {
        GGUF_NUMBERS.iter().find(|(_, known)| *known == number).map(|(kind, _)| *kind)
    }

    /// The number that a GGUF tensor table gives this type, if it has one.
    #[must_use]
    pub fn gguf_number(self) -> Option<u32> {
        GGUF_NUMBERS.iter().find(|(kind, _)| *kind == self).map(|(_, number)| *number)
    }

    /// The number of bytes of a tensor of this kind. `shape` is outermost first; blocks run along its last dimension.
    pub(crate) fn tensor_bytes(self, name: &str, shape: &[usize]) -> Result<u64, WeightHeaderError> {
        let refuse = |reason| WeightHeaderError::Tensor { tensor: crate::digest::shorten(name), reason };
        // An empty dimension must not hide that the others overflow: strides are their products.
        let mut elements: u64 = 1;
        for &dimension in shape {
            elements =
                elements.checked_mul(dimension.max(1) as u64).ok_or_else(|| refuse("its dimensions overflow"))?;
        }
        if shape.contains(&0) {
            elements = 0;
        }
        let innermost = shape.last().copied().unwrap_or(1) as u64;
        if !innermost.is_multiple_of(self.block_elements()) {
            return Err(refuse("its last dimension is not a whole number of blocks"));
        }
        (elements / self.block_elements())
            .checked_mul(self.block_bytes())
            .ok_or_else(|| refuse("its size in bytes overflows"))
    }
}

/// Where a tensor lies in its file and what it is. The header it came from was verified and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name in the file.
    pub name: String,
    /// Its element type or block format.
    pub kind: TensorKind,
    /// Its dimensions, outermost first (GGUF's order reversed); empty for a scalar.
    pub shape: Vec<usize>,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Its length in bytes, which shape and kind give.
    pub length: u64,
}

impl TensorInfo {
    /// The tensor as it is handed to a [`TensorSink`].
    #[must_use]
    pub fn entry(&self) -> TensorEntry<'_> {
        TensorEntry { name: &self.name, kind: self.kind, shape: &self.shape }
    }
}

/// A tensor's description while it is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorEntry<'a> {
    /// The tensor's name in its file.
    pub name: &'a str,
    /// Its element type or block format.
    pub kind: TensorKind,
    /// Its dimensions, outermost first.
    pub shape: &'a [usize],
}

/// Where the bytes of one tensor go while they are read. It is written to in order, and once.
pub trait TensorMemory {
    /// Where the next bytes go: at least one, while any is missing.
    fn room(&mut self) -> &mut [u8];

    /// The first `count` bytes of the room are filled. Only the last piece of a tensor is no multiple of 8 bytes.
    fn filled(&mut self, count: usize);

    /// Fills it from a slice, for whoever has the bytes already.
    fn fill_from(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.room();
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
            self.filled(count);
            bytes = &bytes[count..];
        }
    }
}

/// Takes tensors while they are read, and gives out what it made of them only when all digests have matched.
pub trait TensorSink: Sync {
    /// What the tensors become.
    type Output;
    /// Why a tensor cannot be taken.
    type Error: std::error::Error;
    /// Where a tensor's bytes go.
    type Memory: TensorMemory;

    /// Gives room for a tensor of `length` bytes, which come in file order, little-endian. Called from several threads, once
    /// per tensor, in no particular order.
    ///
    /// # Errors
    /// Whatever makes the tensor unusable; loading stops then.
    fn open(&self, tensor: TensorEntry<'_>, length: usize) -> Result<Self::Memory, Self::Error>;

    /// Takes a tensor whose memory is filled. The bytes are not verified yet: CAUTION, nothing may leave the sink before
    /// [`TensorSink::finish`].
    ///
    /// # Errors
    /// As [`TensorSink::open`].
    fn place(&self, tensor: TensorEntry<'_>, memory: Self::Memory) -> Result<(), Self::Error>;

    /// Gives out the result. Called only after the digest of every weight file has matched.
    ///
    /// # Errors
    /// Whatever makes the whole unusable, for example a tensor that is missing.
    fn finish(self) -> Result<Self::Output, Self::Error>;
}
