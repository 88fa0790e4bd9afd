//! The single transforms between logits and the distribution that is drawn from, each a plain function.  Those on
//! logits work in f32, as the models do; weights are f64, so that long sums over a vocabulary stay exact enough.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub token: u32,
    /// Its share; until `normalise` the shares are relative to the most likely token, which has 1.
    pub probability: f64,
}

/// Adds each bias to its token's logit.
pub(crate) fn add_biases(logits: &mut [f32], biases: &BTreeMap<u32, f32>) {
    for (&token, &bias) in biases {
        change(logits, token, |logit| logit + bias);
    }
}

/// Makes tokens that were seen less likely (or, below 1, more): Transformers' `RepetitionPenaltyLogitsProcessor`.
pub(crate) fn penalise_repetition(logits: &mut [f32], seen: &BTreeSet<u32>, penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for &token in seen {
        change(logits, token, |logit| if logit < 0.0 { logit * penalty } else { logit / penalty });
    }
}

/// Subtracts a penalty for being in the output at all and one for every time.
pub(crate) fn penalise_counts(logits: &mut [f32], generated: &BTreeMap<u32, u32>, presence: f32, frequency: f32) {
    if presence == 0.0 && frequency == 0.0 {
        return;
    }
    for (&token, &count) in generated {
        change(logits, token, |logit| logit - frequency * count as f32 - presence);
    }
}

/// Changes one logit.  What was excluded stays excluded, and what overflows stays comparable: neither infinity nor NaN
/// may come out, for the difference of two infinities has no meaning.
fn change(logits: &mut [f32], token: u32, with: impl Fn(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token as usize).filter(|logit| **logit > f32::NEG_INFINITY) {
        let changed = with(*logit);
        *logit = if changed.is_nan() { f32::MIN } else { changed.clamp(f32::MIN, f32::MAX) };
    }
}

/// The token with the highest logit, the lowest id among equals; `None` if all are excluded.
pub(crate) fn highest(logits: &[f32]) -> Option<u32> {
    let allowed = (0..).zip(logits).filter(|(_, logit)| **logit > f32::NEG_INFINITY);
    allowed.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(token, _)| token)
}

/// Turns logits into weights at a temperature above 0, keeping the `top_k` highest and their equals (0 keeps all).
/// Ascending by token.
pub(crate) fn weigh(logits: &[f32], temperature: f32, top_k: u32) -> Vec<Candidate> {
    let Some(token) = highest(logits) else { return Vec::new() };
    let (peak, floor) = (f64::from(logits[token as usize]), kth_highest(logits, top_k));
    let allowed = (0..).zip(logits).filter(|(_, logit)| **logit > f32::NEG_INFINITY && **logit >= floor);
    // Subtract before dividing: every exponent is then 0 or below, whatever the temperature.
    let weight = |logit: f32| ((f64::from(logit) - peak) / f64::from(temperature)).exp();
    allowed.map(|(token, &logit)| Candidate { token, probability: weight(logit) }).collect()
}

/// The `k`-th highest logit, or −∞ where `k` is 0 or no limit.
fn kth_highest(logits: &[f32], k: u32) -> f32 {
    let k = k as usize;
    if k == 0 || k >= logits.len() {
        return f32::NEG_INFINITY;
    }
    let mut values = logits.to_vec();
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// Keeps the most likely candidates until their share reaches `top_p`; at least one.
pub(crate) fn keep_top_p(candidates: &mut Vec<Candidate>, top_p: f32) {
    if top_p >= 1.0 || candidates.is_empty() {
        return;
    }
    let enough = candidates.iter().map(|candidate| candidate.probability).sum::<f64>() * f64::from(top_p);
    // Few candidates usually hold nearly everything: sort a few, and more only if those were not enough.
    let mut sorted = 0;
    let mut share = 0.0;
    let mut kept = 0;
    while kept == sorted && sorted < candidates.len() {
        let upto = (sorted.max(32) * 8).min(candidates.len());
        let rest = &mut candidates[sorted..];
        if upto - sorted < rest.len() {
            rest.select_nth_unstable_by(upto - sorted, most_likely_first);
        }
        candidates[sorted..upto].sort_unstable_by(most_likely_first);
        sorted = upto;
        while kept < sorted && (kept == 0 || share < enough) {
            share += candidates[kept].probability;
            kept += 1;
        }
    }
    candidates.truncate(kept);
    candidates.sort_unstable_by_key(|candidate| candidate.token);
}

fn most_likely_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.probability.total_cmp(&a.probability).then(a.token.cmp(&b.token))
}

/// Drops candidates below this fraction of the most likely one, whose weight is 1.
pub(crate) fn keep_min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    candidates.retain(|candidate| candidate.probability >= f64::from(min_p));
}

/// Makes the shares add up to 1.
pub(crate) fn normalise(candidates: &mut [Candidate]) {
    let total: f64 = candidates.iter().map(|candidate| candidate.probability).sum();
    for candidate in candidates {
        candidate.probability /= total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top_k_keeps_equals() {
        let kept = weigh(&[1.0, 3.0, 2.0, 2.0, 0.0], 1.0, 2);
        assert_eq!(kept.iter().map(|candidate| candidate.token).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn top_p_is_the_same_whether_few_or_all_candidates_are_sorted() {
        // A nearly flat distribution over many tokens needs several rounds; compare with the plain rule.
        let logits: Vec<f32> = (0..5000u32).map(|i| ((i * 7919) % 5003) as f32 * 1e-4).collect();
        for top_p in [0.001, 0.1, 0.5, 0.9, 0.999] {
            let mut candidates = weigh(&logits, 1.0, 0);
            let mut plain = candidates.clone();
            plain.sort_by(most_likely_first);
            let enough = plain.iter().map(|candidate| candidate.probability).sum::<f64>() * f64::from(top_p);
            let mut share = 0.0;
            plain.retain(|candidate| {
                let keep = share == 0.0 || share < enough;
                share += candidate.probability;
                keep
            });
            plain.sort_by_key(|candidate| candidate.token);
            keep_top_p(&mut candidates, top_p);
            assert_eq!(candidates, plain, "top_p {top_p}");
        }
    }

    #[test]
    fn an_excluded_token_stays_excluded() {
        let mut logits = [f32::NEG_INFINITY, 1.0];
        add_biases(&mut logits, &BTreeMap::from([(0, f32::MAX)]));
        penalise_repetition(&mut logits, &BTreeSet::from([0]), 0.5);
        penalise_counts(&mut logits, &BTreeMap::from([(0, 1)]), -5.0, -5.0);
        assert_eq!(logits, [f32::NEG_INFINITY, 1.0]);
    }
}
