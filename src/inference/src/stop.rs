//! Holds text back while a stop string might begin in it.  Tokens and stop strings end where they like, so a stop
//! string can be spread over several tokens and end inside one; what belongs to it must never have been emitted.

use std::collections::VecDeque;

use crate::event::{TokenEvent, TokenLogprobs};

/// Tokens go in with the text that they complete; events come out once their text is certain.
#[derive(Debug)]
pub(crate) struct StopGate {
    strings: Vec<String>,
    pending: VecDeque<Pending>,
    /// The texts of `pending`, one after the other.
    held: String,
}

#[derive(Debug)]
struct Pending {
    token: u32,
    bytes: usize,
    logprobs: Option<TokenLogprobs>,
}

/// Whether a stop string was completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// A stop string was found; what stood before it was released and nothing more may come.
    Closed,
}

/// Whether a token's bytes end with a whole character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Characters {
    Whole,
    /// Bytes are held by the detokenizer; their text will come with a later token, or at the end.
    Unfinished,
}

impl StopGate {
    pub(crate) fn new(strings: Vec<String>) -> StopGate {
        StopGate { strings, pending: VecDeque::new(), held: String::new() }
    }

    /// Takes a token and appends to `events` what became certain.
    pub(crate) fn push(
        &mut self,
        token: u32,
        text: &str,
        logprobs: Option<TokenLogprobs>,
        characters: Characters,
        events: &mut Vec<TokenEvent>,
    ) -> Gate {
        self.pending.push_back(Pending { token, bytes: text.len(), logprobs });
        self.held.push_str(text);
        if let Some(start) = self.find_stop() {
            self.release_before(start, events);
            return Gate::Closed;
        }
        let certain = self.held.len() - self.longest_beginning();
        // A token whose bytes are unfinished waits, so that its last text finds an event to go with.
        let whole = self.pending.len() - usize::from(characters == Characters::Unfinished);
        self.release_whole(certain, whole, events);
        Gate::Open
    }

    /// The end of the completion: takes the text of unfinished bytes, and releases everything that is held.
    pub(crate) fn finish(&mut self, tail: &str, events: &mut Vec<TokenEvent>) -> Gate {
        if let Some(last) = self.pending.back_mut() {
            last.bytes += tail.len();
            self.held.push_str(tail);
        }
        if let Some(start) = self.find_stop() {
            self.release_before(start, events);
            return Gate::Closed;
        }
        self.release_whole(self.held.len(), self.pending.len(), events);
        Gate::Open
    }

    /// Where the stop string begins that is completed first, counted by its end; the longest of several that end
    /// there.  This order makes the answer independent of how the text was cut into tokens.
    fn find_stop(&self) -> Option<usize> {
        let found =
            self.strings.iter().filter_map(|stop| self.held.find(stop.as_str()).map(|at| (at + stop.len(), at)));
        found.min().map(|(_, start)| start)
    }

    /// The length of the longest end of the held text with which a stop string begins.
    fn longest_beginning(&self) -> usize {
        let longest = self.strings.iter().map(String::len).max().unwrap_or(0);
        let begins =
            |at: usize| self.strings.iter().any(|stop| stop.as_bytes().starts_with(&self.held.as_bytes()[at..]));
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len()).find(|&at| begins(at)).map_or(0, |at| self.held.len() - at)
    }

    /// Emits the first tokens whose text ends at or before `certain`, at most `count` of them.
    fn release_whole(&mut self, certain: usize, count: usize, events: &mut Vec<TokenEvent>) {
        let mut released = 0;
        for _ in 0..count {
            let Some(next) = self.pending.pop_front_if(|next| released + next.bytes <= certain) else { break };
            let text = self.held[released..released + next.bytes].to_owned();
            released += next.bytes;
            events.push(TokenEvent::Token { token: next.token, text, logprobs: next.logprobs });
        }
        self.held.drain(..released);
    }

    /// Emits what stands before `start`, cutting the token in which the stop string begins; the rest is dropped.
    fn release_before(&mut self, start: usize, events: &mut Vec<TokenEvent>) {
        let mut at = 0;
        for next in self.pending.drain(..) {
            if at < start {
                let text = self.held[at..(at + next.bytes).min(start)].to_owned();
                events.push(TokenEvent::Token { token: next.token, text, logprobs: next.logprobs });
            }
            at += next.bytes;
        }
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs pieces through a gate; gives the emitted texts after each piece, and whether it closed.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, Gate) {
        let mut gate = StopGate::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut texts = Vec::new();
        for (token, piece) in (0..).zip(pieces) {
            let mut events = Vec::new();
            let state = gate.push(token, piece, None, Characters::Whole, &mut events);
            texts.push(text_of(&events));
            if state == Gate::Closed {
                return (texts, state);
            }
        }
        let mut events = Vec::new();
        let state = gate.finish("", &mut events);
        texts.push(text_of(&events));
        (texts, state)
    }

    fn text_of(events: &[TokenEvent]) -> String {
        let texts = events.iter().map(|event| match event {
            TokenEvent::Token { text, .. } => text.as_str(),
            _ => "",
        });
        texts.collect()
    }

    #[test]
    fn a_stop_string_over_several_tokens_is_never_emitted() {
        let (texts, state) = run(&["\n\nUser:"], &["Hi", ".\n", "\nUs", "er: x"]);
        assert_eq!((texts.as_slice(), state), (["Hi", "", "", "."].map(str::to_owned).as_slice(), Gate::Closed));
    }

    #[test]
    fn what_turns_out_harmless_is_emitted_later() {
        let (texts, state) = run(&["STOP"], &["a", "ST", "O", "Rk"]);
        assert_eq!((texts.as_slice(), state), (["a", "", "", "STORk", ""].map(str::to_owned).as_slice(), Gate::Open));
        let (texts, _) = run(&["STOP"], &["aST"]);
        assert_eq!(texts, ["", "aST"]);
    }

    #[test]
    fn a_beginning_inside_a_false_beginning_is_seen() {
        let (texts, state) = run(&["aab"], &["a", "a", "a", "b", "c"]);
        assert_eq!((texts.concat().as_str(), state), ("a", Gate::Closed));
    }

    #[test]
    fn without_stop_strings_nothing_is_held() {
        assert_eq!(run(&[], &["x", "", "é"]).0, ["x", "", "é", ""]);
    }

    #[test]
    fn the_tail_of_unfinished_bytes_goes_with_its_token() {
        let mut gate = StopGate::new(Vec::new());
        let mut events = Vec::new();
        gate.push(7, "ok", None, Characters::Unfinished, &mut events);
        assert!(events.is_empty());
        gate.finish("\u{fffd}", &mut events);
        assert!(matches!(&events[..], [TokenEvent::Token { token: 7, text, .. }] if text == "ok\u{fffd}"));
    }

    proptest! {
        #[test]
        fn the_cut_into_tokens_changes_nothing(
            text in "[ab€]{0,24}",
            stops in prop::collection::vec("[ab€]{1,4}", 0..3),
            cuts in prop::collection::vec(0usize..24, 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let characters: Vec<String> = text.chars().map(String::from).collect();
            let mut pieces = vec![String::new()];
            for (i, character) in characters.iter().enumerate() {
                if cuts.contains(&i) {
                    pieces.push(String::new());
                }
                pieces.last_mut().expect("there is one from the start").push_str(character);
            }
            let singly: Vec<&str> = characters.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (one, two) = (run(&stops, &singly), run(&stops, &pieces));
            prop_assert_eq!(one.0.concat(), two.0.concat());
            prop_assert_eq!(one.1, two.1);
            prop_assert!(stops.iter().all(|stop| !one.0.concat().contains(stop)));
            prop_assert!(text.starts_with(&one.0.concat()));
        }
    }
}
