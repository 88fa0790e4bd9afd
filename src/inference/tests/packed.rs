//! The decoder over packed weights against Transformers: same weights, same tokens, same logits, within what its number formats
//! round; and the same to the bit in any company, however a sequence is cut into steps, for any number of threads and
//! any instruction set.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::PathBuf;

use ampoule_bundle::{GgufHeader, SafetensorsHeader, TensorInfo, TensorKind, TensorMemory, TensorSink};
use ampoule_inference::model::{Adapter, Config, Decoder, LowRank, ModelError, Weights};
use ampoule_inference::packed::{
    Generator, PackedAdapter, PackedDecoder, PackedSink, PackedWeights, SequenceStep, Workspace,
};
use ampoule_kernels::{Isa, KvElement, Pool, Processor};
use candle_core::{Device, Tensor};

/// Largest accepted difference from Transformers' logits of what is computed and kept in single precision.
const TOLERANCE: f32 = 1e-4;
/// The same where weights are bfloat16, to which the rows that they are multiplied with are rounded: the logits of these
/// models spread over 9, and a row is off by 1/512 at most.
const BRAIN_TOLERANCE: f32 = 0.3;

const FIXTURES: [&str; 14] = [
    "llama",
    "llama-linear",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "phi3-longrope",
    "phi3-longrope-crossing",
    "gemma2",
    "gemma3",
    "gemma3-nested",
    "smollm3",
    "smollm3-interval",
    "granite",
];
const GGUF: [&str; 8] = ["llama", "qwen2", "qwen3", "phi3", "gemma2", "gemma3", "smollm3", "granite"];

struct Fixture {
    config: Config,
    tokens: Vec<u32>,
    prefill: Vec<Vec<f32>>,
    steps: Vec<Vec<f32>>,
    file: Vec<u8>,
    tensors: Vec<TensorInfo>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder")
}

impl Fixture {
    fn safetensors(name: &str) -> Self {
        let folder = folder().join(name);
        let config = Config::from_hugging_face(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let file = fs::read(folder.join("model.safetensors")).unwrap();
        let tensors = SafetensorsHeader::parse(&file).unwrap().tensors().to_vec();
        Self::new(config, &folder.join("expected.safetensors"), file, tensors)
    }

    fn gguf(name: &str) -> Self {
        let file = fs::read(folder().join(format!("gguf/{name}.gguf"))).unwrap();
        let header = GgufHeader::parse(&file).unwrap();
        let config = Config::from_gguf(&header).unwrap();
        Self::new(config, &folder().join(format!("gguf/{name}.expected.safetensors")), file, header.tensors)
    }

    fn new(config: Config, expected: &std::path::Path, file: Vec<u8>, tensors: Vec<TensorInfo>) -> Self {
        let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
        let tokens: Vec<i32> = expected["tokens"].to_vec1().unwrap();
        Self {
            config,
            tokens: tokens.into_iter().map(|token| token.try_into().unwrap()).collect(),
            prefill: expected["prefill"].to_vec2().unwrap(),
            steps: expected["steps"].to_vec2().unwrap(),
            file,
            tensors,
        }
    }

    fn weights(&self) -> Result<PackedWeights, ModelError> {
        let sink = PackedSink::new(&self.config);
        for tensor in &self.tensors {
            let start = usize::try_from(tensor.offset).unwrap();
            let end = start + usize::try_from(tensor.length).unwrap();
            let mut memory = sink.open(tensor.entry(), end - start)?;
            memory.fill_from(&self.file[start..end]);
            sink.place(tensor.entry(), memory)?;
        }
        sink.finish()
    }

    fn decoder(&self) -> PackedDecoder {
        PackedDecoder::new(self.config.clone(), self.weights().unwrap()).unwrap()
    }

    /// The logits over the whole prompt and all steps.
    fn logits(&self, element: KvElement) -> Vec<f32> {
        let mut generator = Generator::new(self.decoder(), processor(Isa::best(), 2), element);
        let mut sequence = generator.alone(self.tokens.len(), None);
        let (prompt, rest) = self.tokens.split_at(self.prefill.len());
        let mut logits = sequence.feed_all(prompt, 0).unwrap();
        for token in rest {
            logits.extend(sequence.feed(&[*token]).unwrap());
        }
        logits
    }

    /// The largest difference from Transformers.
    fn difference(&self) -> f32 {
        let expected: Vec<f32> = self.prefill.iter().chain(&self.steps).flatten().copied().collect();
        difference(&self.logits(KvElement::F32), &expected)
    }

    fn tolerance(&self) -> f32 {
        let rounds = self.tensors.iter().any(|tensor| tensor.kind == TensorKind::BF16);
        if rounds { BRAIN_TOLERANCE } else { TOLERANCE }
    }
}

/// A comparison that NaN cannot pass.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0, |largest, next| if next <= largest { largest } else { next })
}

fn processor(isa: Isa, threads: usize) -> Processor {
    Processor { isa, pool: Pool::new(NonZero::new(threads).unwrap()).unwrap() }
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in FIXTURES {
        let fixture = Fixture::safetensors(name);
        let found = fixture.difference();
        println!("{name}: differs by {found:e}");
        assert!(found <= fixture.tolerance(), "{name}: differs by {found:e}");
    }
}

#[test]
fn a_gguf_file_of_each_family_gives_the_logits_of_transformers() {
    for name in GGUF {
        let fixture = Fixture::gguf(name);
        let found = fixture.difference();
        println!("{name}: differs by {found:e}");
        assert!(found <= fixture.tolerance(), "{name}: differs by {found:e}");
    }
}

#[test]
fn keys_and_values_that_are_kept_in_fewer_bytes_change_logits_little() {
    for name in FIXTURES {
        let fixture = Fixture::safetensors(name);
        let exact = fixture.logits(KvElement::F32);
        let mean = exact.iter().sum::<f32>() / exact.len() as f32;
        let spread = root_mean_square(exact.iter().map(|logit| logit - mean));
        for (element, bound) in [(KvElement::F16, 2e-2), (KvElement::Q8, 1e-1)] {
            let found = fixture.logits(element);
            let off = root_mean_square(found.iter().zip(&exact).map(|(found, exact)| found - exact)) / spread;
            println!("{name}: {element:?} is off by {off:e} of what the logits spread over");
            assert!(off > 0.0 && off <= bound, "{name}: {element:?} is off by {off:e}");
        }
    }
}

fn root_mean_square(numbers: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = numbers.len() as f32;
    (numbers.map(|number| number * number).sum::<f32>() / count).sqrt()
}

/// The bits of all logits from `first` on when the tokens are fed in pieces of these lengths, between neighbours.
fn bits(
    fixture: &Fixture,
    decoder: &PackedDecoder,
    processor: Processor,
    pieces: &[usize],
    neighbours: usize,
) -> Vec<u32> {
    let tokens = &fixture.tokens[..56];
    let blocks_each = tokens.len().div_ceil(ampoule_kernels::BLOCK_TOKENS);
    let mut workspace =
        Workspace::new(&fixture.config, processor, KvElement::default(), blocks_each * (neighbours + 1));
    // Blocks are handed out backwards, so that no order of memory helps.
    let mut numbers = (0..(blocks_each * (neighbours + 1)) as u32).rev();
    let tables: Vec<Vec<u32>> = (0..=neighbours).map(|_| numbers.by_ref().take(blocks_each).collect()).collect();
    let mut others = vec![0; neighbours];
    let mut position = 0;
    let mut collected = Vec::new();
    for (round, &length) in pieces.iter().cycle().enumerate() {
        let end = tokens.len().min(position + length);
        let step = |tokens, position, blocks, logits| SequenceStep {
            tokens,
            position,
            blocks,
            reach: fixture.tokens.len(),
            logits,
            adapter: None,
        };
        let mut steps = Vec::new();
        for (index, other) in others.iter_mut().enumerate() {
            let end = tokens.len().min(*other + 1 + (round + index) % 7);
            if *other < end {
                steps.push(step(&tokens[*other..end], *other, &tables[index], 0..1));
            }
            *other = end;
        }
        let before = steps.len();
        steps.push(step(&tokens[position..end], position, &tables[neighbours], 0..end - position));
        let logits = decoder.forward(&mut workspace, &steps).unwrap();
        let vocabulary = fixture.config.vocabulary_size;
        collected.extend(logits[before * vocabulary..].iter().map(|logit| logit.to_bits()));
        position = end;
        if position == tokens.len() {
            return collected;
        }
    }
    unreachable!("the pieces are not empty");
}

#[test]
fn neighbours_pieces_threads_and_instructions_do_not_change_a_bit() {
    let fixtures = FIXTURES.map(Fixture::safetensors).into_iter().chain([Fixture::gguf("llama-quantised")]);
    for fixture in fixtures {
        let decoder = fixture.decoder();
        let name = fixture.config.architecture;
        let alone = bits(&fixture, &decoder, processor(Isa::best(), 1), &[56], 0);
        for (threads, pieces, neighbours) in
            [(1, &[1][..], 0), (2, &[16], 0), (4, &[5, 13, 1], 3), (2, &[56], 15), (3, &[17], 15)]
        {
            let found = bits(&fixture, &decoder, processor(Isa::best(), threads), pieces, neighbours);
            assert!(found == alone, "{name}: {threads} threads, pieces of {pieces:?}, {neighbours} neighbours");
        }
        for isa in Isa::available() {
            assert!(bits(&fixture, &decoder, processor(isa, 2), &[9], 1) == alone, "{name}: {isa}");
        }
    }
}

#[test]
fn adapters_of_one_batch_keep_to_their_rows() {
    for name in ["llama", "phi3", "qwen2"] {
        let fixture = Fixture::safetensors(name);
        let decoder = fixture.decoder();
        let tensors: BTreeMap<String, Tensor> =
            candle_core::safetensors::load(folder().join(name).join("model.safetensors"), &Device::Cpu)
                .unwrap()
                .into_iter()
                .collect();
        let dense = Decoder::new(fixture.config.clone(), Weights::from_tensors(tensors).unwrap()).unwrap();
        let adapters: Vec<Adapter> = (1..3).map(|seed| adapter(&fixture.config, seed)).collect();
        let packed: Vec<PackedAdapter> =
            adapters.iter().map(|adapter| PackedAdapter::new(&fixture.config, adapter).unwrap()).collect();
        let tokens = &fixture.tokens[..20];
        let tables = [[0, 1], [2, 3], [4, 5], [6, 7]];
        let through = [None, Some(0), Some(1), Some(1)];
        let steps: Vec<SequenceStep<'_>> = tables
            .iter()
            .zip(through)
            .map(|(blocks, adapter)| SequenceStep {
                tokens,
                position: 0,
                blocks,
                reach: tokens.len(),
                logits: 0..tokens.len(),
                adapter: adapter.map(|index: usize| &packed[index]),
            })
            .collect();
        let mut workspace = Workspace::new(&fixture.config, processor(Isa::best(), 2), KvElement::F32, 8);
        let together = decoder.forward(&mut workspace, &steps).unwrap().to_vec();
        let of_each = tokens.len() * fixture.config.vocabulary_size;
        for (index, adapter) in through.into_iter().enumerate() {
            let found = &together[index * of_each..][..of_each];
            let alone = decoder.forward(&mut workspace, &steps[index..=index]).unwrap();
            assert!(found.iter().zip(&*alone).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}: {index}");
            let expected = dense.forward_all(tokens, adapter.map(|index| &adapters[index])).unwrap();
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            let found = difference(found, &expected);
            println!("{name}: adapter {adapter:?} differs by {found:e}");
            assert!(found <= TOLERANCE, "{name}: {adapter:?}: differs by {found:e}");
        }
        assert!(difference(&together[..of_each], &together[of_each..2 * of_each]) > 10.0 * TOLERANCE, "{name}");
    }
}

/// An adapter of all projections with numbers that are not zero.
fn adapter(config: &Config, seed: usize) -> Adapter {
    let matrix = |rows: usize, columns: usize| {
        let number = |index: usize| ((index * 7 + seed * 13) % 11) as f32 / 50.0 - 0.1;
        Tensor::from_vec((0..rows * columns).map(number).collect(), (rows, columns), &Device::Cpu).unwrap()
    };
    let modules = config
        .projections()
        .into_iter()
        .map(|(name, [output, input])| (name, LowRank { down: matrix(3, input), up: matrix(output, 3), scale: 0.5 }));
    Adapter::new(config, modules.collect()).unwrap()
}

#[test]
fn impossible_input_is_refused_before_anything_is_computed() {
    let fixture = Fixture::safetensors("llama");
    let decoder = fixture.decoder();
    let mut workspace = Workspace::new(&fixture.config, processor(Isa::best(), 1), KvElement::default(), 9);
    let blocks: Vec<u32> = (0..9).collect();
    let mut run = |tokens: &[u32], position: usize| {
        let blocks = &blocks;
        let step = SequenceStep { tokens, position, blocks, reach: 0, logits: 0..0, adapter: None };
        decoder.forward(&mut workspace, &[step]).map(|logits| logits.len())
    };
    assert!(matches!(run(&[], 0), Err(ModelError::EmptyInput)));
    let refused = run(&[1, 64], 0);
    assert!(matches!(refused, Err(ModelError::TokenOutOfRange { found: 64, vocabulary_size: 64 })));
    assert!(matches!(run(&[1; 129], 0), Err(ModelError::ContextExceeded { found: 129, limit: 128 })));
    assert!(matches!(run(&[1], 128), Err(ModelError::ContextExceeded { found: 129, limit: 128 })));
    assert_eq!(run(&[1; 128], 0).unwrap(), 0);
}

#[test]
fn weights_must_be_exactly_what_the_configuration_calls_for() {
    let fixture = Fixture::safetensors("llama");
    for index in 0..fixture.tensors.len() {
        let mut missing = Fixture::safetensors("llama");
        let TensorInfo { name, .. } = missing.tensors.remove(index);
        assert!(matches!(missing.weights(), Err(ModelError::MissingTensor { name: found }) if found == name));

        let mut unknown = Fixture::safetensors("llama");
        unknown.tensors[index].name.push('x');
        assert!(matches!(unknown.weights(), Err(ModelError::UnknownTensor { .. })));

        let mut misshapen = Fixture::safetensors("llama");
        misshapen.tensors[index].shape[0] += 1;
        assert!(matches!(misshapen.weights(), Err(ModelError::MisshapenTensor { .. })));

        let mut twice = Fixture::safetensors("llama");
        let again = twice.tensors[index].clone();
        twice.tensors.push(again);
        assert!(matches!(twice.weights(), Err(ModelError::RepeatedTensor { .. })));
    }
}
