//! What a model must show on this hardware before it may say that it is ready: that it computes numbers at all, and the
//! answers that its release statement records.
//!
//! Generation is teacher-forced: after each step the recorded token is fed, not the one that would be chosen here, so
//! that one difference does not hide all that follow.  Compared are numbers, within the tolerance that the vendor states
//! for this backend; equality to the bit is not to be had across instruction sets.

use ampoule_bundle::statement::{KnownAnswer, KnownAnswers, KnownStep};

use crate::error::InferenceError;
use crate::load::Model;
use crate::model::{Adapter, Decoder, KvCache, SequenceStep};
use crate::profile::ModelKind;

/// The backend's name in a release statement's table of tolerances.
const BACKEND: &str = "cpu";

/// Values in a release statement are whole numbers of millionths, so that signed JSON needs no floating point.
const MILLIONTHS: f64 = 1e-6;

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

/// Computes every recorded answer and refuses the first that differs by more than the tolerance.
pub(crate) fn replay(model: &Model, expected: &KnownAnswers) -> Result<(), InferenceError> {
    if expected.answers.is_empty() {
        return Ok(());
    }
    let tolerance = expected.tolerance_millionths.get(BACKEND).copied();
    let tolerance = tolerance.ok_or(InferenceError::NoKnownAnswerTolerance { backend: BACKEND })?;
    let compare = |answer, step, what: &dyn Fn() -> String, expected: i64, found: f32| {
        let (expected, found) = (expected as f64 * MILLIONTHS, f64::from(found));
        let tolerance = tolerance as f64 * MILLIONTHS;
        // Not `difference > tolerance`: a NaN must not pass.
        if (expected - found).abs() <= tolerance {
            return Ok(());
        }
        Err(InferenceError::KnownAnswerMissed { answer, step, what: what(), expected, found, tolerance })
    };
    for (answer, known) in expected.answers.iter().enumerate() {
        match (model, known) {
            (Model::Generator(decoder), KnownAnswer::Generation { prompt, steps }) => {
                replay_generation(decoder, prompt, steps, &|step, what, expected, found| {
                    compare(answer, step, what, expected, found)
                })?;
            }
            (Model::Encoder(encoder), KnownAnswer::Embedding { input, components_millionths }) => {
                let vectors = encoder.embed(&[input])?;
                for (component, &expected) in components_millionths.iter().enumerate() {
                    let found = vectors.first().and_then(|vector| vector.get(component)).copied().unwrap_or(f32::NAN);
                    compare(answer, 0, &|| format!("component {component}"), expected, found)?;
                }
            }
            (Model::Generator(_), KnownAnswer::Embedding { .. }) => {
                return Err(InferenceError::KnownAnswerOfOtherKind { answer, model: ModelKind::Generator });
            }
            (Model::Encoder(_), KnownAnswer::Generation { .. }) => {
                return Err(InferenceError::KnownAnswerOfOtherKind { answer, model: ModelKind::Encoder });
            }
        }
    }
    Ok(())
}

type Compare<'a> = &'a dyn Fn(usize, &dyn Fn() -> String, i64, f32) -> Result<(), InferenceError>;

fn replay_generation(
    decoder: &Decoder,
    prompt: &[u32],
    steps: &[KnownStep],
    compare: Compare<'_>,
) -> Result<(), InferenceError> {
    let mut cache = KvCache::new(decoder.config());
    let mut tokens = prompt;
    for (number, step) in steps.iter().enumerate() {
        let logits = decoder.forward(&mut [SequenceStep { tokens, cache: &mut cache, adapter: None }])?;
        let logits = logits.first().map(|logits| logits.to_vec1::<f32>()).transpose()?.unwrap_or_default();
        for top in &step.top {
            let found = logits.get(top.token as usize).copied().unwrap_or(f32::NAN);
            compare(number, &|| format!("the logit of token {}", top.token), top.logit_millionths, found)?;
        }
        // The recorded tokens must also be the best ones here: nothing may stand above the first of them.
        if let Some(best) = step.top.first() {
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            compare(number, &|| "the highest logit".to_owned(), best.logit_millionths, highest)?;
        }
        tokens = std::slice::from_ref(&step.token);
    }
    Ok(())
}
