//! Tokens in, tokens out: the models, the tokenizer and the engine.  Knows nothing of HTTP, files or clocks.
//!
//! In reading order: a bundle becomes a model ([`LoadedModel`]), the model becomes an engine ([`EngineHandle`]), and the
//! engine turns a [`GenerationRequest`] into [`TokenEvent`]s.  Below stand the parts that it is made of.

mod adapters;
mod benchmark;
mod dense;
mod describe;
mod footprint;
mod known_answers;
mod load;
mod numbers;
pub mod packed;
mod profile;
mod proof;
mod trainable;

mod engine;
mod event;
mod request;

mod generation;
pub mod sampling;
pub mod scheduler;
mod stop;

pub mod encoder;
pub mod hardware;
pub mod model;
pub mod text;

mod error;

pub use adapters::{Adapters, IfTaken, LoadedAdapter};
pub use benchmark::{Benchmark, HostLimits};
pub use engine::{EngineConfig, EngineHandle, EngineState, EngineStats};
pub use error::{InferenceError, SubmitError};
pub use event::{EmbeddingTicket, Embeddings, FinishReason, Ticket, TokenEvent, TokenLogprobs, Usage};
pub use footprint::footprint;
pub use known_answers::{Comparison, Miss, Recording};
pub use load::{LoadOptions, LoadedModel, ReadyModel};
pub use profile::{ModelKind, ModelProfile};
pub use request::{
    EmbeddingRequest, EndOfSequence, GenerationRequest, MAX_STOP_STRING_BYTES, MAX_STOP_STRINGS, Sampling, StopRules,
    TokenMask,
};
pub use trainable::TrainableModel;
