//! How fast a model computes here: the work of prompts and of answers by itself, without requests around it.  Whoever times
//! that brings the clock; what the host does at most is timed where the kernels are.

use std::ops::Range;

use ampoule_kernels::{BLOCK_TOKENS, Buffer, Form, Packed};

use crate::error::InferenceError;
use crate::load::{Model, ReadyModel};
use crate::model::ModelError;
use crate::packed::{Generator, SequenceStep};

/// The most tokens of a prompt that are computed at once, as the engine does.
const STEP_TOKENS: usize = 512;

/// A proven model whose work is timed: that of several sequences, each of a prompt and an answer that are as long as those of
/// the others.
#[derive(Debug)]
pub struct Benchmark {
    generator: Box<Generator>,
    /// The tokens of each sequence, prompt and answer.
    text: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
    /// The blocks of keys and values, those of one sequence after those of the other.
    blocks: Vec<u32>,
}

/// What this host does at most, measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostLimits {
    /// Bytes a second when memory is read and nothing is done with it.
    pub read_bytes_per_second: f64,
    /// Multiplications and additions a second of bytes that are in registers.
    pub byte_operations_per_second: f64,
    /// The same of numbers in single precision.  A processor that multiplies pairs of bfloat16 itself does more of those.
    pub float_operations_per_second: f64,
}

impl HostLimits {
    /// The memory that is read to measure how fast that is.  The weights themselves would not do, for those of a small model
    /// stay in the processor's last cache, which has some hundred MiB on large hosts.
    pub const MEMORY_BYTES: usize = 1 << 30;
}

impl ReadyModel {
    /// The model as something to be timed, with memory for so many sequences of so many tokens each.
    ///
    /// # Errors
    /// [`InferenceError::NoGenerator`] for an encoder, [`ModelError::ContextExceeded`] when prompt and answer together are
    /// longer than a sequence may be here.
    pub fn benchmark(self, sequences: usize, prompt: usize, generate: usize) -> Result<Benchmark, InferenceError> {
        let limit = self.profile().context_length;
        match self.into_model() {
            Model::Generator(generator) => Ok(Benchmark::new(generator, limit, sequences, [prompt, generate])?),
            Model::Encoder(_) => Err(InferenceError::NoGenerator),
        }
    }
}

impl Benchmark {
    fn new(
        mut generator: Box<Generator>,
        limit: usize,
        sequences: usize,
        [prompt, generate]: [usize; 2],
    ) -> Result<Benchmark, ModelError> {
        let found = prompt + generate;
        if found > limit {
            return Err(ModelError::ContextExceeded { found, limit });
        }
        let blocks = sequences * found.div_ceil(BLOCK_TOKENS);
        generator.reserve(blocks);
        let vocabulary = generator.decoder.config().vocabulary_size;
        let text = (0..found).map(|place| (place * 7919 % vocabulary) as u32).collect();
        Ok(Benchmark { generator, text, prompt, blocks: (0..).take(blocks).collect() })
    }

    /// Computes the prompt of one of the sequences, counted from 0, and the logits after its last token.
    ///
    /// # Errors
    /// None that the model's own proof would not have had.
    pub fn prefill(&mut self, sequence: usize) -> Result<(), InferenceError> {
        let mut start = 0;
        while start < self.prompt {
            let stop = self.prompt.min(start + STEP_TOKENS);
            self.step(sequence..sequence + 1, start..stop)?;
            start = stop;
        }
        Ok(())
    }

    /// Computes the answers of the first so many sequences, the next token of each at a time.  They attend to what the
    /// prompts have left in memory: whoever times them has computed the prompt of each before, for memory that was never
    /// written is not read as memory is.
    ///
    /// # Errors
    /// None that the model's own proof would not have had.
    pub fn decode(&mut self, sequences: usize) -> Result<(), InferenceError> {
        for position in self.prompt..self.text.len() {
            self.step(0..sequences, position..position + 1)?;
        }
        Ok(())
    }

    /// Computes the tokens at these positions of some sequences, and the logits that follow the last of each.
    fn step(&mut self, sequences: Range<usize>, positions: Range<usize>) -> Result<&mut [f32], ModelError> {
        let Benchmark { generator, text, prompt, blocks } = self;
        let Generator { decoder, workspace } = &mut **generator;
        let tokens = &text[positions.clone()];
        // After a piece of a prompt more of it follows, so that no token is to be chosen.
        let logits = if positions.end < *prompt { 0..0 } else { tokens.len() - 1..tokens.len() };
        let step = |blocks| SequenceStep {
            tokens,
            position: positions.start,
            blocks,
            reach: text.len(),
            logits: logits.clone(),
            adapter: None,
        };
        let each = text.len().div_ceil(BLOCK_TOKENS);
        let blocks = &blocks[sequences.start * each..sequences.end * each];
        let steps: Vec<SequenceStep<'_>> = blocks.chunks(each).map(step).collect();
        decoder.forward(workspace, &steps)
    }

    /// What is read of memory for the next token of all sequences, keys and values apart.
    pub fn bytes_per_step(&self) -> usize {
        self.generator.decoder.matrices().map(Packed::bytes).sum()
    }

    /// How long a prompt takes at least, in seconds, on a host that does so much: the multiplications and additions with
    /// weights, which are of bytes where the weights are quantised and of floats where they are not.  Of the logits, those
    /// after the last token are computed alone.
    pub fn least_prefill_seconds(&self, limits: &HostLimits) -> f64 {
        let seconds = |matrix: &Packed, tokens: usize| -> f64 {
            let operations = 2 * matrix.outputs() * matrix.inputs() * tokens;
            let per_second = match matrix.format().form() {
                Form::Bytes32 | Form::Bytes256 => limits.byte_operations_per_second,
                Form::Single | Form::Brain => limits.float_operations_per_second,
            };
            operations as f64 / per_second
        };
        let mut matrices: Vec<&Packed> = self.generator.decoder.matrices().collect();
        // The one that gives the logits stands last.
        let output = matrices.pop();
        let of_layers: f64 = matrices.into_iter().map(|matrix| seconds(matrix, self.prompt)).sum();
        of_layers + output.map_or(0.0, |matrix| seconds(matrix, 1))
    }

    /// How many threads compute.
    pub fn threads(&self) -> usize {
        self.generator.workspace.processor().pool.threads()
    }

    /// The vector instructions that compute, by name.
    pub fn instructions(&self) -> &'static str {
        self.generator.workspace.processor().isa.name()
    }

    /// Measures what the host does at most, which takes [`HostLimits::MEMORY_BYTES`] of memory for so long.
    pub fn limits(&self) -> HostLimits {
        /// As much as a thread writes at once: a huge page.
        const PIECE_BYTES: usize = 2 << 20;
        let processor = self.generator.workspace.processor();
        // Pages that nobody has written are not there to be read.
        let mut memory: Buffer<u8> = Buffer::zeroed(HostLimits::MEMORY_BYTES);
        processor.pool.for_each_chunk(&mut memory[..], PIECE_BYTES, |_, piece| piece.fill(1));
        HostLimits {
            read_bytes_per_second: processor.read_bandwidth(&memory),
            byte_operations_per_second: processor.peak_of_bytes(),
            float_operations_per_second: processor.peak_of_floats(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::num::NonZero;
    use std::path::Path;

    use ampoule_bundle::{SafetensorsHeader, TensorMemory, TensorSink};
    use ampoule_kernels::{KvElement, Processor};

    use super::*;
    use crate::model::Config;
    use crate::packed::{PackedDecoder, PackedSink};

    /// A model of two layers in single precision.
    fn generator() -> Box<Generator> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine/llama");
        let config = Config::from_hugging_face(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let file = fs::read(folder.join("model.safetensors")).unwrap();
        let sink = PackedSink::new(&config);
        for tensor in SafetensorsHeader::parse(&file).unwrap().tensors() {
            let bytes = &file[tensor.offset as usize..][..tensor.length as usize];
            let mut memory = sink.open(tensor.entry(), bytes.len()).unwrap();
            memory.fill_from(bytes);
            sink.place(tensor.entry(), memory).unwrap();
        }
        let weights = sink.finish().unwrap();
        let decoder = PackedDecoder::new(config, weights).unwrap();
        let processor = Processor::new(NonZero::<usize>::MIN).unwrap();
        Box::new(Generator::new(decoder, processor, KvElement::F32))
    }

    #[test]
    fn answers_attend_to_what_the_prompts_have_left() {
        let mut benchmark = Benchmark::new(generator(), 512, 3, [20, 2]).unwrap();
        (0..3).for_each(|sequence| benchmark.prefill(sequence).unwrap());
        let expected = generator().alone(22, None).feed(&benchmark.text[..21]).unwrap();
        let found = benchmark.step(1..3, 20..21).unwrap();
        assert_eq!(found.len(), 2 * expected.len());
        assert!(found.chunks_exact(expected.len()).all(|logits| logits == expected));
        benchmark.decode(3).unwrap();
    }

    #[test]
    fn what_is_longer_than_the_context_is_refused_before_anything_is_computed() {
        let refused = Benchmark::new(generator(), 100, 1, [90, 11]).unwrap_err();
        assert!(matches!(refused, ModelError::ContextExceeded { found: 101, limit: 100 }));
        assert!(Benchmark::new(generator(), 100, 1, [90, 10]).is_ok());
    }

    #[test]
    fn a_prompt_takes_the_operations_of_its_layers_and_of_its_last_logits() {
        let benchmark = Benchmark::new(generator(), 512, 1, [20, 2]).unwrap();
        let limits = HostLimits {
            read_bytes_per_second: f64::NAN,
            byte_operations_per_second: f64::NAN,
            float_operations_per_second: 2.0,
        };
        let layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32;
        assert_eq!(benchmark.least_prefill_seconds(&limits), f64::from(20 * 2 * layer + 264 * 32));
    }
}
