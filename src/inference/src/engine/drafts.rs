//! Guesses the tokens that come next from those that were: where an answer repeats its prompt or itself, what followed
//! the last few tokens before is likely to follow them again (prompt lookup).
//!
//! A guess costs little and changes nothing: the model computes the guessed tokens together with the next one, and those
//! that it would not have chosen are dropped.  How many are guessed follows what became of the last guesses.

use std::collections::HashMap;

/// How many tokens must agree: fewer are wrong more often than they are right.
const CONTEXT: usize = 3;
/// The guess after one that was right, or none at all.
const FIRST_GUESS: usize = 4;
/// So many steps without a guess follow one of which nothing was right, and twice as many each further one.
const FIRST_REST: usize = 4;
const LONGEST_REST: usize = 64;

/// The guesses for one sequence.
#[derive(Debug)]
pub(crate) struct Drafts {
    /// Where the token after these last stood.
    after: HashMap<[u32; CONTEXT], usize>,
    /// How many tokens were looked at.
    seen: usize,
    /// How many tokens are guessed at most; grows while guesses are right.
    length: usize,
    most: usize,
    rest: usize,
    next_rest: usize,
}

impl Drafts {
    /// Guesses of up to `most` tokens.
    pub(crate) fn new(most: usize) -> Drafts {
        let length = FIRST_GUESS.min(most);
        Drafts { after: HashMap::new(), seen: 0, length, most, rest: 0, next_rest: FIRST_REST }
    }

    /// What may follow `tokens`, which are those of the calls before and more.
    pub(crate) fn guess<'a>(&mut self, tokens: &'a [u32]) -> &'a [u32] {
        if self.most == 0 {
            return &[];
        }
        let context =
            |end: usize| -> Option<[u32; CONTEXT]> { tokens.get(end.checked_sub(CONTEXT)?..end)?.try_into().ok() };
        // The last context is looked up before it is entered: it would find itself.
        for end in self.seen.max(CONTEXT)..tokens.len() {
            if let Some(context) = context(end) {
                self.after.insert(context, end);
            }
        }
        self.seen = self.seen.max(tokens.len());
        if self.rest > 0 {
            self.rest -= 1;
            return &[];
        }
        let found = context(tokens.len()).and_then(|context| self.after.get(&context));
        found.map_or(&[], |&start| &tokens[start..tokens.len().min(start + self.length)])
    }

    /// Learns how many tokens of a guess were right.
    pub(crate) fn learn(&mut self, guessed: usize, right: usize) {
        if guessed == 0 {
            return;
        }
        if right == guessed {
            self.length = (self.length * 2).min(self.most);
            self.next_rest = FIRST_REST;
        } else if right == 0 {
            self.length = FIRST_GUESS.min(self.most);
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(LONGEST_REST);
        } else {
            self.length = (right + 1).clamp(1, self.most);
            self.next_rest = FIRST_REST;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed_again() {
        let mut drafts = Drafts::new(8);
        let tokens = [1, 2, 3, 4, 5, 6, 7, 9, 1, 2, 3];
        assert_eq!(drafts.guess(&tokens), [4, 5, 6, 7]);
        drafts.learn(4, 4);
        let more: Vec<u32> = tokens.into_iter().chain([4, 5, 6, 7, 9]).collect();
        assert_eq!(drafts.guess(&more), [1, 2, 3, 4, 5, 6, 7, 9]);
    }

    #[test]
    fn the_latest_place_counts_and_no_guess_passes_the_end() {
        let mut drafts = Drafts::new(8);
        assert_eq!(drafts.guess(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]), [5, 1, 2, 3]);
        assert_eq!(Drafts::new(8).guess(&[7, 7, 7, 7]), [7]);
    }

    #[test]
    fn without_a_repetition_nothing_is_guessed() {
        let mut drafts = Drafts::new(8);
        for end in 0..20 {
            let tokens: Vec<u32> = (0..end).collect();
            assert!(drafts.guess(&tokens).is_empty());
        }
        assert!(Drafts::new(0).guess(&[1, 1, 1, 1, 1, 1]).is_empty());
    }

    #[test]
    fn wrong_guesses_become_rare_and_short() {
        let mut drafts = Drafts::new(16);
        let tokens = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3];
        let guesses = (0..1000).filter(|_| {
            let guessed = drafts.guess(&tokens).len();
            drafts.learn(guessed, 0);
            guessed > 0
        });
        let count = guesses.count();
        assert!((2..30).contains(&count), "{count} guesses in 1000 steps");
    }

    #[test]
    fn a_guess_that_was_right_in_part_is_made_shorter() {
        let mut drafts = Drafts::new(16);
        let tokens = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3];
        let guessed = drafts.guess(&tokens).len();
        drafts.learn(guessed, 1);
        assert_eq!(drafts.guess(&tokens), [4, 5]);
    }
}
