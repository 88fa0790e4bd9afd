//! The memory of a pass, kept between passes: the first touch of a page costs more than a row of arithmetic.

use ampoule_kernels::{Activations, KvBlocks, KvElement, Processor};

use super::adapter::AdapterScratch;
use super::rope::RopeTables;
use crate::model::Config;

/// What one engine computes with: threads, keys and values, and room for a pass.
#[derive(Debug)]
pub struct Workspace {
    pub(super) processor: Processor,
    pub(super) blocks: KvBlocks,
    pub(super) ropes: Vec<RopeTables>,
    pub(super) rows: Rows,
}

/// Matrices `[rows, width]`, as wide as each is at its use.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// The residual stream.
    pub(super) hidden: Vec<f32>,
    /// What adapters read: the input of the projections that come next.
    pub(super) input: Vec<f32>,
    pub(super) query: Vec<f32>,
    pub(super) key: Vec<f32>,
    pub(super) value: Vec<f32>,
    pub(super) mixed: Vec<f32>,
    pub(super) gate: Vec<f32>,
    pub(super) up: Vec<f32>,
    /// What a block adds to the residual stream, where that is not added at once.
    pub(super) block: Vec<f32>,
    pub(super) logits: Vec<f32>,
    pub(super) activations: Activations,
    pub(super) adapters: AdapterScratch,
}

impl Workspace {
    /// Room for `blocks` blocks of keys and values of a model, kept as `element` and touched when they are first written.
    pub fn new(config: &Config, processor: Processor, element: KvElement, blocks: usize) -> Self {
        let blocks = blocks_of(config, element, blocks);
        let ropes = config.ropes.iter().map(|_| RopeTables::default()).collect();
        Self { processor, blocks, ropes, rows: Rows::default() }
    }

    /// The same threads and room for another number of blocks; what the blocks held is gone.
    #[must_use]
    pub fn with_blocks(self, config: &Config, blocks: usize) -> Self {
        Self::new(config, self.processor, self.blocks.element(), blocks)
    }

    /// Makes room for at least `blocks` blocks; what the blocks held is gone if there was not.
    pub(super) fn reserve(&mut self, config: &Config, blocks: usize) {
        if self.blocks.blocks() < blocks {
            self.blocks = blocks_of(config, self.blocks.element(), blocks);
        }
    }

    /// What computes.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }
}

fn blocks_of(config: &Config, element: KvElement, blocks: usize) -> KvBlocks {
    KvBlocks::new(element, config.layers.len(), config.key_value_head_count, config.head_dimension, blocks)
}

/// Makes a matrix as large as it has to be; what it held is of no use.
pub(crate) fn sized(matrix: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if matrix.len() < length {
        matrix.resize(length, 0.0);
    }
    &mut matrix[..length]
}
