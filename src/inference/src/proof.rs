//! What a model must show on this hardware before anything else: that it computes numbers at all.  The answers that its
//! release statement records come after it, in `known_answers`.

use crate::error::InferenceError;
use crate::load::Model;
use crate::model::{Adapter, Decoder, KvCache, SequenceStep};

/// How many tokens the first computation has: enough for attention to look back.
const PROBE_TOKENS: usize = 3;

/// Runs the vocabulary's first tokens through the model and refuses what is not a finite number, or the same number over
/// and over: such weights would fail each request alone, with nobody told at the start.
pub(crate) fn compute(model: &Model, vocabulary_size: usize) -> Result<(), InferenceError> {
    match model {
        Model::Generator(decoder) => compute_with(decoder, None),
        Model::Encoder(encoder) => {
            let vectors = encoder.embed(&[&probe(vocabulary_size)])?;
            require_numbers(&vectors.into_iter().next().unwrap_or_default())
        }
    }
}

/// The same for a decoder, alone or with an adapter.
pub(crate) fn compute_with(decoder: &Decoder, adapter: Option<&Adapter>) -> Result<(), InferenceError> {
    let (tokens, mut cache) = (probe(decoder.config().vocabulary_size), KvCache::new(decoder.config()));
    let logits = decoder.forward(&mut [SequenceStep { tokens: &tokens, cache: &mut cache, adapter }])?;
    require_numbers(&logits.first().map(|logits| logits.to_vec1::<f32>()).transpose()?.unwrap_or_default())
}

fn probe(vocabulary_size: usize) -> Vec<u32> {
    (0..u32::MAX).take(PROBE_TOKENS.min(vocabulary_size)).collect()
}

fn require_numbers(numbers: &[f32]) -> Result<(), InferenceError> {
    if let Some(&found) = numbers.iter().find(|number| !number.is_finite()) {
        return Err(InferenceError::NotANumber { found });
    }
    match *numbers {
        [found, ref others @ ..] if !others.is_empty() && others.iter().all(|other| *other == found) => {
            Err(InferenceError::OneNumber { found })
        }
        _ => Ok(()),
    }
}
