//! Draws one candidate.  The random number is a function of the seed and the step alone, not of a generator that is
//! carried along: step 7 draws the same whether or not steps 0 to 6 were computed here, before a restart or at all.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::transforms::Candidate;

/// Fills the key behind the seed, so that these numbers meet those of no other use of the same seed.
const DOMAIN: &[u8; 24] = b"ampoule token sampling 1";

/// Draws a candidate in proportion to its weight; `None` if there is none.
pub(crate) fn draw(candidates: &[Candidate], seed: u64, step: u64) -> Option<u32> {
    let total: f64 = candidates.iter().map(|candidate| candidate.probability).sum();
    let target = uniform(seed, step) * total;
    let mut below = 0.0;
    let mut last = None;
    for candidate in candidates.iter().filter(|candidate| candidate.probability > 0.0) {
        below += candidate.probability;
        last = Some(candidate.token);
        if below > target {
            break;
        }
    }
    last
}

/// A number in 0..1 with 53 random bits: ChaCha20 with the seed as key and the step as nonce.
fn uniform(seed: u64, step: u64) -> f64 {
    let mut key = [0; 32];
    let (head, tail) = key.split_at_mut(8);
    head.copy_from_slice(&seed.to_le_bytes());
    tail.copy_from_slice(DOMAIN);
    let mut generator = ChaCha20Rng::from_seed(key);
    generator.set_stream(step);
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        // Outputs are promised to be repeatable across releases, so these are pinned.
        let found: Vec<f64> = [(0, 0), (0, 1), (1, 0), (u64::MAX, u64::MAX)].map(|(a, b)| uniform(a, b)).to_vec();
        assert_eq!(found, [0.30486430834742184, 0.3093546644241464, 0.4030653532809434, 0.5952554738180631]);
    }

    #[test]
    fn shares_are_respected() {
        let candidates = [(3, 0.5), (5, 0.0), (9, 1.5)].map(|(token, probability)| Candidate { token, probability });
        let drawn: Vec<u32> = (0..4000).filter_map(|step| draw(&candidates, 42, step)).collect();
        let threes = drawn.iter().filter(|&&token| token == 3).count();
        assert_eq!(drawn.len(), 4000);
        assert!(!drawn.contains(&5));
        // 1000 are expected with a standard deviation of 27.
        assert!((890..1110).contains(&threes), "{threes}");
        assert_eq!(draw(&[], 0, 0), None);
    }
}
