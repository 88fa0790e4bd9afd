//! What a model will take of memory at most, foreseen from its own shapes and from the settings, before anything of it is
//! allocated: a model that does not fit is refused by name and not ended by the kernel in the middle of an answer.
//!
//! ```text
//! peak = weights + the process itself + the greater of  what is read at a time while the weights are loaded
//!                                                       cache + the widest pass + logits, while it serves
//! ```

use ampoule_bundle::{Footprint, MemoryPart, TensorInfo, VerifiedBundle};

use crate::encoder::{EncoderConfig, Family};
use crate::engine::EngineConfig;
use crate::error::InferenceError;
use crate::load::{elements, gguf_header, missing, model_type};
use crate::model::Config;

const FLOAT_BYTES: u64 = 4;
/// Code, threads, connections and request bodies; measured on small models, with room.
const PROCESS_BYTES: u64 = 96 << 20;
/// A tokenizer's tables beside the file that they are made from; measured on files of 2 to 17 MiB.
const TOKENIZER_FACTOR: u64 = 12;
/// Copies of the scores that exist at one time: the product, what mask or cap make of it, and the softmax.
const SCORES_AT_ONCE: u64 = 3;
/// The fewest tokens that a sequence's cache has room for.
const LEAST_CACHE_TOKENS: u64 = 64;
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
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(bundle.weights().len()) as u64;
    // The bytes of a tensor as they are read and once more as they are converted.
    let reading = 2 * threads * tensors().map(|tensor| tensor.length).max().unwrap_or(0);
    let (config, described) = match gguf_header(bundle.weights(), bundle.file("config.json").is_some())? {
        Some(header) => (Some(Config::from_gguf(header)?), header_bytes(bundle)),
        None => {
            let file = bundle.file("config.json").ok_or_else(|| missing("config.json"))?;
            let is_encoder = EncoderConfig::is_encoder(&model_type(file)?);
            let decoder = if is_encoder { None } else { Some(Config::from_hugging_face(file)?) };
            (decoder, bundle.files().map(|(_, bytes)| bytes.len() as u64).sum())
        }
    };
    let weights = tensors().map(|tensor| loaded_bytes(tensor, config.is_none())).sum();
    let context = |own: usize| {
        let constraint = bundle.release().constraints.max_context_length.map(|tokens| tokens as usize);
        [constraint, context_length].into_iter().flatten().fold(own, usize::min)
    };
    let serving = match config {
        Some(config) => decoder_parts(&config, context(config.context_length), engine),
        None => {
            let config = EncoderConfig::from_files(|path| bundle.file(path))?;
            vec![encoder_part(&config, context(config.max_tokens))]
        }
    };
    let mut parts = vec![
        part("weights", weights, None),
        part("the process and its tokenizer", PROCESS_BYTES + TOKENIZER_FACTOR * described, None),
    ];
    if reading > Footprint(serving.clone()).bytes() {
        parts.push(part("the tensors that are read at a time", reading, None));
    } else {
        parts.extend(serving);
    }
    Ok(Footprint(parts))
}

fn part(what: &'static str, bytes: u64, lowered_by: Option<&'static str>) -> MemoryPart {
    MemoryPart { what, bytes, lowered_by }
}

/// What a tensor takes once it is loaded: half precision is widened; blocks stay as they are, but for an encoder's.
fn loaded_bytes(tensor: &TensorInfo, of_encoder: bool) -> u64 {
    if tensor.kind.block_elements() > 1 && !of_encoder {
        tensor.length
    } else {
        tensor.length.max(FLOAT_BYTES * elements(tensor))
    }
}

fn header_bytes(bundle: &VerifiedBundle) -> u64 {
    bundle.release().weights.iter().map(|weights| weights.header_length).sum()
}

fn decoder_parts(config: &Config, context: usize, engine: &EngineConfig) -> Vec<MemoryPart> {
    let [layers, hidden, inner, heads, key_heads, width, vocabulary, own, context, running, budget, chunk] = [
        config.layers.len(),
        config.hidden_size,
        config.intermediate_size,
        config.head_count,
        config.key_value_head_count,
        config.head_dimension,
        config.vocabulary_size,
        config.context_length,
        context,
        engine.max_running.max(1),
        engine.token_budget,
        engine.prefill_chunk.max(1),
    ]
    .map(|size| size as u64);
    // A cache grows in doublings, up to the model's own length, whatever the site allows of it.
    let longest = (2 * context).min(own).max(LEAST_CACHE_TOKENS);
    let (by_budget, by_requests) = ((2 * budget).max(LEAST_CACHE_TOKENS * running), running * longest);
    let a_token = layers * 2 * key_heads * width * FLOAT_BYTES;
    let lowered_by = if by_budget <= by_requests { "limits.token_budget" } else { "limits.running_requests" };
    let cache = part("keys and values", a_token.saturating_mul(by_budget.min(by_requests)), Some(lowered_by));
    let tokens = chunk.min(context).max(1);
    let rows = tokens * (4 * hidden + 4 * heads * width + 4 * key_heads * width + 4 * inner);
    let scores = SCORES_AT_ONCE * heads * tokens * context + tokens * context;
    let pass = part("a pass over a piece of a prompt", FLOAT_BYTES * (rows + scores), Some("limits.context_tokens"));
    // Logits of all that run, and the copies that sampling sorts.
    let logits = part("logits", 4 * FLOAT_BYTES * vocabulary * running, Some("limits.running_requests"));
    vec![cache, pass, logits]
}

fn encoder_part(config: &EncoderConfig, context: usize) -> MemoryPart {
    let [hidden, inner, heads] = match &config.family {
        Family::Bert(bert) => [bert.hidden_size, bert.intermediate_size, bert.num_attention_heads],
        Family::Roberta(roberta) => [roberta.hidden_size, roberta.intermediate_size, roberta.num_attention_heads],
    }
    .map(|size| size as u64);
    let longest = context as u64;
    let tokens = EMBEDDING_BATCH_TOKENS.max(longest);
    // These sizes are as the file writes them, so a product may be beyond all memory.
    let product = |factors: &[u64]| factors.iter().fold(FLOAT_BYTES, |product, factor| product.saturating_mul(*factor));
    let of_passes = [
        product(&[tokens, 8, hidden]),
        product(&[tokens, 2, inner]),
        product(&[SCORES_AT_ONCE, heads, tokens, longest]),
    ];
    let bytes = of_passes.into_iter().fold(0, u64::saturating_add);
    part("a pass over a batch of texts", bytes, Some("limits.context_tokens"))
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
        let parts = decoder_parts(&config, context, &engine);
        let parts: Vec<_> = parts.into_iter().map(|part| (part.bytes, part.lowered_by.unwrap())).collect();
        parts.try_into().unwrap()
    }

    #[test]
    fn the_cache_is_bounded_by_the_budget_or_by_what_the_requests_can_hold() {
        // Two layers, keys and values, two heads of 16, four bytes each.
        const A_TOKEN: u64 = 2 * 2 * 2 * 16 * 4;
        let [cache, ..] = bytes(1024, 8, 4096);
        assert_eq!(cache, (A_TOKEN * 2 * 4096, "limits.token_budget"));
        let [cache, ..] = bytes(1024, 2, 65_536);
        assert_eq!(cache, (A_TOKEN * 2 * 2048, "limits.running_requests"));
        let [cache, ..] = bytes(4096, 2, 65_536);
        assert_eq!(cache.0, A_TOKEN * 2 * 4096, "never beyond the model's own length");
        let [cache, ..] = bytes(2, 1, 16);
        assert_eq!(cache.0, A_TOKEN * 64, "a short sequence has room for some tokens");
    }

    #[test]
    fn each_part_is_lowered_by_the_setting_that_it_names() {
        let [cache, pass, logits] = bytes(4096, 8, 8192);
        assert!(bytes(4096, 8, 4096)[0].0 < cache.0 && cache.1 == "limits.token_budget");
        assert!(bytes(1024, 8, 8192)[1].0 < pass.0 && pass.1 == "limits.context_tokens");
        assert!(bytes(4096, 4, 8192)[2].0 < logits.0 && logits.1 == "limits.running_requests");
    }

    #[test]
    fn no_setting_overflows() {
        let [cache, ..] = bytes(4096, 1024, 100_000_000);
        assert!(cache.0 > 0);
    }
}
