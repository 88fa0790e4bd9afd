//! Finds added tokens (special ones such as `<|im_end|>`, and others such as `<think>`) in text.
//!
//! The tokenizers library finds them too, but only all or none of the special ones. A prompt made from a conversation
//! needs a third way: the special tokens that the template wrote count, those that a message spells do not. So the
//! search is done here, by the library's rules, and the caller decides about each match.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::AddedToken;

use super::TextError;

/// The added tokens of a tokenizer, ready to be searched for.
#[derive(Debug)]
pub(super) struct AddedTokens {
    /// Tokens that are searched for in the text as it is.
    verbatim: Searcher,
    /// Tokens that are searched for after normalization.
    normalized: Searcher,
    /// The spellings of the special tokens alone, wherever they are searched for.
    special: Searcher,
}

/// An added token in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Match {
    /// The bytes that it takes, including the whitespace that it swallows.
    pub(super) span: Range<usize>,
    /// The token.
    pub(super) id: u32,
    /// Whether it is a special token.
    pub(super) special: bool,
}

impl AddedTokens {
    /// Builds the searchers. `normalize` gives a token's spelling after normalization.
    pub(super) fn new(tokens: &[(u32, AddedToken)], normalize: impl Fn(&str) -> String) -> Result<Self, TextError> {
        let filtered = |keep: &dyn Fn(&AddedToken) -> bool| {
            tokens.iter().filter(|(_, token)| !token.content.is_empty() && keep(token)).cloned().collect::<Vec<_>>()
        };
        let mut normalized = filtered(&|token| token.normalized);
        for (_, token) in &mut normalized {
            token.content = normalize(&token.content);
        }
        normalized.retain(|(_, token)| !token.content.is_empty());
        Ok(Self {
            verbatim: Searcher::new(filtered(&|token| !token.normalized))?,
            normalized: Searcher::new(normalized)?,
            special: Searcher::new(filtered(&|token| token.special))?,
        })
    }

    /// Added tokens in a text as it is, special ones included.
    pub(super) fn verbatim<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Match> + 'a {
        self.verbatim.matches(text)
    }

    /// Added tokens in a normalized text, special ones included.
    pub(super) fn normalized<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Match> + 'a {
        self.normalized.matches(text)
    }

    /// The special tokens alone, in a text as it is, also those that are normally searched for after normalization.
    pub(super) fn special<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Match> + 'a {
        self.special.matches(text)
    }

    /// Every place where a special token is spelled, whatever its rules about neighbours say.
    pub(super) fn special_spellings<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        self.special.spellings(text)
    }
}

#[derive(Debug)]
struct Searcher {
    automaton: Option<AhoCorasick>,
    tokens: Vec<(u32, AddedToken)>,
}

impl Searcher {
    fn new(tokens: Vec<(u32, AddedToken)>) -> Result<Self, TextError> {
        let automaton = if tokens.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(tokens.iter().map(|(_, token)| token.content.as_str()));
            Some(built.map_err(|error| TextError::File { file: "tokenizer.json", reason: error.to_string() })?)
        };
        Ok(Self { automaton, tokens })
    }

    fn spellings<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        self.automaton.iter().flat_map(move |automaton| automaton.find_iter(text)).map(|found| found.range())
    }

    fn matches<'a>(&'a self, text: &'a str) -> impl Iterator<Item = Match> + 'a {
        let found = self.automaton.iter().flat_map(move |automaton| automaton.find_iter(text));
        let mut taken = 0;
        found.filter_map(move |found| {
            let (id, token) = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            if token.single_word
                && (text[..start].chars().next_back().is_some_and(is_word)
                    || text[end..].chars().next().is_some_and(is_word))
            {
                return None;
            }
            if token.lstrip {
                start = text[taken.min(start)..start].trim_end().len() + taken.min(start);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            taken = end;
            Some(Match { span: start..end, id: *id, special: token.special })
        })
    }
}

/// The regular expressions' `\w`, near enough for deciding whether a token stands alone.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn check(text: &str, expected: &[(u32, &str)]) {
        let tokens = [
            (1, AddedToken::from("<a>", true)),
            (2, AddedToken::from("<a><b>", true)),
            (3, AddedToken::from("<l>", true).lstrip(true)),
            (4, AddedToken::from("<r>", true).rstrip(true)),
            (5, AddedToken::from("word", true).single_word(true)),
        ];
        let added = AddedTokens::new(&tokens, str::to_owned).unwrap();
        let found: Vec<_> = added.verbatim(text).map(|found| (found.id, &text[found.span])).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn matches_follow_the_librarys_rules() {
        check("x<a>y", &[(1, "<a>")]);
        check("<a><b><a>", &[(2, "<a><b>"), (1, "<a>")]);
        check("x  <l> y", &[(3, "  <l>")]);
        check("x <r>  <l> y", &[(4, "<r>  "), (3, "<l>")]);
        check("a word, words, sword, word", &[(5, "word"), (5, "word")]);
        check("", &[]);
    }
}
