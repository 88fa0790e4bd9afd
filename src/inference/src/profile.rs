//! What a loaded model is, in the few figures that its users need: limits for requests, facts for metadata.

use std::fmt;

/// Facts about a loaded model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelProfile {
    /// What it can be asked for.
    pub kind: ModelKind,
    /// The architecture's name as the model's own files give it, for example `llama` or `bert`.
    pub architecture: String,
    /// How many parameters its tensors hold; a tied embedding counts once.
    pub parameters: u64,
    /// The most tokens that prompt and completion may have together (an encoder: that one input may have).
    pub context_length: usize,
    /// How many token ids there are.
    pub vocabulary_size: usize,
    /// The length of an embedding; `None` for a generator.
    pub embedding_dimension: Option<usize>,
    /// How the weights are stored, for example `F32`, `BF16` or `Q4_K`: the kind that most parameters have.
    pub quantisation: String,
}

/// What a model can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    /// It continues a token sequence.
    Generator,
    /// It turns a token sequence into a vector.
    Encoder,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ModelKind::Generator => "a generator (text in, text out)",
            ModelKind::Encoder => "an encoder (text in, vector out)",
        })
    }
}
