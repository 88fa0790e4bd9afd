//! Why a model is not quantised.

use std::path::PathBuf;

use crate::quantize::NotQuantizable;

/// What stands in the way of quantising a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConversionError {
    /// An encoder in another format than the one that it is computed in.
    #[error(
        "this model is an encoder, and the only format that encoders are quantised to is q8_0: say --quantize q8_0"
    )]
    EncoderFormat,
    /// Nothing says what the tensors are.
    #[error("the folder has no config.json, which describes a quantised model: add it, or seal without --quantize")]
    NoConfig,
    /// A tensor that a GGUF file cannot hold.
    #[error(
        "{tensor} is {found}, and the quantised file has no place for it: beside blocks it holds tensors of GGUF's kinds, of up to 4 dimensions, none of them 0"
    )]
    NoPlaceInGguf {
        /// The tensor.
        tensor: String,
        /// Its kind and shape.
        found: String,
    },
    /// Numbers that no block can stand for.
    #[error("{tensor} cannot be quantised")]
    NotQuantizable {
        /// The tensor.
        tensor: String,
        /// What is wrong with its numbers.
        source: NotQuantizable,
    },
    /// A small thing that is added to a model.
    #[error("an adapter is served in the precision that it was trained in: --quantize goes with the base")]
    OfAdapter,
    /// A file whose tensors are what they are.
    #[error(
        "{path} is a GGUF file, and what is quantised are safetensors: seal it without --quantize, or take the folder that it was made from"
    )]
    OfGguf {
        /// The file.
        path: PathBuf,
    },
}

impl ConversionError {
    /// The process's exit code: what was asked cannot be meant, or the model is not fit for it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            ConversionError::EncoderFormat | ConversionError::OfAdapter | ConversionError::OfGguf { .. } => 2,
            _ => 1,
        }
    }
}
