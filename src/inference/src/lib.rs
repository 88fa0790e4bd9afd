//! Tokens in, tokens out: the models, the tokenizer and the engine.  Knows nothing of HTTP, files or clocks.

#[expect(dead_code, reason = "the engine's thread, which reads these, lands next")]
mod engine;
mod error;
mod event;
pub mod model;
mod profile;
mod request;
pub mod text;

pub use engine::{EngineConfig, EngineHandle, EngineState, EngineStats};
pub use error::{InferenceError, SubmitError};
pub use event::{EmbeddingTicket, Embeddings, FinishReason, Ticket, TokenEvent, TokenLogprobs, Usage};
pub use profile::{ModelKind, ModelProfile};
pub use request::{
    EmbeddingRequest, EndOfSequence, GenerationRequest, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, Sampling, StopRules,
    TokenMask,
};
