//! Records what a model computes, for its release statement: which texts, how many steps, and where to stop.
//!
//! A step is recorded only where the best token leads the next one by more than the tolerance.  A closer race may end
//! otherwise on other hardware without anything being wrong, so that it would prove nothing, and an answer ends there.

use std::collections::BTreeMap;

use ampoule_bundle::statement::{KnownAnswer, KnownAnswers, KnownStep, TopLogit};

use super::{Forced, MILLIONTHS};
use crate::error::InferenceError;
use crate::load::Model;
use crate::text::{Affixes, ByteLimit, SpecialTokens, TextProcessor};

/// How much is recorded, and how far other hardware may differ.
#[derive(Debug, Clone)]
pub struct Recording {
    /// How many answers.
    pub answers: usize,
    /// How many steps each answer of a generator has at most.
    pub steps: usize,
    /// The largest difference allowed for each backend, in millionths.
    pub tolerance_millionths: BTreeMap<String, u64>,
}

impl Recording {
    /// `answers` answers of up to 16 steps.  The tolerances are some ten times of what is seen between instruction sets
    /// on the CPU, and of what half precision costs on a GPU; a wrong weight or kernel moves logits by whole units.
    #[must_use]
    pub fn of(answers: usize) -> Recording {
        let tolerance_millionths = BTreeMap::from([("cpu".to_owned(), 50_000), ("cuda".to_owned(), 250_000)]);
        Recording { answers, steps: 16, tolerance_millionths }
    }
}

/// How many of the highest logits a step records.
const TOP: usize = 16;

/// Inputs are kept short: what is proven is that the numbers are right, and it is proven at each start.
const MAX_INPUT_TOKENS: usize = 48;

/// No text here is longer, so that the limit refuses none.
const LONGEST_TEXT: ByteLimit = ByteLimit(1 << 10);

/// What the answers begin with.  Scripts, digits, code and white space lead to different tokens, and so to different rows
/// of the embedding; more than these are combined from them.
const TEXTS: &[&str] = &[
    "The capital of France is",
    "Once upon a time, in a land far away, there lived",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "1, 1, 2, 3, 5, 8, 13,",
    "Die Würde des Menschen ist unantastbar. Sie zu achten und zu",
    "日本の首都は",
    "{\"name\": \"ampoule\", \"version\": \"",
    "Все счастливые семьи похожи друг на друга,",
    "La suma de los ángulos de un triángulo es",
    "Water boils at 100 degrees Celsius and freezes at",
];

pub(crate) fn record(
    model: &mut Model,
    text: &TextProcessor,
    context_length: usize,
    recording: &Recording,
) -> Result<KnownAnswers, InferenceError> {
    let margin = recording.tolerance_millionths.values().copied().max().unwrap_or(0) as f64 * MILLIONTHS;
    let mut answers = Vec::new();
    let room = context_length.saturating_sub(recording.steps).clamp(1, MAX_INPUT_TOKENS);
    // A text whose first step is too close a race gives no answer, so some more are tried than are wanted.
    for number in 0..recording.answers.saturating_mul(4) {
        if answers.len() == recording.answers {
            break;
        }
        let tokens = tokens_of(number, text, room)?;
        match model {
            Model::Generator(generator) => {
                let mut sequence = generator.alone(tokens.len() + recording.steps, None);
                let steps = steps_after(&mut sequence, &tokens, recording.steps, margin)?;
                if !steps.is_empty() {
                    answers.push(KnownAnswer::Generation { prompt: tokens, steps });
                }
            }
            Model::Encoder(encoder) => {
                let vector = encoder.embed(&[&tokens])?.into_iter().next().unwrap_or_default();
                let components_millionths = vector.iter().map(|&component| to_millionths(component)).collect();
                answers.push(KnownAnswer::Embedding { input: tokens, components_millionths });
            }
        }
    }
    if answers.len() < recording.answers {
        return Err(InferenceError::TooFewKnownAnswers { found: answers.len(), wanted: recording.answers, margin });
    }
    Ok(KnownAnswers { tolerance_millionths: recording.tolerance_millionths.clone(), answers })
}

/// The tokens of the text with this number: the first ones as they stand, later ones from further inside, with another
/// text behind them.
fn tokens_of(number: usize, text: &TextProcessor, most: usize) -> Result<Vec<u32>, InferenceError> {
    let (place, round) = (number % TEXTS.len(), number / TEXTS.len());
    let inside: String = TEXTS[place].chars().skip(round).collect();
    let written = match round {
        0 => inside,
        _ => format!("{inside} {}", TEXTS[(place + round) % TEXTS.len()]),
    };
    let mut tokens = text.tokenizer().encode(&written, SpecialTokens::AsPlainText, Affixes::Add, LONGEST_TEXT)?;
    tokens.truncate(most);
    Ok(tokens)
}

fn steps_after(
    sequence: &mut impl Forced,
    prompt: &[u32],
    most: usize,
    margin: f64,
) -> Result<Vec<KnownStep>, InferenceError> {
    let mut steps: Vec<KnownStep> = Vec::new();
    while steps.len() < most {
        let logits = match steps.last() {
            None => sequence.feed(prompt)?,
            Some(step) => sequence.feed(&[step.token])?,
        };
        let top = highest(&logits);
        match top[..] {
            [(token, best), (_, next), ..] if f64::from(best - next) > margin => {
                let top = top.iter().map(|&(token, logit)| TopLogit { token, logit_millionths: to_millionths(logit) });
                steps.push(KnownStep { top: top.collect(), token });
            }
            _ => break,
        }
    }
    Ok(steps)
}

/// The tokens with the highest logits, best first; of equal ones the lower token.
fn highest(logits: &[f32]) -> Vec<(u32, f32)> {
    let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |left: &(u32, f32), right: &(u32, f32)| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0));
    if ranked.len() > TOP {
        ranked.select_nth_unstable_by(TOP, order);
        ranked.truncate(TOP);
    }
    ranked.sort_unstable_by(order);
    ranked
}

fn to_millionths(value: f32) -> i64 {
    // The model was seen to compute finite numbers; the conversion saturates.
    (f64::from(value) / MILLIONTHS).round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_come_first_and_equal_ones_in_the_order_of_their_tokens() {
        let mut logits = vec![0.0; 40];
        logits[7] = 3.0;
        logits[30] = 5.0;
        let top = highest(&logits);
        assert_eq!(top.len(), TOP);
        assert_eq!(top[..4], [(30, 5.0), (7, 3.0), (0, 0.0), (1, 0.0)]);
        assert_eq!(highest(&[1.0, 2.0]), [(1, 2.0), (0, 1.0)]);
        assert_eq!(to_millionths(-1.5), -1_500_000);
    }
}
