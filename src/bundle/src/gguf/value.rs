//! GGUF metadata values. Arrays are flat and typed, because no model needs an array of arrays.

use super::reader::Reader;
use crate::error::WeightHeaderError;
use crate::limits;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the types of the GGUF format")]
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(GgufArray),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A flat array of one type.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the types of the GGUF format")]
pub enum GgufArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Strings(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl GgufValue {
    /// The value as an unsigned integer, if it is an integer that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::I8(value) => value.try_into().ok(),
            Self::I16(value) => value.try_into().ok(),
            Self::I32(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The value as a floating-point number, if it is one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// The value as a truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The value as text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }

    /// The value as an array, if it is one.
    #[must_use]
    pub fn as_array(&self) -> Option<&GgufArray> {
        match self {
            Self::Array(value) => Some(value),
            _ => None,
        }
    }

    /// The value as an array of texts, if it is one.
    #[must_use]
    pub fn as_strings(&self) -> Option<&[String]> {
        match self {
            Self::Array(GgufArray::Strings(values)) => Some(values),
            _ => None,
        }
    }
}

impl GgufArray {
    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::I8(values) => values.len(),
            Self::U16(values) => values.len(),
            Self::I16(values) => values.len(),
            Self::U32(values) => values.len(),
            Self::I32(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::Bool(values) => values.len(),
            Self::Strings(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const ARRAY: u32 = 9;

/// Reads a type number and a value of that type.
pub(super) fn read(reader: &mut Reader<'_>) -> Result<GgufValue, WeightHeaderError> {
    const WHAT: &str = "a metadata value";
    Ok(match reader.u32("a metadata value's type")? {
        0 => GgufValue::U8(u8::from_le_bytes(reader.array(WHAT)?)),
        1 => GgufValue::I8(i8::from_le_bytes(reader.array(WHAT)?)),
        2 => GgufValue::U16(u16::from_le_bytes(reader.array(WHAT)?)),
        3 => GgufValue::I16(i16::from_le_bytes(reader.array(WHAT)?)),
        4 => GgufValue::U32(u32::from_le_bytes(reader.array(WHAT)?)),
        5 => GgufValue::I32(i32::from_le_bytes(reader.array(WHAT)?)),
        6 => GgufValue::F32(f32::from_le_bytes(reader.array(WHAT)?)),
        7 => GgufValue::Bool(truth(reader.array(WHAT)?)?),
        8 => GgufValue::String(reader.string("a metadata text", limits::MAX_GGUF_STRING_BYTES)?),
        ARRAY => GgufValue::Array(read_array(reader)?),
        10 => GgufValue::U64(u64::from_le_bytes(reader.array(WHAT)?)),
        11 => GgufValue::I64(i64::from_le_bytes(reader.array(WHAT)?)),
        12 => GgufValue::F64(f64::from_le_bytes(reader.array(WHAT)?)),
        number => return Err(unknown_type(number)),
    })
}

fn read_array(reader: &mut Reader<'_>) -> Result<GgufArray, WeightHeaderError> {
    let element = reader.u32("an array's element type")?;
    let count = reader.count("an array's length", limits::MAX_GGUF_ARRAY_LENGTH)?;
    Ok(match element {
        0 => GgufArray::U8(numbers(reader, count, u8::from_le_bytes)?),
        1 => GgufArray::I8(numbers(reader, count, i8::from_le_bytes)?),
        2 => GgufArray::U16(numbers(reader, count, u16::from_le_bytes)?),
        3 => GgufArray::I16(numbers(reader, count, i16::from_le_bytes)?),
        4 => GgufArray::U32(numbers(reader, count, u32::from_le_bytes)?),
        5 => GgufArray::I32(numbers(reader, count, i32::from_le_bytes)?),
        6 => GgufArray::F32(numbers(reader, count, f32::from_le_bytes)?),
        7 => {
            let bytes = reader.take(count, "an array")?;
            GgufArray::Bool(bytes.iter().map(|&byte| truth([byte])).collect::<Result<_, _>>()?)
        }
        8 => GgufArray::Strings(strings(reader, count)?),
        10 => GgufArray::U64(numbers(reader, count, u64::from_le_bytes)?),
        11 => GgufArray::I64(numbers(reader, count, i64::from_le_bytes)?),
        12 => GgufArray::F64(numbers(reader, count, f64::from_le_bytes)?),
        number => return Err(unknown_type(number)),
    })
}

/// Takes all bytes first, so that what is allocated is bounded by what is there.
fn numbers<T, const N: usize>(
    reader: &mut Reader<'_>,
    count: u64,
    convert: fn([u8; N]) -> T,
) -> Result<Vec<T>, WeightHeaderError> {
    let length = count.checked_mul(N as u64).ok_or(WeightHeaderError::Truncated { what: "an array" })?;
    let (elements, _) = reader.take(length, "an array")?.as_chunks::<N>();
    Ok(elements.iter().map(|&element| convert(element)).collect())
}

fn strings(reader: &mut Reader<'_>, count: u64) -> Result<Vec<String>, WeightHeaderError> {
    // Each string takes at least its eight bytes of length.
    if count > reader.remaining() / 8 {
        return Err(WeightHeaderError::Truncated { what: "an array of texts" });
    }
    (0..count).map(|_| reader.string("a text in an array", limits::MAX_GGUF_STRING_BYTES)).collect()
}

fn truth(byte: [u8; 1]) -> Result<bool, WeightHeaderError> {
    match byte {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => {
            Err(WeightHeaderError::Unknown { what: "a truth value", found: other.to_string(), expected: "0 or 1" })
        }
    }
}

fn unknown_type(number: u32) -> WeightHeaderError {
    WeightHeaderError::Unknown {
        what: "a metadata value's type",
        found: number.to_string(),
        expected: "a type of the GGUF format; arrays are flat",
    }
}
