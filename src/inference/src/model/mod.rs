//! Decoder-only transformers: configuration and weights in, logits out.
//!
//! ```text
//! config.json | GGUF metadata ──► Config ──► WeightsSink ◄── verified tensor bytes
//!                                   │              │
//!                                   └──► Decoder ◄─┴─ Weights       KvCache: one per sequence
//! ```
//!
//! One implementation serves every family: what sets them apart is data in [`Config`], and what [`Config`] cannot
//! express is refused by name.  Weights in half precision are widened to single precision while they are loaded, which
//! is exact; all arithmetic outside of quantised products is in single precision.

mod adapter;
mod attention;
mod cache;
mod config;
mod decoder;
mod error;
mod feed_forward;
mod gguf_layout;
mod gradient;
mod input;
mod linear;
mod norm;
mod pass;
mod peft;
mod rope;
mod sink;
mod weights;

pub use crate::numbers::{Incoming, Numbers};
pub use adapter::{Adapter, LowRank};
pub use cache::KvCache;
pub use config::{
    Activation, Architecture, AttentionBias, AttentionSpan, Bias, Config, LayerConfig, LongRopeFactors, NormPlacement,
    NormWeight, OutputProjection, Projections, QueryKeyNorm, RopeConfig, RopeScaling, TensorNaming,
};
pub use decoder::{Decoder, SequenceStep};
pub use error::ModelError;
pub(crate) use gguf_layout::{hugging_face_name, paired_rows};
pub(crate) use input::InputLimits;
pub use peft::{PEFT_DOWN, PEFT_PREFIX, PEFT_UP};
pub(crate) use rope::Rope;
pub use sink::WeightsSink;
pub(crate) use sink::check_length;
pub use weights::{Weight, Weights};
pub(crate) use weights::{check_shape, is_derived};

/// Whether a pass must be differentiable; if so, the operators of `gradient` serve, if not, candle's fused ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gradient {
    Untracked,
    Tracked,
}
