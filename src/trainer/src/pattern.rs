//! Question patterns: one line that stands for many phrasings.
//!
//! A hand-written list of paraphrases is long to write and short in variety; a pattern such as
//! `how {do|can} {I|we} start {it|the server}` is the opposite. The notation has three forms:
//!
//! ```text
//! {a|b|}     one of the alternatives, drawn with equal chance; they nest, and one may be empty
//! <name>     one entry of the word list of that name; entries are patterns themselves
//! <!kind>    a generated word: <!number>, <!nonword> (pronounceable, in no dictionary), <!noise> (keys hit at random)
//! ```
//!
//! Everything is drawn from the generator that the caller gives, so a pattern and a seed name one text.

use std::collections::BTreeMap;

use rand::Rng;
use rand::seq::IndexedRandom;

use crate::error::PatternError;

/// How deep alternatives and lists may nest. The corpus needs about four; the limit turns a list that names itself
/// into an error.
const DEPTH_LIMIT: usize = 12;

/// One parsed pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

/// Named word lists that patterns refer to as `<name>`.
pub type WordLists = BTreeMap<String, Vec<Pattern>>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Choice(Vec<Pattern>),
    List(String),
    Generated(Generated),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generated {
    Number,
    Nonword,
    Noise,
}

impl Pattern {
    /// Parses the notation above.
    ///
    /// # Errors
    /// Unbalanced braces or angle brackets, an unknown generator, and nesting beyond the limit.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        let mut reader = Reader { source, rest: source };
        let pattern = reader.sequence(0)?;
        if reader.rest.is_empty() {
            Ok(pattern)
        } else {
            Err(PatternError::Unbalanced { pattern: source.to_owned(), rest: reader.rest.to_owned() })
        }
    }

    /// Draws one phrasing, with runs of spaces collapsed and the ends trimmed.
    ///
    /// `lists` must have passed [`check_lists`] together with this pattern.
    pub fn sample(&self, lists: &WordLists, rng: &mut impl Rng) -> String {
        let mut text = String::new();
        self.append(lists, rng, &mut text);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// How many phrasings this pattern stands for; generated words count as many. Used to weigh patterns, so it
    /// is a float and saturates quietly.
    pub fn breadth(&self, lists: &WordLists) -> f64 {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(_) => 1.0,
                Part::Choice(options) => options.iter().map(|option| option.breadth(lists)).sum(),
                Part::List(name) => lists.get(name).map_or(1.0, |list| list.iter().map(|p| p.breadth(lists)).sum()),
                Part::Generated(_) => 100.0,
            })
            .product()
    }

    fn append(&self, lists: &WordLists, rng: &mut impl Rng, text: &mut String) {
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Choice(options) => {
                    options.choose(rng).expect("the parser never makes an empty choice").append(lists, rng, text);
                }
                Part::List(name) => {
                    let list = lists.get(name).expect("check_lists has found every list that a pattern names");
                    list.choose(rng).expect("check_lists refuses empty lists").append(lists, rng, text);
                }
                Part::Generated(kind) => kind.append(rng, text),
            }
        }
    }

    fn lists_named(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for part in &self.parts {
            match part {
                Part::List(name) => names.push(name.as_str()),
                Part::Choice(options) => names.extend(options.iter().flat_map(Pattern::lists_named)),
                Part::Text(_) | Part::Generated(_) => {}
            }
        }
        names
    }
}

/// Checks that every list which `patterns` reach exists, is not empty and does not reach itself.
///
/// # Errors
/// The first missing, empty or circular list.
pub fn check_lists<'a>(
    patterns: impl IntoIterator<Item = &'a Pattern>,
    lists: &'a WordLists,
) -> Result<(), PatternError> {
    // A list that does not reach itself is at most as deep as there are lists.
    fn descend(pattern: &Pattern, lists: &WordLists, depth: usize) -> Result<(), PatternError> {
        for name in pattern.lists_named() {
            let list = lists.get(name).ok_or_else(|| PatternError::UnknownList { name: name.to_owned() })?;
            if list.is_empty() {
                return Err(PatternError::EmptyList { name: name.to_owned() });
            }
            if depth >= DEPTH_LIMIT {
                return Err(PatternError::TooDeep { pattern: format!("<{name}>"), limit: DEPTH_LIMIT });
            }
            for entry in list {
                descend(entry, lists, depth + 1)?;
            }
        }
        Ok(())
    }
    patterns.into_iter().try_for_each(|pattern| descend(pattern, lists, 0))
}

impl Generated {
    fn append(self, rng: &mut impl Rng, text: &mut String) {
        match self {
            Self::Number => {
                let digits = rng.random_range(1..=4_u32);
                text.push_str(&rng.random_range(0..10_u32.pow(digits)).to_string());
            }
            Self::Nonword => {
                const ONSETS: [&str; 24] = [
                    "b", "bl", "br", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl",
                    "r", "s", "st", "t", "tr", "v",
                ];
                const NUCLEI: [&str; 10] = ["a", "e", "i", "o", "u", "ai", "ea", "oo", "ou", "y"];
                const CODAS: [&str; 14] = ["", "", "", "n", "r", "s", "t", "l", "m", "ck", "ng", "nd", "x", "sh"];
                for _ in 0..rng.random_range(1..=3) {
                    for sounds in [ONSETS.as_slice(), NUCLEI.as_slice(), CODAS.as_slice()] {
                        text.push_str(sounds.choose(rng).expect("the tables are not empty"));
                    }
                }
            }
            Self::Noise => {
                const KEYS: &[u8] = b"asdfghjklqwertyuiopzxcvbnm1234567890;,.[]#";
                for _ in 0..rng.random_range(2..=10) {
                    text.push(char::from(*KEYS.choose(rng).expect("the table is not empty")));
                }
            }
        }
    }
}

/// A recursive-descent reader; `rest` is what it has not yet consumed.
struct Reader<'a> {
    source: &'a str,
    rest: &'a str,
}

impl Reader<'_> {
    fn sequence(&mut self, depth: usize) -> Result<Pattern, PatternError> {
        if depth > DEPTH_LIMIT {
            return Err(PatternError::TooDeep { pattern: self.source.to_owned(), limit: DEPTH_LIMIT });
        }
        let mut parts = Vec::new();
        loop {
            let end = self.rest.find(['{', '}', '|', '<', '>']).unwrap_or(self.rest.len());
            if end > 0 {
                parts.push(Part::Text(self.rest[..end].to_owned()));
                self.rest = &self.rest[end..];
            }
            match self.rest.chars().next() {
                Some('{') => parts.push(self.choice(depth)?),
                Some('<') => parts.push(self.reference()?),
                // The caller decides whether `}` and `|` belong here; `parse` refuses what is left over.
                _ => return Ok(Pattern { parts }),
            }
        }
    }

    fn choice(&mut self, depth: usize) -> Result<Part, PatternError> {
        let mut options = Vec::new();
        loop {
            // Skips `{` the first time and `|` after that.
            self.rest = &self.rest[1..];
            options.push(self.sequence(depth + 1)?);
            match self.rest.chars().next() {
                Some('|') => {}
                Some('}') => {
                    self.rest = &self.rest[1..];
                    return Ok(Part::Choice(options));
                }
                _ => return Err(self.unbalanced()),
            }
        }
    }

    fn reference(&mut self) -> Result<Part, PatternError> {
        let end = self.rest.find('>').ok_or_else(|| self.unbalanced())?;
        let name = &self.rest[1..end];
        self.rest = &self.rest[end + 1..];
        Ok(match name.strip_prefix('!') {
            Some("number") => Part::Generated(Generated::Number),
            Some("nonword") => Part::Generated(Generated::Nonword),
            Some("noise") => Part::Generated(Generated::Noise),
            Some(other) => return Err(PatternError::UnknownGenerator { name: other.to_owned() }),
            None => Part::List(name.to_owned()),
        })
    }

    fn unbalanced(&self) -> PatternError {
        PatternError::Unbalanced { pattern: self.source.to_owned(), rest: self.rest.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn phrasings(source: &str, lists: &WordLists) -> BTreeSet<String> {
        let pattern = Pattern::parse(source).unwrap();
        check_lists([&pattern], lists).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        (0..500).map(|_| pattern.sample(lists, &mut rng)).collect()
    }

    #[test]
    fn a_pattern_stands_for_exactly_its_phrasings() {
        let lists = WordLists::from([("it".to_owned(), vec![Pattern::parse("the {server|daemon}").unwrap()])]);
        let found = phrasings("how {do|can} I start {<it>|}", &lists);
        let expected = [
            "how do I start the server",
            "how do I start the daemon",
            "how do I start",
            "how can I start the server",
            "how can I start the daemon",
            "how can I start",
        ];
        assert_eq!(found, expected.map(str::to_owned).into());
        assert_eq!(Pattern::parse("how {do|can} I start {<it>|}").unwrap().breadth(&lists), 6.0);
    }

    #[test]
    fn generated_words_vary_and_are_not_empty() {
        for kind in ["<!number>", "<!nonword>", "<!noise>"] {
            let found = phrasings(kind, &WordLists::new());
            assert!(found.len() > 20, "{kind}: {found:?}");
            assert!(!found.contains(""), "{kind}");
        }
    }

    #[test]
    fn defects_are_refused_by_name() {
        for broken in ["{a|b", "a}", "a|b", "<a", "a>"] {
            let error = Pattern::parse(broken).unwrap_err();
            assert!(matches!(error, PatternError::Unbalanced { .. }), "{broken}: {error}");
        }
        assert!(matches!(Pattern::parse("<!colour>"), Err(PatternError::UnknownGenerator { .. })));
        assert!(matches!(Pattern::parse(&"{".repeat(50)), Err(PatternError::TooDeep { .. })));

        let circular = WordLists::from([("a".to_owned(), vec![Pattern::parse("<a>").unwrap()])]);
        let pattern = Pattern::parse("<a>").unwrap();
        assert!(matches!(check_lists([&pattern], &circular), Err(PatternError::TooDeep { .. })));
        assert!(matches!(check_lists([&pattern], &WordLists::new()), Err(PatternError::UnknownList { .. })));
    }
}
