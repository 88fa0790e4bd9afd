//! Matrices of weights in the layout that the products read, made row by row while a file is being read.

use std::fmt;
use std::ops::Range;

use crate::activations::Form;
use crate::format::{Format, PanelFormat, with_format};
use crate::memory::Buffer;
use crate::simd::LANES;

/// A matrix `[outputs, inputs]` of weights.
pub struct Packed {
    format: Format,
    outputs: usize,
    inputs: usize,
    /// Panels of sixteen outputs; the last one is filled up with zeros.
    bytes: Buffer<u8>,
}

/// A matrix that is being filled.
#[derive(Debug)]
pub struct Packing {
    packed: Packed,
    /// Which rows are there.
    present: Vec<bool>,
}

impl Format {
    /// How many inputs share a block; a row must hold whole blocks.
    pub fn block_inputs(self) -> usize {
        with_format!(self, F => F::BLOCK_INPUTS)
    }

    /// How many bytes a row of so many inputs has in a file.
    ///
    /// # Panics
    /// When the row does not hold whole blocks.
    pub fn row_bytes(self, inputs: usize) -> usize {
        assert!(inputs.is_multiple_of(self.block_inputs()), "rows of {inputs} inputs hold no whole blocks of {self:?}");
        with_format!(self, F => inputs / F::BLOCK_INPUTS * F::BLOCK_BYTES)
    }

    /// How many bytes sixteen such rows have in memory.
    fn panel_bytes(self, inputs: usize) -> usize {
        with_format!(self, F => F::panel_bytes(inputs))
    }

    /// What weights of this format are multiplied with.
    pub fn form(self) -> Form {
        with_format!(self, F => F::FORM)
    }
}

impl Packing {
    /// Room for a matrix.
    ///
    /// # Panics
    /// When a row holds nothing, or no whole blocks.
    pub fn new(format: Format, outputs: usize, inputs: usize) -> Packing {
        assert!(format.row_bytes(inputs) > 0, "a row holds something");
        let bytes = outputs.div_ceil(LANES) * format.panel_bytes(inputs);
        let packed = Packed { format, outputs, inputs, bytes: Buffer::zeroed(bytes) };
        Packing { packed, present: vec![false; outputs] }
    }

    /// Takes one row as it stands in the file.
    ///
    /// # Panics
    /// When there is no such row, or when it has another length.
    pub fn put(&mut self, output: usize, row: &[u8]) {
        assert_eq!(row.len(), self.packed.format.row_bytes(self.packed.inputs), "the bytes of a row");
        self.present[output] = true;
        let (panel, lane) = (output / LANES, output % LANES);
        let panel_bytes = self.packed.format.panel_bytes(self.packed.inputs);
        let panel = &mut self.packed.bytes[panel * panel_bytes..][..panel_bytes];
        with_format!(self.packed.format, F => F::pack_row(panel, lane, row));
    }

    /// The matrix, once every row is there.
    ///
    /// # Panics
    /// When a row was not put.
    pub fn finish(self) -> Packed {
        assert!(self.present.iter().all(|&present| present), "a row of the matrix is missing");
        self.packed
    }
}

impl Packed {
    /// How it is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How many rows it has.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// How many columns it has.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// What it takes of memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The numbers of one row, exactly those that the file holds.
    ///
    /// # Panics
    /// When there is no such row, or `into` has another length.
    pub fn row(&self, output: usize, into: &mut [f32]) {
        assert!(output < self.outputs && into.len() == self.inputs, "a row of the matrix");
        with_format!(self.format, F => {
            let panel = output / LANES;
            F::unpack_row(self.panel_range(panel..panel + 1), output % LANES, into);
        });
    }

    /// The memory that it takes, as the products read it.
    pub fn memory(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn panels(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// Some panels, one after the other.
    pub(crate) fn panel_range(&self, panels: Range<usize>) -> &[u8] {
        let bytes = self.format.panel_bytes(self.inputs);
        &self.bytes[panels.start * bytes..panels.end * bytes]
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}[{}, {}]", self.format, self.outputs, self.inputs)
    }
}
