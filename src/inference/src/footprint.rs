//! What a model will take of memory at most, foreseen from its own shapes and from the settings, before anything of it is
//! allocated: a model that does not fit is refused by name and not ended by the kernel in the middle of an answer.
//!
//! ```text
//! peak = weights + the process itself + cache + the widest pass + logits
//! ```

use ampoule_bundle::{Footprint, MemoryPart, VerifiedBundle};

use ampoule_kernels::{BLOCK_TOKENS, KvElement, bytes_per_block};

use crate::encoder::EncoderConfig;
use crate::engine::EngineConfig;
use crate::error::InferenceError;
use crate::load::{gguf_header, kv_element, missing, model_type};
use crate::model::Config;

const FLOAT_BYTES: u64 = 4;
/// Code, threads, connections and request bodies; measured on small models, with room.
const PROCESS_BYTES: u64 = 96 << 20;
/// A tokenizer's tables beside the file that they are made from; measured on files of 2 to 17 MiB.
const TOKENIZER_FACTOR: u64 = 12;
/// The most tokens of one batch of texts that are embedded, unless a single one is longer.
const EMBEDDING_BATCH_TOKENS: u64 = 1024;

/// Foresees what the model in `bundle` takes under these settings.
///
/// # Errors
/// [`InferenceError`] when the bundle's configuration is not one that can be computed with, as loading would refuse it.
pub fn footprint(
    bundle: &VerifiedBundle,
    context_length: Option<usize>,
    engine: &EngineConfig,
) -> Result<Footprint, InferenceError> {
    let tensors = || bundle.weights().iter().flat_map(|file| file.header.tensors());
    let (config, described) = match gguf_header(bundle.weights(), bundle.file("config.json").is_some())? {
        Some(header) => (Some(Config::from_gguf(header)?), header_bytes(bundle)),
        None => {
            let file = bundle.file("config.json").ok_or_else(|| missing("config.json"))?;
            let is_encoder = EncoderConfig::is_encoder(&model_type(file)?);
            let decoder = if is_encoder { None } else { Some(Config::from_hugging_face(file)?) };
            (decoder, bundle.files().map(|(_, bytes)| bytes.len() as u64).sum())
        }
    };
    let context = |own: usize| {
        let constraint = bundle.release().constraints.max_context_length.map(|tokens| tokens as usize);
        [constraint, context_length].into_iter().flatten().fold(own, usize::min)
    };
    // Weights are packed as they are read, into as many bytes as they have in the file.
    let weights = tensors().map(|tensor| tensor.length).sum();
    let serving = match config {
        Some(config) => decoder_parts(&config, kv_element(bundle.weights()), context(config.context_length), engine),
        None => {
            let config = EncoderConfig::from_files(|path| bundle.file(path))?;
            vec![encoder_part(&config, context(config.max_tokens))]
        }
    };
    let mut parts = vec![
        part("weights", weights, None),
        part("the process and its tokenizer", PROCESS_BYTES + TOKENIZER_FACTOR * described, None),
    ];
    parts.extend(serving);
    Ok(Footprint(parts))
}

fn part(what: &'static str, bytes: u64, lowered_by: Option<&'static str>) -> MemoryPart {
    MemoryPart { what, bytes, lowered_by }
}

fn header_bytes(bundle: &VerifiedBundle) -> u64 {
    bundle.release().weights.iter().map(|weights| weights.header_length).sum()
}

fn decoder_parts(config: &Config, element: KvElement, context: usize, engine: &EngineConfig) -> Vec<MemoryPart> {
    let [hidden, inner, heads, key_heads, width, vocabulary, context, running, budget, step] = [
        config.hidden_size,
        config.intermediate_size,
        config.head_count,
        config.key_value_head_count,
        config.head_dimension,
        config.vocabulary_size,
        context,
        engine.max_running.max(1),
        engine.token_budget,
        engine.step_tokens.max(1),
    ]
    .map(|size| size as u64);
    let (layers, key_value_heads) = (config.layers.len(), config.key_value_head_count);
    let of_block = bytes_per_block(element, layers, key_value_heads, config.head_dimension) as u64;
    let blocks = engine.blocks() as u64;
    // Blocks are touched when they are first written, and those that run can write no more than their contexts.
    let by_requests = running * context.div_ceil(BLOCK_TOKENS as u64);
    let lowered_by = if blocks <= by_requests { "limits.token_budget" } else { "limits.running_requests" };
    let cache = part("keys and values", of_block.saturating_mul(blocks), Some(lowered_by));
    // The rows of a step: pieces of prompts, and for each that generates its token and what is drafted of the next ones.
    let rows = step.min(budget) + running * (1 + engine.draft_tokens as u64);
    let of_row = 4 * hidden + 4 * heads * width + 3 * key_heads * width + 4 * inner;
    let pass = part("a pass over a step", FLOAT_BYTES * rows * of_row, Some("limits.running_requests"));
    // Logits of all rows that may end in a token, and the copies that sampling sorts.
    let wanted = running * (1 + engine.draft_tokens as u64);
    let of_logits = FLOAT_BYTES * vocabulary * (wanted + 4);
    vec![cache, pass, part("logits", of_logits, Some("limits.running_requests"))]
}

fn encoder_part(config: &EncoderConfig, context: usize) -> MemoryPart {
    let [hidden, inner] =
        [config.transformer.hidden_size, config.transformer.intermediate_size].map(|size| size as u64);
    let tokens = EMBEDDING_BATCH_TOKENS.max(context as u64);
    // Rows in single precision, and those of the products in another form beside them; these sizes are as the file writes
    // them, so a product may be beyond all memory.
    let of_token = hidden.saturating_mul(9).saturating_add(inner.saturating_mul(3)).saturating_mul(FLOAT_BYTES);
    part("a pass over a batch of texts", of_token.saturating_mul(tokens), Some("limits.context_tokens"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const CONFIG: &str = r#"{
        "model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": true
    }"#;

    fn bytes(context: usize, running: usize, budget: usize) -> [(u64, &'static str); 3] {
        let config = Config::from_hugging_face(CONFIG.as_bytes()).unwrap();
        let engine = EngineConfig { max_running: running, token_budget: budget, ..EngineConfig::default() };
        let parts = decoder_parts(&config, KvElement::F16, context, &engine);
        let parts: Vec<_> = parts.into_iter().map(|part| (part.bytes, part.lowered_by.unwrap())).collect();
        parts.try_into().unwrap()
    }

    #[test]
    fn the_cache_has_whole_blocks_for_the_budget() {
        // Two layers, keys and values, two heads of 16, two bytes each.
        const A_TOKEN: u64 = 2 * 2 * 2 * 16 * 2;
        let [cache, ..] = bytes(1024, 8, 4096);
        assert_eq!(cache, (A_TOKEN * 4096, "limits.token_budget"));
        let [cache, ..] = bytes(1024, 2, 65_530);
        assert_eq!(cache, (A_TOKEN * 65_536, "limits.running_requests"));
        let [cache, ..] = bytes(2, 1, 16);
        assert_eq!(cache.0, A_TOKEN * 16, "a short sequence takes a whole block");
    }

    #[test]
    fn each_part_is_lowered_by_the_setting_that_it_names() {
        let [cache, pass, logits] = bytes(4096, 8, 8192);
        assert!(bytes(4096, 8, 4096)[0].0 < cache.0 && cache.1 == "limits.token_budget");
        assert!(bytes(4096, 4, 8192)[1].0 < pass.0 && pass.1 == "limits.running_requests");
        assert!(bytes(4096, 4, 8192)[2].0 < logits.0 && logits.1 == "limits.running_requests");
    }

    #[test]
    fn no_setting_overflows() {
        let [cache, ..] = bytes(4096, 1024, 100_000_000);
        assert!(cache.0 > 0);
    }
}
