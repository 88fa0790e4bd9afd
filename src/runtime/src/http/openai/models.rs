//! `GET /v1/models` on the wire.

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<Model>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Model {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) created: i64,
    pub(crate) owned_by: String,
    /// The longest prompt and answer together, in tokens; not in OpenAI's format, and where vLLM puts it.
    pub(crate) max_model_len: usize,
}
