//! Computes every recorded answer anew and tells how many numbers differ, and the one that differs most.

use std::fmt;

use ampoule_bundle::statement::{KnownAnswer, KnownAnswers, KnownStep};

use super::{BACKEND, Forced, MILLIONTHS, Trained};
use crate::error::InferenceError;
use crate::load::Model;
use crate::model::{Decoder, KvCache};
use crate::profile::ModelKind;

/// How the numbers computed here compare with those recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The largest difference allowed.
    pub tolerance: f64,
    /// How many numbers were compared.
    pub compared: usize,
    /// How many of them differ by more than the tolerance.
    pub missed: usize,
    /// The answers that they belong to, by their place in the statement, from 0.
    pub answers: Vec<usize>,
    /// The one that differs most.
    pub worst: Option<Miss>,
}

/// A number that is not the recorded one.
#[derive(Debug, Clone, PartialEq)]
pub struct Miss {
    /// The answer's place in the statement, from 0.
    pub answer: usize,
    /// The step within the answer, from 0.
    pub step: usize,
    /// Which number it is.
    pub what: String,
    /// What was recorded.
    pub expected: f64,
    /// What was computed.
    pub found: f64,
}

impl Miss {
    fn difference(&self) -> f64 {
        (self.expected - self.found).abs()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tolerance, compared, missed, answers, worst } = self;
        let answers: Vec<String> = answers.iter().map(usize::to_string).collect();
        let answers = answers.join(", ");
        write!(formatter, "{missed} of {compared} numbers differ by more than {tolerance}, in answers {answers}")?;
        let Some(worst) = worst else { return Ok(()) };
        let Miss { answer, step, what, expected, found } = worst;
        let difference = worst.difference();
        write!(
            formatter,
            "; by most, {difference:.6}, {what} at step {step} of answer {answer}: {found:.6}, recorded is {expected:.6}"
        )
    }
}

impl Comparison {
    fn new(tolerance: f64) -> Comparison {
        Comparison { tolerance, compared: 0, missed: 0, answers: Vec::new(), worst: None }
    }

    fn compare(&mut self, answer: usize, step: usize, what: impl FnOnce() -> String, expected: i64, found: f32) {
        self.compared += 1;
        let (expected, found) = (expected as f64 * MILLIONTHS, f64::from(found));
        // Not `difference > tolerance`: a NaN must not pass.
        if (expected - found).abs() <= self.tolerance {
            return;
        }
        self.missed += 1;
        if self.answers.last() != Some(&answer) {
            self.answers.push(answer);
        }
        let miss = Miss { answer, step, what: String::new(), expected, found };
        let is_worse = |worst: &Miss| {
            let worst = worst.difference();
            !worst.is_nan() && (miss.difference().is_nan() || miss.difference() > worst)
        };
        if self.worst.as_ref().is_none_or(is_worse) {
            self.worst = Some(Miss { what: what(), ..miss });
        }
    }
}

/// Computes every recorded answer.
///
/// # Errors
/// [`InferenceError::KnownAnswersMissed`] when a number differs by more than the tolerance, with all that differ;
/// [`InferenceError::NoKnownAnswerTolerance`] and [`InferenceError::KnownAnswerOfOtherKind`] when nothing can be compared;
/// [`InferenceError::Model`] when the model cannot take an answer's tokens.
pub(crate) fn replay(model: &mut Model, expected: &KnownAnswers) -> Result<(), InferenceError> {
    compare(expected, model.kind(), |answer, known, comparison| match (&mut *model, known) {
        (Model::Generator(generator), KnownAnswer::Generation { prompt, steps }) => {
            let mut sequence = generator.alone(prompt.len() + steps.len(), None);
            replay_generation(&mut sequence, prompt, steps, answer, comparison).map(Some)
        }
        (Model::Encoder(encoder), KnownAnswer::Embedding { input, components_millionths }) => {
            let vectors = encoder.embed(&[input])?;
            for (component, &expected) in components_millionths.iter().enumerate() {
                let found = vectors.first().and_then(|vector| vector.get(component)).copied().unwrap_or(f32::NAN);
                comparison.compare(answer, 0, || format!("component {component}"), expected, found);
            }
            Ok(Some(()))
        }
        _ => Ok(None),
    })
}

/// The same on the decoder that is trained.
pub(crate) fn replay_trained(decoder: &Decoder, expected: &KnownAnswers) -> Result<(), InferenceError> {
    compare(expected, ModelKind::Generator, |answer, known, comparison| match known {
        KnownAnswer::Generation { prompt, steps } => {
            let mut sequence = Trained { decoder, cache: KvCache::new(decoder.config()) };
            replay_generation(&mut sequence, prompt, steps, answer, comparison).map(Some)
        }
        KnownAnswer::Embedding { .. } => Ok(None),
    })
}

/// Computes each answer by `compute`, which gives `None` for one that no model of this kind gives.
fn compare(
    expected: &KnownAnswers,
    model: ModelKind,
    mut compute: impl FnMut(usize, &KnownAnswer, &mut Comparison) -> Result<Option<()>, InferenceError>,
) -> Result<(), InferenceError> {
    if expected.answers.is_empty() {
        return Ok(());
    }
    let tolerance = expected.tolerance_millionths.get(BACKEND).copied();
    let tolerance = tolerance.ok_or(InferenceError::NoKnownAnswerTolerance { backend: BACKEND })?;
    let mut comparison = Comparison::new(tolerance as f64 * MILLIONTHS);
    for (answer, known) in expected.answers.iter().enumerate() {
        if compute(answer, known, &mut comparison)?.is_none() {
            return Err(InferenceError::KnownAnswerOfOtherKind { answer, model });
        }
    }
    match comparison.missed {
        0 => Ok(()),
        _ => Err(InferenceError::KnownAnswersMissed(Box::new(comparison))),
    }
}

fn replay_generation(
    sequence: &mut impl Forced,
    prompt: &[u32],
    steps: &[KnownStep],
    answer: usize,
    comparison: &mut Comparison,
) -> Result<(), InferenceError> {
    let mut tokens = prompt;
    for (number, step) in steps.iter().enumerate() {
        let logits = sequence.feed(tokens)?;
        for top in &step.top {
            let found = logits.get(top.token as usize).copied().unwrap_or(f32::NAN);
            let what = || format!("the logit of token {}", top.token);
            comparison.compare(answer, number, what, top.logit_millionths, found);
        }
        // The recorded tokens must also be the best ones here: nothing may stand above the first of them.
        if let Some(best) = step.top.first() {
            let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            comparison.compare(answer, number, || "the highest logit".to_owned(), best.logit_millionths, highest);
        }
        tokens = std::slice::from_ref(&step.token);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_told_and_what_is_no_number_is_worse_than_any() {
        let mut comparison = Comparison::new(0.01);
        let what = |token: u32| move || format!("the logit of token {token}");
        comparison.compare(0, 0, what(1), 1_000_000, 1.005);
        assert_eq!((comparison.compared, comparison.missed), (1, 0));
        comparison.compare(0, 1, what(2), 2_000_000, 2.5);
        comparison.compare(0, 1, what(3), 2_000_000, 2.25);
        comparison.compare(2, 0, what(4), -1_000_000, 3.0);
        let told = "3 of 4 numbers differ by more than 0.01, in answers 0, 2; by most, 4.000000, the logit of token 4 at \
                    step 0 of answer 2: 3.000000, recorded is -1.000000";
        assert_eq!(comparison.to_string(), told);
        comparison.compare(3, 0, what(5), 0, f32::NAN);
        comparison.compare(4, 0, what(6), 0, 1e30);
        assert_eq!(comparison.worst.map(|worst| worst.answer), Some(3));
        assert_eq!(comparison.answers, [0, 2, 3, 4]);
    }
}
