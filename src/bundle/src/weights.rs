//! The weight files of a bundle: their checked headers, and where their bytes lie.

use crate::age::Cipher;
use crate::digest::Digest;
use crate::error::{BundleError, WeightHeaderError};
use crate::gguf::GgufHeader;
use crate::limits;
use crate::manifest::WeightFormat;
use crate::names::BundlePath;
use crate::safetensors::SafetensorsHeader;
use crate::source::{Source, read_exact_at};
use crate::tensor::TensorInfo;

/// A weight file whose header was verified and then checked.
#[derive(Debug, Clone)]
pub struct WeightFile {
    /// Its path.
    pub path: BundlePath,
    /// Its checked header.
    pub header: WeightHeader,
    /// Its length in bytes, decrypted.
    pub length: u64,
    /// Its digest, decrypted, against which loading checks the whole file.
    pub digest: Digest,
    /// Where its content starts in the bundle file.
    pub(crate) offset: u64,
    /// Its first bytes as they lie in the bundle, verified; loading takes these and does not read them again.
    pub(crate) start: Vec<u8>,
    /// What an encrypted one is as it lies in the bundle.
    pub(crate) sealed: Option<SealedWeights>,
}

/// A weight file as it lies in an encrypted bundle.
#[derive(Debug, Clone)]
pub(crate) struct SealedWeights {
    /// What opens it.
    pub(crate) cipher: Cipher,
    /// The digest of the age file.
    pub(crate) digest: Digest,
    /// The length in bytes of the age file.
    pub(crate) length: u64,
}

/// A checked header, by format.
#[derive(Debug, Clone)]
pub enum WeightHeader {
    /// Of a safetensors file.
    Safetensors(SafetensorsHeader),
    /// Of a GGUF file.
    Gguf(GgufHeader),
}

impl WeightHeader {
    /// The tensors in file order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        match self {
            Self::Safetensors(header) => header.tensors(),
            Self::Gguf(header) => &header.tensors,
        }
    }

    /// The header's length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Safetensors(header) => header.length(),
            Self::Gguf(header) => header.length(),
        }
    }

    /// The most bytes that a header of this format may have, as it lies in the bundle.
    pub(crate) fn most_bytes(format: Option<WeightFormat>, encrypted: bool) -> u64 {
        let plain = match format {
            // Eight bytes before it say how long it is.
            Some(WeightFormat::Safetensors) => limits::MAX_SAFETENSORS_HEADER_BYTES + 8,
            Some(WeightFormat::Gguf) | None => limits::MAX_GGUF_HEADER_BYTES,
        };
        // The age header, the rest of a chunk, and a tag for each: far less than an eighth more.
        if encrypted { plain + plain / 8 } else { plain }
    }

    /// Reads and checks the header of a weight file that is not in a bundle yet; a sealer signs its length and digest.
    /// Returns the header and its bytes.
    ///
    /// # Errors
    /// [`BundleError::WeightHeader`] when it does not fit, [`BundleError::Io`] when it cannot be read.
    pub fn read(path: &BundlePath, format: WeightFormat, source: &dyn Source) -> Result<(Self, Vec<u8>), BundleError> {
        let what = path.as_str();
        let file_length = source.length().map_err(|source| BundleError::Io { what: what.to_owned(), source })?;
        let refuse = |defect| BundleError::WeightHeader { path: path.to_string(), defect };
        let wanted = match format {
            WeightFormat::Safetensors => {
                let mut prefix = vec![0; usize::try_from(file_length.min(8)).expect("at most 8")];
                read_exact_at(source, &mut prefix, 0, what)?;
                SafetensorsHeader::needed_bytes(&prefix).map_err(refuse)?
            }
            // A GGUF header does not say how long it is.
            WeightFormat::Gguf => limits::MAX_GGUF_HEADER_BYTES,
        };
        let mut bytes = vec![0; usize::try_from(wanted.min(file_length)).expect("the cap fits")];
        read_exact_at(source, &mut bytes, 0, what)?;
        let header = Self::parse(format, &bytes, file_length).map_err(refuse)?;
        bytes.truncate(usize::try_from(header.length()).expect("not longer than what was read"));
        Ok((header, bytes))
    }

    pub(crate) fn parse(format: WeightFormat, bytes: &[u8], file_length: u64) -> Result<Self, WeightHeaderError> {
        match format {
            WeightFormat::Safetensors => SafetensorsHeader::parse_prefix(bytes, file_length).map(Self::Safetensors),
            WeightFormat::Gguf => GgufHeader::parse_prefix(bytes, file_length).map(Self::Gguf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encrypted_header_may_be_an_eighth_longer() {
        const MIB: u64 = 1 << 20;
        for (format, plain, encrypted) in [
            (Some(WeightFormat::Safetensors), 16 * MIB + 8, 18 * MIB + 9),
            (Some(WeightFormat::Gguf), 64 * MIB, 72 * MIB),
            (None, 64 * MIB, 72 * MIB),
        ] {
            let most = |encrypted| WeightHeader::most_bytes(format, encrypted);
            assert_eq!((most(false), most(true)), (plain, encrypted), "{format:?}");
        }
    }
}
