//! The decoder as it is served: weights packed for the kernels, keys and values in paged memory, many sequences in one pass.
//!
//! ```text
//! verified tensor bytes ──► PackedSink ──► PackedWeights ──► PackedDecoder        Workspace: what a pass needs of memory
//!                                                               │                 KvBlocks:  keys and values of all sequences
//!                                        [SequenceStep] ──forward──► logits
//! ```
//!
//! [`crate::model`] holds the same network over candle's tensors, for passes that are differentiated.  Both are built from one
//! [`Config`](crate::model::Config) and held against the same numbers of Transformers.

mod adapter;
mod decoder;
mod generator;
mod incoming;
mod layer;
mod linear;
mod rope;
mod rows;
mod sink;
mod weights;
mod workspace;

pub use adapter::PackedAdapter;
pub use decoder::{PackedDecoder, SequenceStep};
pub use generator::{Alone, Generator};
pub(crate) use incoming::{Finished, IncomingRows, RowOrder, packed_format};
pub(crate) use linear::Linear;
pub use sink::PackedSink;
pub use weights::PackedWeights;
pub(crate) use weights::Tensor;
pub use workspace::Workspace;
pub(crate) use workspace::sized;
