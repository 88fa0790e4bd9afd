//! What is computed on single rows of numbers, between the products.

mod narrow;
mod quantize;

pub(crate) use narrow::narrow;
pub(crate) use quantize::quantize;
