//! What is computed on single rows of numbers, between the products.

mod narrow;
mod quantize;

pub(crate) use narrow::{narrow, round_and_swap};
pub(crate) use quantize::quantize;
