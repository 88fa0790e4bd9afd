//! The arithmetic that a served token costs, and nothing else: matrix products with packed weights, attention, norms, on
//! vectors where the processor has them.  Slices in, slices out: this crate knows no models, no files and no tensors.
//!
//! It is the one crate of the appliance's engine that holds `unsafe` code, and each block says what makes it sound.
//!
//! Every result is a function of its inputs' values and of what is summed, never of how many rows are computed at once,
//! nor of the number of threads: the order of a sum follows from its length, and of attention from the tokens' positions.
//!
//! In reading order: [`Isa`] is what the processor offers and `simd` the one vocabulary of vectors that kernels are written
//! in; [`Pool`] the threads and [`Buffer`] the memory; then the kernels, and in `limits` what they are measured against.

mod isa;
mod simd;

mod memory;
mod pool;
mod processor;

mod activations;
mod attention;
mod format;
mod limits;
mod math;
mod product;
pub mod rows;
mod weights;

pub use activations::{Activations, Form, Forms};
pub use attention::{Attention, BLOCK_TOKENS, KvBlocks, KvElement, Span, attend, attend_whole, bytes_per_block};
pub use format::Format;
pub use isa::{Isa, UnknownIsa};
pub use memory::{Buffer, Plain};
pub use pool::Pool;
pub use processor::Processor;
pub use product::{Product, Target};
pub use weights::{Packed, Packing};
