//! Chooses the next token from a model's logits.  Pure: the same logits, history and seed give the same token on every
//! machine state.  [`Sampling`] documents the order of the transforms; `tests/sampling.rs` compares each of them with
//! Transformers' own processors.

mod draw;
mod logprobs;
mod transforms;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::InferenceError;
use crate::request::{Sampling, TokenMask};

pub use logprobs::log_probabilities;
pub use transforms::Candidate;

/// The sampler of one sequence: its parameters and what it has seen so far.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    history: History,
    step: u64,
}

/// The tokens that the penalties look at.
#[derive(Debug, Default)]
struct History {
    /// Every token of prompt and output.
    seen: BTreeSet<u32>,
    /// How often each token stands in the output.
    generated: BTreeMap<u32, u32>,
}

impl Sampler {
    /// A sampler at its first step.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Sampler {
        let seen = prompt.iter().copied().collect();
        Sampler { sampling, history: History { seen, generated: BTreeMap::new() }, step: 0 }
    }

    /// How many tokens were chosen or recorded so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Chooses a token and records it.  `logits` are used as scratch space.
    ///
    /// Fails if a logit is NaN or +∞, and if no token is left to choose from; −∞ excludes a token.
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        mask: Option<&mut (dyn TokenMask + 'static)>,
    ) -> Result<u32, InferenceError> {
        self.adjust(logits, mask)?;
        let token = match self.sampling.temperature {
            0.0 => transforms::highest(logits),
            _ => draw::draw(&self.candidates(logits), self.sampling.seed, self.step),
        };
        let token = token.ok_or(InferenceError::NoTokenLeft { step: self.step })?;
        self.record(token);
        Ok(token)
    }

    /// The distribution that [`Sampler::choose`] would draw from: the tokens that are left in ascending order, their
    /// probabilities adding up to 1.  Records nothing; a temperature of 0 puts everything on one token.
    pub fn distribution(&self, logits: &mut [f32]) -> Result<Vec<Candidate>, InferenceError> {
        self.adjust(logits, None)?;
        let mut candidates = match self.sampling.temperature {
            0.0 => Vec::from_iter(transforms::highest(logits).map(|token| Candidate { token, probability: 1.0 })),
            _ => self.candidates(logits),
        };
        transforms::normalise(&mut candidates);
        Ok(candidates)
    }

    /// Takes note of a token that was decided elsewhere.
    pub fn record(&mut self, token: u32) {
        self.history.seen.insert(token);
        let count = self.history.generated.entry(token).or_insert(0);
        *count = count.saturating_add(1);
        self.step += 1;
    }

    /// The transforms that change logits: mask, biases and penalties.
    fn adjust(&self, logits: &mut [f32], mask: Option<&mut (dyn TokenMask + 'static)>) -> Result<(), InferenceError> {
        if let Some((token, &found)) =
            (0..).zip(logits.iter()).find(|(_, logit)| logit.is_nan() || **logit == f32::INFINITY)
        {
            return Err(InferenceError::LogitNotFinite { token, found, step: self.step });
        }
        if let Some(mask) = mask {
            mask.apply(logits);
        }
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        transforms::add_biases(logits, &self.sampling.logit_bias);
        transforms::penalise_repetition(logits, &self.history.seen, repetition_penalty);
        transforms::penalise_counts(logits, &self.history.generated, presence_penalty, frequency_penalty);
        Ok(())
    }

    /// The transforms that make a distribution and cut it; the weights are not normalised.
    fn candidates(&self, logits: &[f32]) -> Vec<Candidate> {
        let mut candidates = transforms::weigh(logits, self.sampling.temperature, self.sampling.top_k);
        transforms::keep_top_p(&mut candidates, self.sampling.top_p);
        transforms::keep_min_p(&mut candidates, self.sampling.min_p);
        candidates
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn choose(sampling: Sampling, logits: &[f32]) -> Result<u32, InferenceError> {
        Sampler::new(sampling, &[]).choose(&mut logits.to_vec(), None)
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        assert_eq!(choose(Sampling::greedy(), &[0.5, 2.0, 2.0, 1.0]).unwrap(), 1);
    }

    #[test]
    fn extreme_temperatures_have_a_defined_result() {
        let logits = [1.0, 3.0, 2.0];
        for seed in 0..50 {
            let cold = Sampling { temperature: 1e-40, seed, ..Sampling::default() };
            assert_eq!(choose(cold, &logits).unwrap(), 1);
        }
        let hot = Sampler::new(Sampling { temperature: f32::INFINITY, ..Sampling::default() }, &[]);
        for candidate in hot.distribution(&mut [1.0, 3.0, f32::NEG_INFINITY]).unwrap() {
            assert!(candidate.token != 2 && (candidate.probability - 0.5).abs() < 1e-12);
        }
    }

    #[test]
    fn a_top_p_of_zero_is_greedy() {
        for seed in 0..50 {
            let sampling = Sampling { top_p: 0.0, seed, ..Sampling::default() };
            assert_eq!(choose(sampling, &[1.0, 1.1, 1.0]).unwrap(), 1);
        }
    }

    #[test]
    fn equal_biases_on_all_tokens_change_nothing() {
        let logits = [0.3, -1.0, 2.0];
        let logit_bias = (0..3).map(|token| (token, -100.0)).collect();
        for seed in 0..50 {
            let biased = Sampling { logit_bias: BTreeMap::clone(&logit_bias), seed, ..Sampling::default() };
            let plain = Sampling { seed, ..Sampling::default() };
            assert_eq!(choose(biased, &logits).unwrap(), choose(plain, &logits).unwrap());
        }
    }

    #[test]
    fn biases_that_overflow_stay_in_order() {
        let sampling = Sampling { logit_bias: BTreeMap::from([(1, f32::MAX)]), ..Sampling::default() };
        assert_eq!(choose(sampling, &[1.0, f32::MAX, 0.0]).unwrap(), 1);
        let tiny = Sampling { repetition_penalty: 1e-44, ..Sampling::default() };
        let mut sampler = Sampler::new(tiny, &[2]);
        assert_eq!(sampler.choose(&mut [1.0, 2.0, 3.0], None).unwrap(), 2);
    }

    #[test]
    fn logits_that_are_no_numbers_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            for sampling in [Sampling::greedy(), Sampling::default()] {
                let refused = choose(sampling, &[0.0, bad]).unwrap_err();
                assert!(matches!(refused, InferenceError::LogitNotFinite { token: 1, step: 0, .. }), "{refused}");
            }
        }
    }

    #[test]
    fn with_every_token_excluded_there_is_an_error() {
        for sampling in [Sampling::greedy(), Sampling::default(), Sampling { top_k: 1, ..Sampling::default() }] {
            let refused = choose(sampling, &[f32::NEG_INFINITY; 3]).unwrap_err();
            assert!(matches!(refused, InferenceError::NoTokenLeft { step: 0 }), "{refused}");
        }
        assert!(matches!(choose(Sampling::default(), &[]), Err(InferenceError::NoTokenLeft { .. })));
    }

    #[derive(Debug)]
    struct Only(u32);

    impl TokenMask for Only {
        fn apply(&mut self, logits: &mut [f32]) {
            for (token, logit) in (0..).zip(logits) {
                if token != self.0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }

        fn accept(&mut self, token: u32) {
            assert_eq!(token, self.0);
        }
    }

    #[test]
    fn the_mask_stands_above_biases_and_temperature() {
        let sampling = Sampling { logit_bias: BTreeMap::from([(0, 100.0)]), ..Sampling::default() };
        for temperature in [0.0, 1.0, f32::INFINITY] {
            let mut sampler = Sampler::new(Sampling { temperature, ..sampling.clone() }, &[]);
            assert_eq!(sampler.choose(&mut [5.0, 0.0, -90.0], Some(&mut Only(2))).unwrap(), 2);
        }
    }
}
