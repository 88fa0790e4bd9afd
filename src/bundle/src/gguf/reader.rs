//! Reads little-endian numbers and strings from a GGUF header, never past its end.

use crate::error::WeightHeaderError;

/// A position in the bytes of a header.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// How many bytes have been read.
    pub(super) fn position(&self) -> u64 {
        self.position as u64
    }

    /// How many bytes are left.
    pub(super) fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    pub(super) fn take(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], WeightHeaderError> {
        let end = usize::try_from(count).ok().and_then(|count| self.position.checked_add(count));
        let taken = end.and_then(|end| self.bytes.get(self.position..end));
        let taken = taken.ok_or(WeightHeaderError::Truncated { what })?;
        self.position += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WeightHeaderError> {
        Ok(self.take(N as u64, what)?.try_into().expect("take gives exactly the number asked for"))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, WeightHeaderError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, WeightHeaderError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count or length that must not be above `limit`.
    pub(super) fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, WeightHeaderError> {
        let found = self.u64(what)?;
        if found > limit {
            return Err(WeightHeaderError::TooLarge { what, found, limit });
        }
        Ok(found)
    }

    /// A length-prefixed UTF-8 string of at most `limit` bytes.
    pub(super) fn string(&mut self, what: &'static str, limit: u64) -> Result<String, WeightHeaderError> {
        let length = self.count(what, limit)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| WeightHeaderError::Text { what })
    }
}
