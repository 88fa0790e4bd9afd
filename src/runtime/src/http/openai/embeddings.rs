//! `POST /v1/embeddings` on the wire.

use serde::{Deserialize, Serialize};

use super::value::{Ignored, Inputs, Integer};

/// The request body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EmbeddingRequest {
    pub(crate) model: String,
    pub(crate) input: Inputs,
    pub(crate) encoding_format: Option<String>,
    pub(crate) dimensions: Option<Integer>,
    #[serde(rename = "user")]
    _user: Option<Ignored>,
}

/// The reply.
#[derive(Debug, Serialize)]
pub(crate) struct EmbeddingList {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<EmbeddingItem>,
    pub(crate) model: String,
    pub(crate) usage: EmbeddingUsage,
}

#[derive(Debug, Serialize)]
pub(crate) struct EmbeddingItem {
    pub(crate) object: &'static str,
    pub(crate) index: usize,
    pub(crate) embedding: EmbeddingValue,
}

/// The vector: numbers, or base64 of its little-endian 32-bit floats, which is what the stock client asks for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum EmbeddingValue {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize)]
pub(crate) struct EmbeddingUsage {
    pub(crate) prompt_tokens: u64,
    pub(crate) total_tokens: u64,
}
