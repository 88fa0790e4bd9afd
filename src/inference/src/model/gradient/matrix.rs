//! Matrices of a moment, for products inside an operator; candle's tensors cannot be changed in place.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout};

/// Row-major numbers.
pub(super) struct Matrix {
    rows: usize,
    columns: usize,
    storage: CpuStorage,
}

impl Matrix {
    pub(super) fn new(rows: usize, columns: usize, values: Vec<f32>) -> Self {
        debug_assert_eq!(values.len(), rows * columns);
        Self { rows, columns, storage: CpuStorage::F32(values) }
    }

    /// `self · right`
    pub(super) fn times(&self, right: &Self) -> candle_core::Result<Self> {
        product(&self.storage, self.layout(), &right.storage, right.layout())
    }

    /// `self · rightᵀ`
    pub(super) fn times_transposed(&self, right: &Self) -> candle_core::Result<Self> {
        product(&self.storage, self.layout(), &right.storage, right.layout().transpose(0, 1)?)
    }

    /// `self · right` for a matrix that lies elsewhere.
    pub(super) fn times_stored(&self, right: &CpuStorage, layout: &Layout) -> candle_core::Result<Self> {
        product(&self.storage, self.layout(), right, layout.clone())
    }

    /// `selfᵀ · right`
    pub(super) fn transposed_times(&self, right: &Self) -> candle_core::Result<Self> {
        product(&self.storage, self.layout().transpose(0, 1)?, &right.storage, right.layout())
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn values(&self) -> candle_core::Result<&[f32]> {
        self.storage.as_slice()
    }

    pub(super) fn into_values(self) -> Vec<f32> {
        match self.storage {
            CpuStorage::F32(values) => values,
            _ => unreachable!("a matrix is made of single-precision numbers, and so are products of two"),
        }
    }

    /// The same matrix after `change` went over its values.
    pub(super) fn changed(self, change: impl FnOnce(&mut [f32])) -> Self {
        let (rows, columns) = (self.rows, self.columns);
        let mut values = self.into_values();
        change(&mut values);
        Self::new(rows, columns, values)
    }

    fn layout(&self) -> Layout {
        Layout::contiguous((self.rows, self.columns))
    }
}

/// The product of two matrices that lie somewhere in memory, each as its layout says.
pub(super) fn product(
    left: &CpuStorage,
    left_layout: Layout,
    right: &CpuStorage,
    right_layout: Layout,
) -> candle_core::Result<Matrix> {
    let (rows, inner) = left_layout.shape().dims2()?;
    let (_, columns) = right_layout.shape().dims2()?;
    let storage = left.matmul(right, (1, rows, columns, inner), &left_layout, &right_layout)?;
    Ok(Matrix { rows, columns, storage })
}
