//! What a model will take of memory at most, foreseen from its own shapes and from the settings, before anything of it is
//! allocated: a model that does not fit is refused by name and not ended by the kernel in the middle of an answer.
//!
//! ```text
//! peak = weights + the process itself + cache + the widest pass + logits
//! ```

use ampoule_bundle::{Footprint, MemoryPart, VerifiedBundle};

use ampoule_kernels::{BLOCK_TOKENS, KvElement, bytes_per_block};

use crate::describe::Description;
use crate::encoder::EncoderConfig;
use crate::engine::EngineConfig;
use crate::engine::embedding::BATCH_TOKENS;
use crate::error::InferenceError;
use crate::load::kv_element;
use crate::model::{Config, RopeScaling};

const FLOAT_BYTES: u64 = 4;
/// Code, threads, connections and request bodies; measured on small models, with room.
const PROCESS_BYTES: u64 = 96 << 20;
/// A tokenizer's tables beside the file that they are made from; measured on files of 2 to 17 MiB.
const TOKENIZER_FACTOR: u64 = 12;
/// What is remembered of a token beside its keys and values: itself, and where its like is found to guess what follows.
const TOKEN_BYTES: u64 = 64;

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
    let description = Description::find(bundle.weights(), bundle.file("config.json"))?;
    let config = description.decoder()?;
    let described: u64 = match description {
        Description::Header(_) => header_bytes(bundle),
        Description::Files(_) => bundle.files().map(|(_, bytes)| bytes.len() as u64).sum(),
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
    let [hidden, inner, heads, key_heads, width, vocabulary, running, blocks, rows] = [
        config.hidden_size,
        config.intermediate_size,
        config.head_count,
        config.key_value_head_count,
        config.head_dimension,
        config.vocabulary_size,
        engine.max_running.max(1),
        engine.blocks(),
        engine.most_rows(),
    ]
    .map(|size| size as u64);
    let layers = config.layers.len();
    let of_block = bytes_per_block(element, layers, config.key_value_head_count, config.head_dimension) as u64;
    // One block more is for the proof of an adapter.
    let of_blocks = (of_block + BLOCK_TOKENS as u64 * TOKEN_BYTES).saturating_mul(blocks + 1);
    let of_row = 4 * hidden + 4 * heads * width + 3 * key_heads * width + 4 * inner;
    // Logits of all rows that may end in a token, and the copies that sampling sorts.
    let wanted = rows.min(running * (1 + engine.draft_tokens as u64)) + 4;
    vec![
        part("keys and values", of_blocks, Some("limits.token_budget")),
        part("position encodings", rotary_bytes(config, context), Some("limits.context_tokens")),
        part("a pass over a step", FLOAT_BYTES * rows * of_row, Some("limits.running_requests")),
        part("logits", FLOAT_BYTES * vocabulary * wanted, Some("limits.running_requests")),
    ]
}

/// Sine and cosine for each position and half of the rotated dimensions; twice for LongRoPE, which has others for longer
/// sequences.
fn rotary_bytes(config: &Config, context: usize) -> u64 {
    let tables = config.ropes.iter().map(|rope| match rope.scaling {
        RopeScaling::LongRope { .. } => 2 * rope.rotary_dimension as u64,
        _ => rope.rotary_dimension as u64,
    });
    FLOAT_BYTES.saturating_mul(tables.sum()).saturating_mul(context as u64)
}

fn encoder_part(config: &EncoderConfig, context: usize) -> MemoryPart {
    let [hidden, inner] =
        [config.transformer.hidden_size, config.transformer.intermediate_size].map(|size| size as u64);
    let tokens = (BATCH_TOKENS as u64).max(context as u64);
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

    fn bytes(context: usize, running: usize, budget: usize) -> [(u64, &'static str); 4] {
        let config = Config::from_hugging_face(CONFIG.as_bytes()).unwrap();
        let engine = EngineConfig { max_running: running, token_budget: budget, ..EngineConfig::default() };
        let parts = decoder_parts(&config, KvElement::F16, context, &engine);
        let parts: Vec<_> = parts.into_iter().map(|part| (part.bytes, part.lowered_by.unwrap())).collect();
        parts.try_into().unwrap()
    }

    #[test]
    fn the_cache_has_whole_blocks_for_the_budget() {
        // Two layers, keys and values, two heads of 16, two bytes each.
        const A_TOKEN: u64 = 2 * 2 * 2 * 16 * 2 + TOKEN_BYTES;
        let [cache, ..] = bytes(1024, 8, 4096);
        assert_eq!(cache.0, A_TOKEN * (4096 + 16));
        let [cache, ..] = bytes(2, 1, 1);
        assert_eq!(cache.0, A_TOKEN * (16 + 16), "a short sequence takes a whole block");
    }

    #[test]
    fn each_part_is_lowered_by_the_setting_that_it_names() {
        let all = bytes(4096, 1024, 8192);
        assert!(bytes(4096, 1024, 4096)[0].0 < all[0].0 && all[0].1 == "limits.token_budget");
        assert!(bytes(2048, 1024, 8192)[1].0 < all[1].0 && all[1].1 == "limits.context_tokens");
        assert!(bytes(4096, 4, 8192)[2].0 < all[2].0 && all[2].1 == "limits.running_requests");
        assert!(bytes(4096, 4, 8192)[3].0 < all[3].0 && all[3].1 == "limits.running_requests");
    }

    #[test]
    fn a_step_has_no_more_rows_than_it_may_compute() {
        // Of 1024 that generate each has a row, and what is guessed takes the place of prompts.
        let [.., logits] = bytes(4096, 1024, 8192);
        assert!(logits.0 < 4 * 1000 * 1100);
    }

    #[test]
    fn no_setting_overflows() {
        let [cache, ..] = bytes(4096, 1024, 100_000_000);
        assert!(cache.0 > 0);
    }
}
