//! The checked pre-pass over a safetensors header.
//!
//! ```text
//! u64 N, little-endian | N bytes of JSON | tensor data, contiguous
//! ```
//!
//! It refuses what a model parser would take on trust: duplicate names (most JSON parsers keep the last), overlapping
//! tensors, holes, bytes after the last tensor, extents that do not follow from shape and type.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::shorten;
use crate::error::{BundleError, WeightHeaderError};
use crate::json;
use crate::limits;
use crate::tensor::{TensorInfo, TensorKind};

/// A checked safetensors header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetensorsHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<TensorInfo>,
    length: u64,
}

impl SafetensorsHeader {
    /// Reads the header of a whole safetensors file in memory.
    ///
    /// # Errors
    /// [`WeightHeaderError`] for whatever does not fit.
    pub fn parse(file: &[u8]) -> Result<Self, WeightHeaderError> {
        Self::parse_prefix(file, file.len() as u64)
    }

    /// Reads the header from the first bytes of a file of `file_length` bytes. `bytes` must hold at least the header.
    ///
    /// # Errors
    /// [`WeightHeaderError`] for whatever does not fit.
    pub fn parse_prefix(bytes: &[u8], file_length: u64) -> Result<Self, WeightHeaderError> {
        let json_length = Self::json_length(bytes)?;
        let length = PREFIX_BYTES as u64 + json_length;
        let end = usize::try_from(length).expect("the cap fits");
        let text = bytes.get(PREFIX_BYTES..end).ok_or(WeightHeaderError::Truncated { what: "the JSON part" })?;
        if text.first() != Some(&b'{') {
            return Err(WeightHeaderError::Json { reason: "it does not begin with `{`".to_owned() });
        }
        // Writers pad the JSON with spaces, so that the data is aligned.
        let trimmed = text.trim_ascii_end();
        if text[trimmed.len()..].iter().any(|&byte| byte != b' ') {
            return Err(WeightHeaderError::Json { reason: "it is padded with other bytes than spaces".to_owned() });
        }
        let (metadata, tensors) = read_tensors(trimmed, length)?;
        check_extents(&tensors, length, file_length)?;
        Ok(Self { metadata, tensors, length })
    }

    /// How many bytes from the file's start must be read to have the whole header; `bytes` holds at least the first 8.
    ///
    /// # Errors
    /// [`WeightHeaderError`] when the length is missing or above its cap.
    pub fn needed_bytes(bytes: &[u8]) -> Result<u64, WeightHeaderError> {
        Ok(PREFIX_BYTES as u64 + Self::json_length(bytes)?)
    }

    fn json_length(bytes: &[u8]) -> Result<u64, WeightHeaderError> {
        let prefix = bytes.first_chunk::<PREFIX_BYTES>();
        let found = u64::from_le_bytes(*prefix.ok_or(WeightHeaderError::Truncated { what: "the header's length" })?);
        if found > limits::MAX_SAFETENSORS_HEADER_BYTES {
            return Err(WeightHeaderError::TooLarge {
                what: "the header's length in bytes",
                found,
                limit: limits::MAX_SAFETENSORS_HEADER_BYTES,
            });
        }
        Ok(found)
    }

    /// The free-form texts of `__metadata__`.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors in file order; together they fill the file after the header exactly.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The header's length in bytes: where the tensors' data starts.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }
}

const PREFIX_BYTES: usize = 8;
const METADATA: &str = "__metadata__";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

fn read_tensors(
    text: &[u8],
    data_start: u64,
) -> Result<(BTreeMap<String, String>, Vec<TensorInfo>), WeightHeaderError> {
    let json_error = |reason: String| WeightHeaderError::Json { reason };
    let tree = json::parse_value("safetensors header", text).map_err(|error| match error {
        BundleError::MalformedJson { reason, .. } => json_error(reason),
        other => json_error(other.to_string()),
    })?;
    let serde_json::Value::Object(members) = tree else {
        return Err(json_error("it is not an object".to_owned()));
    };
    let mut metadata = BTreeMap::new();
    let mut tensors = Vec::new();
    for (name, value) in members {
        if name == METADATA {
            metadata = serde_json::from_value(value)
                .map_err(|_| json_error("`__metadata__` holds more than texts".to_owned()))?;
            continue;
        }
        // Serde would take a list of the three values as well.
        if !value.is_object() {
            return Err(json_error(format!("tensor `{}` is not an object", shorten(&name))));
        }
        let wire: WireTensor = serde_json::from_value(value)
            .map_err(|error| json_error(format!("tensor `{}`: {}", shorten(&name), shorten(&error.to_string()))))?;
        tensors.push(check_tensor(name, wire, data_start)?);
        if tensors.len() as u64 > limits::MAX_TENSORS {
            return Err(WeightHeaderError::TooLarge {
                what: "the number of tensors",
                found: tensors.len() as u64,
                limit: limits::MAX_TENSORS,
            });
        }
    }
    tensors.sort_by_key(|tensor| (tensor.offset, tensor.length));
    Ok((metadata, tensors))
}

fn check_tensor(name: String, wire: WireTensor, data_start: u64) -> Result<TensorInfo, WeightHeaderError> {
    let refuse = |reason| WeightHeaderError::Tensor { tensor: shorten(&name), reason };
    if name.is_empty() || name.len() as u64 > limits::MAX_TENSOR_NAME_BYTES {
        return Err(refuse("its name is empty or longer than 256 bytes"));
    }
    let kind = TensorKind::from_safetensors(&wire.dtype).ok_or_else(|| refuse("its dtype is unknown"))?;
    if wire.shape.len() > limits::MAX_DIMENSIONS {
        return Err(refuse("it has more than 8 dimensions"));
    }
    let shape = wire
        .shape
        .iter()
        .map(|&dimension| usize::try_from(dimension))
        .collect::<Result<Vec<usize>, _>>()
        .map_err(|_| refuse("its dimensions overflow"))?;
    let length = kind.tensor_bytes(&name, &shape)?;
    let [begin, end] = wire.data_offsets;
    if end.checked_sub(begin) != Some(length) {
        return Err(refuse("its data_offsets do not give the length of its shape and dtype"));
    }
    let offset = data_start.checked_add(begin).ok_or_else(|| refuse("its data_offsets overflow"))?;
    Ok(TensorInfo { name, kind, shape, offset, length })
}

/// Tensors follow each other without hole or overlap and end where the file ends.
fn check_extents(tensors: &[TensorInfo], data_start: u64, file_length: u64) -> Result<(), WeightHeaderError> {
    let mut position = data_start;
    for tensor in tensors {
        let refuse = |reason| WeightHeaderError::Tensor { tensor: shorten(&tensor.name), reason };
        if tensor.offset < position {
            return Err(refuse("it overlaps another tensor"));
        }
        if tensor.offset > position {
            return Err(refuse("there is a hole before it"));
        }
        position = position.checked_add(tensor.length).ok_or_else(|| refuse("its extent overflows"))?;
        if position > file_length {
            return Err(refuse("it reaches beyond the end of the file"));
        }
    }
    if position != file_length {
        return Err(WeightHeaderError::Unexplained { offset: position, found: file_length.saturating_sub(position) });
    }
    Ok(())
}
