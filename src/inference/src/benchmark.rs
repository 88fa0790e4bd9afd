//! How fast a model computes here: the work of prompts and of answers by itself, without requests around it.  Whoever
//! measures brings the clock.

use ampoule_kernels::{BLOCK_TOKENS, Packed};

use crate::error::InferenceError;
use crate::load::{Model, ReadyModel};
use crate::packed::{Generator, SequenceStep};

/// The most tokens of a prompt that are computed at once, as the engine does.
const STEP_TOKENS: usize = 512;

/// A proven model whose work is timed.
#[derive(Debug)]
pub struct Benchmark {
    generator: Box<Generator>,
}

/// What this host does at most, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostLimits {
    /// Bytes a second when weights are read and nothing is done with them.
    pub read_bytes_per_second: f64,
    /// Multiplications and additions a second of bytes that are in registers.
    pub byte_operations_per_second: f64,
}

impl ReadyModel {
    /// The model as something to be timed.
    ///
    /// # Errors
    /// [`InferenceError::NoGenerator`] for an encoder.
    pub fn benchmark(self) -> Result<Benchmark, InferenceError> {
        match self.into_model() {
            Model::Generator(generator) => Ok(Benchmark { generator }),
            Model::Encoder(_) => Err(InferenceError::NoGenerator),
        }
    }
}

impl Benchmark {
    /// Computes a prompt of so many tokens, and the logits after its last one.
    ///
    /// # Errors
    /// A prompt beyond the model's context.
    pub fn prefill(&mut self, tokens: usize) -> Result<(), InferenceError> {
        self.compute(1, 0, tokens, STEP_TOKENS)
    }

    /// Computes so many tokens of each of so many sequences, one after the other, the first at `position`.
    ///
    /// # Errors
    /// A sequence beyond the model's context.
    pub fn decode(&mut self, sequences: usize, position: usize, tokens: usize) -> Result<(), InferenceError> {
        self.compute(sequences, position, tokens, 1)
    }

    fn compute(
        &mut self,
        sequences: usize,
        position: usize,
        tokens: usize,
        at_once: usize,
    ) -> Result<(), InferenceError> {
        let end = position + tokens;
        let blocks_each = end.div_ceil(BLOCK_TOKENS);
        self.generator.reserve(sequences * blocks_each);
        let Generator { decoder, workspace } = &mut *self.generator;
        let vocabulary = decoder.config().vocabulary_size;
        let text: Vec<u32> = (0..end).map(|place| (place * 7919 % vocabulary) as u32).collect();
        let blocks: Vec<u32> = (0..).take(sequences * blocks_each).collect();
        let mut start = position;
        while start < end {
            let stop = end.min(start + at_once);
            let step = |blocks| SequenceStep {
                tokens: &text[start..stop],
                position: start,
                blocks,
                reach: end,
                logits: stop - start - 1..stop - start,
                adapter: None,
            };
            let steps: Vec<SequenceStep<'_>> = blocks.chunks(blocks_each).map(step).collect();
            decoder.forward(workspace, &steps)?;
            start = stop;
        }
        Ok(())
    }

    /// What is read of memory for one token of one sequence, keys and values apart.
    pub fn bytes_per_token(&self) -> usize {
        self.generator.decoder.matrices().map(Packed::bytes).sum()
    }

    /// The multiplications and additions with weights for one token.
    pub fn operations_per_token(&self) -> usize {
        self.generator.decoder.matrices().map(|matrix| 2 * matrix.outputs() * matrix.inputs()).sum()
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.generator.workspace.processor().pool.threads()
    }

    /// The vector instructions that compute, by name.
    pub fn instructions(&self) -> &'static str {
        self.generator.workspace.processor().isa.name()
    }

    /// How many tokens a sequence may have.
    pub fn context_length(&self) -> usize {
        self.generator.decoder.config().context_length
    }

    /// Measures what the host does at most, with this model's largest matrix.
    pub fn limits(&self) -> HostLimits {
        let processor = self.generator.workspace.processor();
        let largest = self.generator.decoder.matrices().max_by_key(|matrix| matrix.bytes());
        HostLimits {
            read_bytes_per_second: largest.map_or(0.0, |matrix| processor.read_bandwidth(matrix)),
            byte_operations_per_second: processor.peak_of_bytes(),
        }
    }
}
