//! The checked pre-pass over a GGUF header.
//!
//! ```text
//! "GGUF" | u32 version | u64 tensors | u64 entries
//! entries × (string key | u32 type | value)
//! tensors × (string name | u32 dimensions | u64 × dimensions, innermost first | u32 type | u64 offset)
//! zeros up to the alignment | tensor data, each tensor aligned
//! ```
//!
//! Counts, lengths, dimensions and offsets in this header have been the way into more than one engine: products that wrap
//! to zero, allocations of whatever length the file names, tensors that reach beyond the file. Here each is capped or
//! checked before it is used, arithmetic is checked, and every byte of the file must belong to something.

mod reader;
mod value;

pub use value::{GgufArray, GgufValue};

use std::collections::{BTreeMap, HashSet};

use crate::digest::shorten;
use crate::error::WeightHeaderError;
use crate::limits;
use crate::tensor::{TensorInfo, TensorKind};
use reader::Reader;

/// A checked GGUF header (versions 2 and 3, little-endian).
#[derive(Debug, Clone, PartialEq)]
pub struct GgufHeader {
    /// The metadata, by key.
    pub metadata: BTreeMap<String, GgufValue>,
    /// The tensors in file order, with shapes outermost first.
    pub tensors: Vec<TensorInfo>,
    length: u64,
}

impl GgufHeader {
    /// Reads the header of a whole GGUF file in memory.
    ///
    /// # Errors
    /// [`WeightHeaderError`] for whatever does not fit.
    pub fn parse(file: &[u8]) -> Result<Self, WeightHeaderError> {
        Self::parse_prefix(file, file.len() as u64)
    }

    /// Reads the header from the first bytes of a file of `file_length` bytes. `bytes` must hold at least the header.
    ///
    /// # Errors
    /// [`WeightHeaderError`] for whatever does not fit; [`WeightHeaderError::Truncated`] when `bytes` ends inside it.
    pub fn parse_prefix(bytes: &[u8], file_length: u64) -> Result<Self, WeightHeaderError> {
        let bytes = usize::try_from(file_length).ok().and_then(|length| bytes.get(..length)).unwrap_or(bytes);
        let mut reader = Reader::new(bytes);
        let (tensor_count, entry_count) = read_preamble(&mut reader)?;
        let metadata = read_metadata(&mut reader, entry_count)?;
        let alignment = alignment(&metadata)?;
        let table = read_tensor_table(&mut reader, tensor_count)?;
        let (tensors, length) = place_tensors(table, &mut reader, alignment, file_length)?;
        Ok(Self { metadata, tensors, length })
    }

    /// The header's length in bytes: where the tensors' data starts, or the whole file if there are none.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

fn read_preamble(reader: &mut Reader<'_>) -> Result<(u64, u64), WeightHeaderError> {
    let magic = reader.take(4, "the magic number")?;
    if magic != b"GGUF" {
        let found = format!("{magic:02x?}");
        return Err(WeightHeaderError::Unknown { what: "the magic number", found, expected: "`GGUF`" });
    }
    let version = reader.u32("the version")?;
    if !matches!(version, 2 | 3) {
        let found = version.to_string();
        return Err(WeightHeaderError::Unknown { what: "the GGUF version", found, expected: "2 or 3 (little-endian)" });
    }
    let tensors = reader.count("the number of tensors", limits::MAX_TENSORS)?;
    let entries = reader.count("the number of metadata entries", limits::MAX_GGUF_METADATA_ENTRIES)?;
    Ok((tensors, entries))
}

fn read_metadata(reader: &mut Reader<'_>, count: u64) -> Result<BTreeMap<String, GgufValue>, WeightHeaderError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = reader.string("a metadata key", limits::MAX_GGUF_KEY_BYTES)?;
        let value = value::read(reader)?;
        if metadata.contains_key(&key) {
            return Err(WeightHeaderError::Repeated { what: "metadata key", name: shorten(&key) });
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, GgufValue>) -> Result<u64, WeightHeaderError> {
    const DEFAULT: u64 = 32;
    let refuse = |found| WeightHeaderError::Unknown {
        what: "general.alignment",
        found,
        expected: "a u32 power of two from 8 to 65536",
    };
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT),
        Some(GgufValue::U32(value)) => {
            let found = u64::from(*value);
            let fits = found.is_power_of_two() && (8..=limits::MAX_GGUF_ALIGNMENT).contains(&found);
            if fits { Ok(found) } else { Err(refuse(found.to_string())) }
        }
        Some(other) => Err(refuse(match other.as_u64() {
            Some(number) => format!("{number} in another integer type"),
            None => "no integer above 0".to_owned(),
        })),
    }
}

/// A tensor whose offset still counts from the start of the data section.
fn read_tensor_table(reader: &mut Reader<'_>, count: u64) -> Result<Vec<TensorInfo>, WeightHeaderError> {
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for _ in 0..count {
        let name = reader.string("a tensor's name", limits::MAX_TENSOR_NAME_BYTES)?;
        if !names.insert(name.clone()) {
            return Err(WeightHeaderError::Repeated { what: "tensor", name: shorten(&name) });
        }
        let refuse = |reason| WeightHeaderError::Tensor { tensor: shorten(&name), reason };
        let dimensions = reader.u32("a tensor's number of dimensions")?;
        if dimensions > limits::MAX_GGUF_DIMENSIONS {
            return Err(refuse("it has more than 4 dimensions"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let dimension = reader.u64("a tensor's dimension")?;
            if dimension == 0 {
                return Err(refuse("a dimension is 0"));
            }
            shape.push(usize::try_from(dimension).map_err(|_| refuse("its dimensions overflow"))?);
        }
        // GGUF writes the innermost dimension first.
        shape.reverse();
        let number = reader.u32("a tensor's type")?;
        let kind = TensorKind::from_gguf(number).ok_or_else(|| WeightHeaderError::Unknown {
            what: "a tensor's type",
            found: number.to_string(),
            expected: "one of F32 F16 BF16 F64 I8 I16 I32 I64 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K to Q6_K",
        })?;
        let offset = reader.u64("a tensor's offset")?;
        let length = kind.tensor_bytes(&name, &shape)?;
        tensors.push(TensorInfo { name, kind, shape, offset, length });
    }
    Ok(tensors)
}

/// Turns offsets into file offsets and checks that the tensors fill the file: aligned, in order, nothing between them but
/// the alignment's padding, nothing after them but the last one's.
fn place_tensors(
    mut tensors: Vec<TensorInfo>,
    reader: &mut Reader<'_>,
    alignment: u64,
    file_length: u64,
) -> Result<(Vec<TensorInfo>, u64), WeightHeaderError> {
    let table_end = reader.position();
    let aligned = table_end.next_multiple_of(alignment);
    // A file without tensors may end right after its table.
    let data_start = if tensors.is_empty() { aligned.min(file_length) } else { aligned };
    let padding = reader.take(data_start.saturating_sub(table_end), "the padding before the tensors")?;
    if padding.iter().any(|&byte| byte != 0) {
        return Err(WeightHeaderError::Unexplained { offset: table_end, found: data_start - table_end });
    }
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.length));
    let mut end = data_start;
    for tensor in &mut tensors {
        let name = shorten(&tensor.name);
        let refuse = |reason| WeightHeaderError::Tensor { tensor: name.clone(), reason };
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(refuse("its offset is not aligned"));
        }
        tensor.offset = tensor.offset.checked_add(data_start).ok_or_else(|| refuse("its offset overflows"))?;
        let expected = end.checked_next_multiple_of(alignment).ok_or_else(|| refuse("its offset overflows"))?;
        if tensor.offset < expected {
            return Err(refuse("it overlaps another tensor"));
        }
        if tensor.offset > expected {
            return Err(refuse("there is a hole before it"));
        }
        end = tensor.offset.checked_add(tensor.length).ok_or_else(|| refuse("its extent overflows"))?;
        if end > file_length {
            return Err(refuse("it reaches beyond the end of the file"));
        }
    }
    if file_length > end.next_multiple_of(alignment) {
        return Err(WeightHeaderError::Unexplained { offset: end, found: file_length - end });
    }
    Ok((tensors, data_start))
}
