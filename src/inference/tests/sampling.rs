//! Sampling against Transformers: `fixtures/sampling/make.py` runs its logits processors and writes what must come out.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use ampoule_inference::Sampling;
use ampoule_inference::sampling::{Sampler, log_probabilities};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    prompt: Vec<u32>,
    output: Vec<u32>,
    logits: Vec<Vec<f32>>,
    log_probabilities: Vec<Vec<f32>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    parameters: Parameters,
    logits: usize,
    shares: BTreeMap<u32, f64>,
    draws: Vec<(u64, u32)>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    #[serde(default)]
    logit_bias: BTreeMap<u32, f32>,
}

impl Parameters {
    fn sampling(&self, seed: u64) -> Sampling {
        let default = Sampling::default();
        Sampling {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            logit_bias: self.logit_bias.clone(),
            seed,
        }
    }
}

fn expected() -> Expected {
    serde_json::from_str(include_str!("fixtures/sampling/expected.json")).unwrap()
}

/// A sampler that has seen the fixture's prompt and output.
fn sampler(expected: &Expected, case: &Case, seed: u64) -> Sampler {
    let mut sampler = Sampler::new(case.parameters.sampling(seed), &expected.prompt);
    expected.output.iter().for_each(|&token| sampler.record(token));
    sampler
}

#[test]
fn distributions_equal_transformers() {
    let expected = expected();
    assert!(expected.cases.len() >= 20, "the fixture lost cases");
    for case in &expected.cases {
        let mut logits = expected.logits[case.logits].clone();
        let found = sampler(&expected, case, 0).distribution(&mut logits).unwrap();
        let found: BTreeMap<u32, f64> =
            found.iter().map(|candidate| (candidate.token, candidate.probability)).collect();
        let tokens = |shares: &BTreeMap<u32, f64>| shares.keys().copied().collect::<Vec<_>>();
        assert_eq!(tokens(&found), tokens(&case.shares), "{:?}", case.parameters);
        for (token, share) in &case.shares {
            let relative = (found[token] / share - 1.0).abs();
            assert!(relative < 1e-5, "{:?}: token {token} has {} instead of {share}", case.parameters, found[token]);
        }
    }
}

#[test]
fn draws_equal_those_of_another_chacha() {
    let expected = expected();
    for case in &expected.cases {
        for &(seed, token) in &case.draws {
            let mut logits = expected.logits[case.logits].clone();
            let found = sampler(&expected, case, seed).choose(&mut logits, None).unwrap();
            assert_eq!(found, token, "{:?} with seed {seed}", case.parameters);
        }
    }
}

#[test]
fn greedy_takes_the_best_after_the_penalties() {
    let expected = expected();
    let penalised = expected.cases.iter().filter(|case| case.parameters.temperature.is_none());
    let mut changed = 0;
    for case in penalised {
        let sampling = Sampling { temperature: 0.0, ..case.parameters.sampling(9) };
        let mut sampler = Sampler::new(sampling, &expected.prompt);
        expected.output.iter().for_each(|&token| sampler.record(token));
        let best = case.shares.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(token, _)| *token);
        let found = sampler.choose(&mut expected.logits[case.logits].clone(), None).unwrap();
        assert_eq!(Some(found), best, "{:?}", case.parameters);
        changed += 1;
    }
    assert!(changed > 10);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let expected = expected();
    for (logits, wanted) in expected.logits.iter().zip(&expected.log_probabilities) {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| wanted[b as usize].total_cmp(&wanted[a as usize]));
        for chosen in [0, 5, order[0]] {
            let found = log_probabilities(logits, chosen, 20);
            assert!((found.logprob - wanted[chosen as usize]).abs() < 1e-5);
            let tokens: Vec<u32> = found.top.iter().map(|(token, _)| *token).collect();
            assert_eq!(tokens, order[..20]);
            assert!(found.top.iter().all(|(token, value)| (value - wanted[*token as usize]).abs() < 1e-5));
        }
    }
}
