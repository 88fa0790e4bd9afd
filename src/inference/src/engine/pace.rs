//! How many tokens of prompts a step takes: as many as can be computed while nobody who reads along notices the pause.

use std::time::Duration;

/// How long a step may take while others generate: well below what a reader takes for a stop.
const TARGET: Duration = Duration::from_millis(100);
/// The fewest and the most tokens of a step.
const FEWEST: usize = 16;
/// The most: beyond, weights are read so rarely already that larger steps gain nothing.
const MOST: usize = 512;

/// Sizes steps by how long those before have taken.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Seconds of a token in steps with prompts, as an average that forgets.
    seconds_per_token: Option<f64>,
    most: usize,
}

impl Pace {
    /// Steps of at most so many tokens.
    pub(crate) fn new(most: usize) -> Pace {
        Pace { seconds_per_token: None, most: most.clamp(1, MOST) }
    }

    /// How many tokens the next step may compute, `generating` sequences' next ones among them.
    pub(crate) fn tokens(&self, generating: usize) -> usize {
        let fitting = match self.seconds_per_token {
            // Nobody waits between two tokens, or nothing is known: the largest step is the fastest.
            _ if generating == 0 => self.most,
            None => FEWEST,
            Some(seconds) => (TARGET.as_secs_f64() / seconds) as usize,
        };
        fitting.clamp(FEWEST.min(self.most), self.most).max(generating + FEWEST.min(self.most))
    }

    /// Learns how long a step of so many tokens took.
    pub(crate) fn learn(&mut self, tokens: usize, took: Duration) {
        // A small step is bound by reading the weights, which says nothing about one more token.
        if tokens < FEWEST {
            return;
        }
        let seconds = took.as_secs_f64() / tokens as f64;
        let before = self.seconds_per_token.unwrap_or(seconds);
        self.seconds_per_token = Some(before + (seconds - before) / 4.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_small_where_tokens_are_slow_and_others_wait() {
        let mut pace = Pace::new(256);
        assert_eq!((pace.tokens(0), pace.tokens(2)), (256, 18));
        pace.learn(100, Duration::from_millis(200));
        assert_eq!((pace.tokens(0), pace.tokens(2)), (256, 50));
        for _ in 0..50 {
            pace.learn(100, Duration::from_millis(10));
        }
        assert_eq!(pace.tokens(2), 256);
        for _ in 0..50 {
            pace.learn(100, Duration::from_secs(10));
        }
        assert_eq!(pace.tokens(2), 18);
    }

    #[test]
    fn the_largest_step_is_what_was_asked_for() {
        assert_eq!(Pace::new(8).tokens(0), 8);
        assert_eq!(Pace::new(100_000).tokens(0), MOST);
        assert_eq!(Pace::new(8).tokens(64), 72);
    }
}
