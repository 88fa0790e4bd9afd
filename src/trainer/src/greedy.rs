//! The most likely continuation of a prompt: how a model is asked when its answers are judged, so that there is no chance
//! in the verdict.

use ampoule_inference::model::{Adapter, Decoder, KvCache, SequenceStep};
use candle_core::D;

use crate::error::TrainerError;

/// What follows `prompt`, at most `limit` tokens, up to the first of `ends` or the end of the context.
///
/// # Errors
/// What the decoder refuses.
pub fn continuation(
    decoder: &Decoder,
    adapter: Option<&Adapter>,
    prompt: &[u32],
    ends: &[u32],
    limit: usize,
) -> Result<Vec<u32>, TrainerError> {
    let mut cache = KvCache::new(decoder.config());
    let mut next = prompt.to_vec();
    let mut continuation = Vec::new();
    while continuation.len() < limit && cache.position() + next.len() < decoder.config().context_length {
        let logits = decoder.forward(&mut [SequenceStep { tokens: &next, cache: &mut cache, adapter }])?;
        let token = logits[0].argmax(D::Minus1)?.to_scalar::<u32>()?;
        if ends.contains(&token) {
            break;
        }
        continuation.push(token);
        next = vec![token];
    }
    Ok(continuation)
}
