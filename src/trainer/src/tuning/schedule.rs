//! What is learnt at which step, and how fast: both are functions of the settings and the step, so that there is no state
//! to keep but the step's number.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::rows::{Batch, Purpose, stream};

use super::lessons::Lesson;

/// The settings of a run. Two runs with the same settings, data and base give the same adapter, bit for bit, on one kind
/// of processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Seeds the initial matrices, the order of the examples, and which rehearsals are kept aside.
    pub seed: u64,
    /// How often each example is seen.
    pub epochs: usize,
    /// Examples in a step.
    pub batch: usize,
    /// The longest example in tokens.
    pub max_tokens: usize,
    /// The adapter's rank.
    pub rank: usize,
    /// The adapter's scale is `alpha / rank`.
    pub alpha: f64,
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Share of the steps in which the learning rate rises, 0 to 1.
    pub warmup_share: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub clip_norm: f64,
}

impl Settings {
    /// Optimizer steps over so many examples.
    pub fn steps(&self, examples: usize) -> usize {
        self.epochs * examples.div_ceil(self.batch)
    }

    /// The learning rate of a step counted from 1: a linear rise, then a cosine to zero, as Transformers'
    /// `get_cosine_schedule_with_warmup` has it for the step before.
    pub fn rate(&self, step: usize, steps: usize) -> f64 {
        let warmup = (self.warmup_share * steps as f64).ceil() as usize;
        let done = step - 1;
        if done < warmup {
            return self.learning_rate * done as f64 / warmup.max(1) as f64;
        }
        let progress = (done - warmup) as f64 / (steps - warmup).max(1) as f64;
        self.learning_rate * (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
    }

    /// The batch of a step counted from 1: examples, joined by as many rehearsals if there are any. Both go through their
    /// list again and again, each time in another order and at a pace of its own.
    pub fn batch_at<'a>(
        &self,
        step: usize,
        lessons: &'a [Lesson],
        rehearsals: &'a [Lesson],
    ) -> (Vec<&'a Lesson>, Vec<&'a Lesson>) {
        (self.share_at(step, lessons, Purpose::Order), self.share_at(step, rehearsals, Purpose::Rehearsal))
    }

    fn share_at<'a>(&self, step: usize, lessons: &'a [Lesson], purpose: Purpose) -> Vec<&'a Lesson> {
        if lessons.is_empty() {
            return Vec::new();
        }
        let per_epoch = lessons.len().div_ceil(self.batch);
        let (epoch, place) = ((step - 1) / per_epoch, (step - 1) % per_epoch);
        let mut order: Vec<usize> = (0..lessons.len()).collect();
        order.shuffle(&mut stream(self.seed, purpose, epoch as u64));
        order.into_iter().skip(place * self.batch).take(self.batch).map(|index| &lessons[index]).collect()
    }
}

/// Lessons side by side, and after them rehearsals, whose positions have no target: there the base is the target. Shorter
/// ones are filled up at the end, where causal attention lets nobody look.
pub fn lay_out(lessons: &[&Lesson], rehearsals: &[&Lesson], filler: u32) -> Batch {
    let examples = lessons.len();
    let lessons = [lessons, rehearsals].concat();
    // The last token is only ever predicted.
    let row_tokens = lessons.iter().map(|lesson| lesson.tokens.len().saturating_sub(1)).max().unwrap_or(0).max(1);
    let mut batch =
        Batch { rows: lessons.len(), row_tokens, inputs: Vec::new(), positions: Vec::new(), targets: Vec::new() };
    for (row, lesson) in lessons.iter().enumerate() {
        for (at, pair) in lesson.tokens.windows(2).enumerate() {
            if lesson.is_learnt[at + 1] {
                batch.positions.push((row * row_tokens + at) as u32);
                if row < examples {
                    batch.targets.push(pair[1]);
                }
            }
        }
        let inputs = &lesson.tokens[..lesson.tokens.len() - 1];
        batch.inputs.extend_from_slice(inputs);
        batch.inputs.extend(std::iter::repeat_n(filler, row_tokens - inputs.len()));
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            seed: 1,
            epochs: 3,
            batch: 4,
            max_tokens: 64,
            rank: 4,
            alpha: 8.0,
            learning_rate: 1.0,
            warmup_share: 0.1,
            weight_decay: 0.0,
            clip_norm: 1.0,
        }
    }

    fn lesson(line: usize, tokens: &[u32], is_learnt: &[bool]) -> Lesson {
        Lesson { line, question: String::new(), tokens: tokens.to_vec(), is_learnt: is_learnt.to_vec() }
    }

    fn lessons(count: usize) -> Vec<Lesson> {
        (0..count).map(|line| lesson(line, &[0; 3], &[false, true, true])).collect()
    }

    #[test]
    fn each_epoch_sees_each_example_once_in_an_order_of_its_own() {
        let (settings, lessons) = (settings(), lessons(10));
        assert_eq!(settings.steps(10), 9);
        let epoch = |first: usize| -> Vec<usize> {
            (first..first + 3)
                .flat_map(|step| settings.batch_at(step, &lessons, &[]).0)
                .map(|lesson| lesson.line)
                .collect()
        };
        let (first, second) = (epoch(1), epoch(4));
        assert_ne!(first, second);
        assert_eq!(first, epoch(1), "the order is a function of the step");
        for mut lines in [first, second] {
            lines.sort_unstable();
            assert_eq!(lines, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn rehearsals_join_each_batch_at_a_pace_of_their_own() {
        let (settings, examples, rehearsals) = (settings(), lessons(4), lessons(9));
        let lines = |step| -> Vec<usize> {
            let (examples, rehearsals) = settings.batch_at(step, &examples, &rehearsals);
            examples.iter().chain(&rehearsals).map(|lesson| lesson.line).collect()
        };
        let mut seen: Vec<usize> = (1..=3).flat_map(|step| lines(step)[4..].to_vec()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..9).collect::<Vec<_>>(), "three steps are one pass over nine rehearsals");
        for step in 1..=3 {
            let mut examples = lines(step)[..4].to_vec();
            examples.sort_unstable();
            assert_eq!(examples, [0, 1, 2, 3], "each step is one pass over four examples");
        }
    }

    #[test]
    fn the_rate_rises_and_falls_as_transformers_has_it() {
        let settings = settings();
        let close = |step, expected: f64| assert!((settings.rate(step, 100) - expected).abs() < 1e-12, "{step}");
        close(1, 0.0);
        close(6, 0.5);
        close(11, 1.0);
        close(56, 0.5);
        assert!(settings.rate(100, 100) > 0.0);
    }

    #[test]
    fn shorter_lessons_are_filled_up_and_nothing_of_it_is_learnt() {
        let long = lesson(1, &[1, 2, 3, 4], &[false, false, true, true]);
        let short = lesson(2, &[5, 6], &[false, true]);
        let batch = lay_out(&[&long, &short], &[], 0);
        assert_eq!((batch.rows, batch.row_tokens), (2, 3));
        assert_eq!(batch.inputs, [1, 2, 3, 5, 0, 0]);
        assert_eq!(batch.positions, [1, 2, 3]);
        assert_eq!(batch.targets, [3, 4, 6]);
        let batch = lay_out(&[&long], &[&short], 0);
        assert_eq!((&batch.positions[..], &batch.targets[..]), (&[1, 2, 3][..], &[3, 4][..]), "the last has no target");
    }
}
