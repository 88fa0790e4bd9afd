//! What is computed on single rows of numbers, between the products.
//!
//! Each function takes one row, of any length: what is left of it after the last whole vector is computed in a vector
//! of its own.  A sum is taken in an order that the length of the row alone decides.

mod activation;
mod map;
mod narrow;
mod norm;
mod quantize;
mod rotate;

pub use activation::{gelu, gelu_tanh, gelu_tanh_times, gelu_times, silu_times, softcap};
pub(crate) use map::load_part;
pub use map::{add, scale};
pub(crate) use narrow::{narrow, round_and_swap};
pub use norm::{layer_norm, layer_norm_in_place, rms_norm, rms_norm_in_place};
pub(crate) use quantize::{quantize, scale_of_bytes};
pub use rotate::rotate;
