//! Log-probabilities of the model's own distribution.  They are taken before any transform, as OpenAI's are: they say
//! what the model thought, not what the sampler was told to do with it.

use std::cmp::Ordering;

use crate::event::TokenLogprobs;

/// The log-probability of `chosen` and of the `top` most likely tokens under the softmax of untouched `logits`.
///
/// An excluded token (logit −∞) has −∞.  `chosen` must be a valid index.
pub fn log_probabilities(logits: &[f32], chosen: u32, top: u8) -> TokenLogprobs {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - f64::from(peak)).exp()).sum();
    let of = |token: u32| (f64::from(logits[token as usize]) - f64::from(peak) - total.ln()) as f32;
    let top = most_likely(logits, usize::from(top)).into_iter().map(|token| (token, of(token))).collect();
    TokenLogprobs { logprob: of(chosen), top }
}

/// The `count` highest logits, highest first, the lower id first among equals.
fn most_likely(logits: &[f32], count: usize) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..).take(logits.len()).collect();
    let order = |a: &u32, b: &u32| -> Ordering { logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)) };
    if count == 0 {
        return Vec::new();
    }
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count - 1, order);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(order);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_tokens_come_in_order() {
        let found = log_probabilities(&[0.0, 1.0, f32::NEG_INFINITY, 1.0], 0, 3);
        let tokens: Vec<u32> = found.top.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, [1, 3, 0]);
        let whole: f32 =
            log_probabilities(&[0.0, 1.0, f32::NEG_INFINITY, 1.0], 0, 4).top.iter().map(|t| t.1.exp()).sum();
        assert!((whole - 1.0).abs() < 1e-6, "{whole}");
        assert_eq!(log_probabilities(&[0.0], 0, 9).top, [(0, 0.0)]);
        assert!(log_probabilities(&[0.0, 1.0], 1, 0).top.is_empty());
    }
}
