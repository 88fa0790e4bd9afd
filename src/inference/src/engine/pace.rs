//! How many tokens of prompts a step takes: as many as can be computed while nobody who reads along notices the pause.

use std::time::Duration;

/// How long a step may take while others generate: well below what a reader takes for a stop.
const TARGET: Duration = Duration::from_millis(100);
/// How long one may take while nobody does.  Whoever comes next, or leaves, waits for its end.
const IDLE_TARGET: Duration = Duration::from_secs(1);
/// So many tokens of prompts a step has room for, however slow the host is.
const FEWEST: usize = 16;
/// Beyond, weights are read so rarely already that larger steps gain nothing.
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
        let target = if generating == 0 { IDLE_TARGET } else { TARGET };
        let fitting = match self.seconds_per_token {
            Some(seconds) => (target.as_secs_f64() / seconds) as usize,
            None if generating == 0 => self.most,
            None => FEWEST,
        };
        let fewest = FEWEST.min(self.most);
        fitting.clamp(fewest, self.most).max(generating + fewest)
    }

    /// The most tokens that [`Pace::tokens`] can give.
    pub(super) fn bound(most: usize, generating: usize) -> usize {
        most.clamp(1, MOST).max(generating + FEWEST)
    }

    /// Learns how long a step of so many tokens took, of which so many were of prompts.
    pub(crate) fn learn(&mut self, tokens: usize, of_prompts: usize, took: Duration) {
        // A step without them is bound by reading the weights, which says nothing about one more token.
        if of_prompts < FEWEST {
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
        pace.learn(100, 98, Duration::from_millis(200));
        assert_eq!((pace.tokens(0), pace.tokens(2)), (256, 50));
        for _ in 0..50 {
            pace.learn(100, 90, Duration::from_millis(10));
        }
        assert_eq!(pace.tokens(2), 256);
        for _ in 0..50 {
            pace.learn(100, 90, Duration::from_secs(2));
        }
        assert_eq!(
            (pace.tokens(0), pace.tokens(2)),
            (50, 18),
            "who comes next does not wait much longer than a second"
        );
    }

    #[test]
    fn generating_alone_tells_nothing_about_prompts() {
        let mut pace = Pace::new(256);
        pace.learn(64, 0, Duration::from_secs(1));
        assert_eq!((pace.tokens(0), pace.tokens(2)), (256, 18));
    }

    #[test]
    fn the_largest_step_is_what_was_asked_for() {
        assert_eq!(Pace::new(8).tokens(0), 8);
        assert_eq!(Pace::new(100_000).tokens(0), MOST);
        assert_eq!(Pace::new(8).tokens(64), 72);
    }
}
