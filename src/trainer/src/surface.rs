//! How people really type: without capitals, without question marks, with "hey" in front and with slips of the finger.
//!
//! A pattern gives a well-formed question. Each time it is drawn, this module dresses it differently, so that the model
//! learns the question and not its spelling.

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::pattern::{Pattern, WordLists};

/// What may be put around a question; drawn from the corpus.
#[derive(Clone, Debug, Default)]
pub struct Surface {
    /// Openers such as `hey,`; patterns.
    pub prefixes: Vec<Pattern>,
    /// Closers such as `please`; patterns.
    pub suffixes: Vec<Pattern>,
}

const PREFIX_SHARE: f64 = 0.16;
const SUFFIX_SHARE: f64 = 0.08;
const LOWER_CASE_SHARE: f64 = 0.30;
const UPPER_CASE_SHARE: f64 = 0.03;
const CAPITAL_SHARE: f64 = 0.75;
const SLIP_SHARE: f64 = 0.22;
const SECOND_SLIP_SHARE: f64 = 0.25;
/// Words shorter than this are left alone: a slip in "is" makes another word.
const SLIP_WORD_LENGTH: usize = 4;

impl Surface {
    /// Dresses one question.
    pub fn dress(&self, question: String, lists: &WordLists, rng: &mut impl Rng) -> String {
        let mut text = question;
        if rng.random_bool(PREFIX_SHARE)
            && let Some(prefix) = self.prefixes.choose(rng)
        {
            text = format!("{} {text}", prefix.sample(lists, rng));
        }
        if rng.random_bool(SUFFIX_SHARE)
            && let Some(suffix) = self.suffixes.choose(rng)
        {
            text = format!("{text} {}", suffix.sample(lists, rng));
        }
        if rng.random_bool(SLIP_SHARE) {
            slip(&mut text, rng);
            if rng.random_bool(SECOND_SLIP_SHARE) {
                slip(&mut text, rng);
            }
        }
        text = recase(text, rng);
        if !text.ends_with(['.', '?', '!']) {
            let endings = ["?", "?", "?", "?", "?", "?", "", "", "", "", ".", "!", "??", " ?"];
            text.push_str(endings.choose(rng).expect("the table is not empty"));
        }
        text
    }
}

/// The text without case, punctuation and spacing: two questions with the same key are the same question.
pub fn comparison_key(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

fn recase(text: String, rng: &mut impl Rng) -> String {
    let draw: f64 = rng.random();
    if draw < LOWER_CASE_SHARE {
        return text.to_lowercase();
    }
    if draw < LOWER_CASE_SHARE + UPPER_CASE_SHARE {
        return text.to_uppercase();
    }
    let mut characters = text.chars();
    match characters.next() {
        Some(first) if rng.random_bool(CAPITAL_SHARE) => first.to_uppercase().chain(characters).collect(),
        _ => text,
    }
}

/// One slip of the finger inside one longer word: two letters swapped, one lost, one doubled or one replaced.
fn slip(text: &mut String, rng: &mut impl Rng) {
    let mut words: Vec<Vec<char>> = text.split(' ').map(|word| word.chars().collect()).collect();
    let long: Vec<usize> = (0..words.len())
        .filter(|&index| words[index].len() >= SLIP_WORD_LENGTH && words[index].iter().all(|c| c.is_alphabetic()))
        .collect();
    let Some(&chosen) = long.choose(rng) else { return };
    let word = &mut words[chosen];
    let at = rng.random_range(1..word.len() - 1);
    match rng.random_range(0..4) {
        0 => word.swap(at, at + 1),
        1 => {
            word.remove(at);
        }
        2 => word.insert(at, word[at]),
        _ => word[at] = char::from(rng.random_range(b'a'..=b'z')),
    }
    *text = words.into_iter().map(|word| word.into_iter().collect::<String>()).collect::<Vec<_>>().join(" ");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn dressing_varies_but_keeps_most_letters() {
        let surface = Surface::default();
        let lists = WordLists::new();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let plain = "what does the trust root contain";
        let dressed: BTreeSet<String> = (0..300).map(|_| surface.dress(plain.to_owned(), &lists, &mut rng)).collect();
        assert!(dressed.len() > 50, "{}", dressed.len());
        assert!(dressed.contains("What does the trust root contain?"));
        assert!(dressed.contains("what does the trust root contain"));
        for text in &dressed {
            assert!(comparison_key(text).len().abs_diff(comparison_key(plain).len()) <= 2, "{text}");
        }
    }

    #[test]
    fn the_comparison_key_ignores_dress() {
        assert_eq!(comparison_key("What is a .bundle?"), comparison_key("what is a bundle"));
        assert_ne!(comparison_key("exit code 1"), comparison_key("exit code 11"));
    }
}
