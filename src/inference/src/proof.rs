//! What a model must show on this hardware before anything else: that it computes numbers at all.  The answers that its
//! release statement records come after it, in `known_answers`.

use crate::error::InferenceError;
use crate::load::Model;
use crate::model::Decoder;
use crate::packed::Alone;

/// How many tokens the first computation has: enough for attention to look back.
pub(crate) const PROBE_TOKENS: usize = 3;

/// Runs the vocabulary's first tokens through the model and refuses what is not a finite number, or the same number over
/// and over: such weights would fail each request alone, with nobody told at the start.
pub(crate) fn compute(model: &mut Model, vocabulary_size: usize) -> Result<(), InferenceError> {
    match model {
        Model::Generator(generator) => compute_in(generator.alone(PROBE_TOKENS, None), vocabulary_size),
        Model::Encoder(encoder) => {
            let mut tokens = probe(vocabulary_size);
            tokens.truncate(encoder.config().max_tokens);
            let vectors = encoder.embed(&[&tokens])?;
            require_numbers(&vectors.into_iter().next().unwrap_or_default())
        }
    }
}

/// The same in a sequence that has just begun, with or without an adapter.
pub(crate) fn compute_in(mut sequence: Alone<'_>, vocabulary_size: usize) -> Result<(), InferenceError> {
    require_numbers(&sequence.feed(&probe(vocabulary_size))?)
}

/// The same on the decoder that is trained.
pub(crate) fn compute_trained(decoder: &Decoder) -> Result<(), InferenceError> {
    let logits = decoder.forward_all(&probe(decoder.config().vocabulary_size), None)?;
    require_numbers(&logits.flatten_all().and_then(|logits| logits.to_vec1())?)
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
