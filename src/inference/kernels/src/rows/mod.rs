//! What is computed on single rows of numbers, between the products.

mod quantize;

pub(crate) use quantize::quantize;
