//! A decoder with what it computes with, and one sequence of it by itself: how a model is proved before it is served.

use ampoule_kernels::{BLOCK_TOKENS, KvElement, Processor};

use super::{PackedAdapter, PackedDecoder, SequenceStep, Workspace};
use crate::model::ModelError;

/// A decoder that can compute.
#[derive(Debug)]
pub struct Generator {
    /// The model.
    pub decoder: PackedDecoder,
    /// Its threads and memory.
    pub workspace: Workspace,
}

/// One sequence, alone in the memory of a generator.
#[derive(Debug)]
pub struct Alone<'a> {
    generator: &'a mut Generator,
    adapter: Option<&'a PackedAdapter>,
    blocks: Vec<u32>,
    /// The tokens so far.
    tokens: Vec<u32>,
    /// Whether they were computed as those of a sequence beyond the original context (LongRoPE).
    is_long: bool,
}

impl Generator {
    /// A decoder without memory for any sequence, whose keys and values are to be kept as `element`.
    pub fn new(decoder: PackedDecoder, processor: Processor, element: KvElement) -> Self {
        let workspace = Workspace::new(decoder.config(), processor, element, 0);
        Self { decoder, workspace }
    }

    /// The same with memory for so many blocks of keys and values.
    #[must_use]
    pub fn with_blocks(self, blocks: usize) -> Self {
        let Self { decoder, workspace } = self;
        let workspace = workspace.with_blocks(decoder.config(), blocks);
        Self { decoder, workspace }
    }

    /// Begins a sequence of up to `tokens` tokens in the first blocks, which are made if they are not there: what other
    /// sequences had in them is lost.
    pub fn alone<'a>(&'a mut self, tokens: usize, adapter: Option<&'a PackedAdapter>) -> Alone<'a> {
        let blocks = tokens.div_ceil(BLOCK_TOKENS);
        self.reserve(blocks);
        Alone::new(self, (0..).take(blocks).collect(), adapter)
    }

    /// Makes room for at least so many blocks; what the blocks held is gone if there was not.
    pub(crate) fn reserve(&mut self, blocks: usize) {
        self.workspace.reserve(self.decoder.config(), blocks);
    }

    /// Begins a sequence in one block that no other sequence uses.
    pub(crate) fn alone_in<'a>(&'a mut self, block: u32, adapter: Option<&'a PackedAdapter>) -> Alone<'a> {
        Alone::new(self, vec![block], adapter)
    }
}

impl<'a> Alone<'a> {
    fn new(generator: &'a mut Generator, blocks: Vec<u32>, adapter: Option<&'a PackedAdapter>) -> Self {
        Self { generator, adapter, blocks, tokens: Vec::new(), is_long: false }
    }

    /// The logits of the token after `tokens`, one for each token of the vocabulary.
    ///
    /// # Errors
    /// As [`PackedDecoder::forward`].
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.feed_all(tokens, tokens.len().saturating_sub(1))
    }

    /// The logits `[tokens from `first` on, vocabulary]` that follow them.
    ///
    /// # Errors
    /// As [`PackedDecoder::forward`].
    pub fn feed_all(&mut self, tokens: &[u32], first: usize) -> Result<Vec<f32>, ModelError> {
        let before = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        let original_context = self.generator.decoder.original_context();
        let is_long = original_context.is_some_and(|context| self.tokens.len() > context);
        // What was computed with the first set of frequencies cannot be mixed with the second.
        let anew = is_long && !self.is_long;
        self.is_long = is_long;
        let start = if anew { 0 } else { before };
        let Generator { decoder, workspace } = &mut *self.generator;
        let step = SequenceStep {
            tokens: &self.tokens[start..],
            position: start,
            blocks: &self.blocks,
            reach: self.tokens.len(),
            logits: before - start + first..self.tokens.len() - start,
            adapter: self.adapter,
        };
        Ok(decoder.forward(workspace, &[step])?.to_vec())
    }
}
