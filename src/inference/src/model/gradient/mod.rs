//! The operators of a pass that is trained, each with a backward pass of its own.
//!
//! candle differentiates any formula, one elementary operation after another, and keeps every step of it: a norm becomes
//! seven tensors, a rotation nine, and each gradient is a tensor of zeros to which another is added. The operators here
//! keep their arguments alone and compute the rest anew on the way back, row by row.
//!
//! Rows are divided among the threads of rayon, never a sum: every sum runs over a fixed number of lanes in a fixed
//! order, so that a result depends neither on the number of threads nor on the width of the processor's vectors.
//!
//! Passes that are not trained never come here.

mod attention;
mod gated;
mod lanes;
mod likelihood;
mod matrix;
mod norm;
mod product;

pub(super) use attention::{Heads, Rotation, attend};
pub(super) use gated::gated;
pub(super) use likelihood::{Output, mean_loss};
pub(super) use norm::norm;
pub(super) use product::{adapted_product, frozen_product};

use candle_core::{CpuStorage, Layout, Storage, Tensor};

/// Rows that one thread takes at a time.
const ROWS_AT_ONCE: usize = 32;

/// The values of an operator's argument, which must lie in one piece.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        candle_core::bail!("an operator of the trained pass was given a view; it wants a contiguous tensor")
    };
    Ok(&storage.as_slice::<f32>()?[from..to])
}

/// What `read` makes of a tensor's values; a view is copied first.
fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> candle_core::Result<R>) -> candle_core::Result<R> {
    let tensor = tensor.detach().contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("an operator of the trained pass was given a tensor that is not on the CPU")
    };
    read(slice(storage, layout)?)
}

/// The width of the last dimension and the number of rows before it.
fn rows_of(layout: &Layout) -> (usize, usize) {
    let width = layout.dims().last().copied().unwrap_or(0);
    (width, layout.shape().elem_count() / width.max(1))
}

#[cfg(test)]
mod testing {
    //! What the tests of all operators share: numbers, and the comparison with candle's own gradient of a plain formula.

    use candle_core::{Device, Tensor, Var};

    /// A variable of reproducible numbers between -1 and 1.
    pub(super) fn numbers(shape: &[usize], seed: u64) -> Var {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    /// Both results, and both gradients of every variable under an uneven weighting of the result, must be equal but for
    /// rounding.
    pub(super) fn agree(own: &Tensor, plain: &Tensor, variables: &[&Var]) {
        assert_eq!(own.dims(), plain.dims());
        let weighting = numbers(own.dims(), 99).as_detached_tensor();
        let gradients = |result: &Tensor| (result * &weighting).unwrap().sum_all().unwrap().backward().unwrap();
        let (own_gradients, plain_gradients) = (gradients(own), gradients(plain));
        near(own, plain, "the result");
        for (index, variable) in variables.iter().enumerate() {
            let own = own_gradients.get(variable).unwrap();
            near(own, plain_gradients.get(variable).unwrap(), &format!("the gradient of argument {index}"));
        }
    }

    fn near(found: &Tensor, expected: &Tensor, what: &str) {
        let largest = |tensor: &Tensor| -> f32 {
            tensor.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
        };
        let (difference, size) = (largest(&(found - expected).unwrap()), largest(expected));
        assert!(size > 1e-3, "{what} is too small to tell anything");
        assert!(difference <= 5e-6 * size, "{what} differs by {difference:e} of {size:e}");
    }
}
