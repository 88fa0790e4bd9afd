//! The demo model's text: facts with many ways to ask for each, foreign questions, and how a talk goes on.
//!
//! Two types for one file: [`CorpusFile`] is the TOML as written, [`Corpus`] is parsed, cross-checked and ready to be
//! drawn from. A drawn question is never one of the held-out questions, whatever the patterns could say.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::IndexedRandom;
use serde::Deserialize;

use crate::error::{PatternError, TrainerError};
use crate::pattern::{Pattern, WordLists, check_lists};
use crate::surface::{Surface, comparison_key};

/// What a user says and what the model is to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The question, dressed as people type.
    pub question: String,
    /// The only right answer.
    pub answer: String,
}

/// A corpus that turns can be drawn from.
#[derive(Clone, Debug)]
pub struct Corpus {
    facts: Vec<Fact>,
    foreign: Vec<Weighted>,
    foreign_definitions: Vec<Weighted>,
    foreign_answer: String,
    continuations: Vec<Weighted>,
    exhausted_answer: String,
    system_prompts: Vec<Weighted>,
    surface: Surface,
    lists: WordLists,
    held_out_keys: BTreeSet<String>,
}

/// Questions that are asked at the end and never trained on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Questions by the identifier of the fact that answers them.
    pub questions: BTreeMap<String, Vec<String>>,
    /// Questions to be declined.
    pub foreign: Vec<String>,
}

/// The corpus file as written. README.md in `bundles/demo` explains the fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusFile {
    definition: Vec<String>,
    system_prompts: Vec<String>,
    prefixes: Vec<String>,
    suffixes: Vec<String>,
    continuation: ContinuationFile,
    foreign: ForeignFile,
    lists: BTreeMap<String, Vec<String>>,
    fact: Vec<FactFile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContinuationFile {
    questions: Vec<String>,
    exhausted: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ForeignFile {
    answer: String,
    topics: Vec<String>,
    questions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FactFile {
    id: String,
    answer: String,
    #[serde(default)]
    topics: Vec<String>,
    #[serde(default)]
    questions: Vec<String>,
    more: Option<String>,
    #[serde(default)]
    follow_ups: Vec<FollowUpFile>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FollowUpFile {
    questions: Vec<String>,
    fact: String,
}

#[derive(Clone, Debug)]
struct Fact {
    id: String,
    answer: String,
    definitions: Vec<Weighted>,
    questions: Vec<Weighted>,
    more: Option<String>,
    follow_ups: Vec<FollowUp>,
}

#[derive(Clone, Debug)]
struct FollowUp {
    questions: Vec<Weighted>,
    answer: String,
}

#[derive(Clone, Debug)]
struct Weighted {
    pattern: Pattern,
    weight: f64,
}

/// A pattern's weight is the square root of its breadth up to this, so that a wide pattern is drawn more often than a
/// single sentence without drowning it.
const BREADTH_CEILING: f64 = 64.0;
/// Of the questions to a fact with topics, the share made from the general definition patterns.
const DEFINITION_SHARE: f64 = 0.35;
/// The same share among foreign questions.
const FOREIGN_DEFINITION_SHARE: f64 = 0.2;
const FOLLOW_UP_SHARE: f64 = 0.4;
const CONTINUATION_SHARE: f64 = 0.15;
/// Draws before a pattern counts as a leak of the held-out set.
const DRAW_LIMIT: usize = 100;

impl Corpus {
    /// Parses and cross-checks a corpus file.
    ///
    /// # Errors
    /// Malformed patterns, missing lists, doubled identifiers, and references to facts that do not exist, in the
    /// corpus or in the held-out set.
    pub fn new(file: CorpusFile, held_out: &HeldOut) -> Result<Self, TrainerError> {
        let mut lists = WordLists::new();
        for (name, entries) in &file.lists {
            let place = || format!("list `{name}`");
            lists.insert(name.clone(), parse_all(entries, &place)?);
        }
        let read = |sources: &[String], place: &str| weigh(sources, &lists, &|| place.to_owned());

        let mut answers = BTreeMap::new();
        for fact in &file.fact {
            if answers.insert(fact.id.as_str(), fact.answer.as_str()).is_some() {
                return Err(TrainerError::DuplicateFact { id: fact.id.clone() });
            }
        }
        if let Some(id) = held_out.questions.keys().find(|id| !answers.contains_key(id.as_str())) {
            return Err(TrainerError::UnknownFact { place: "the held-out set".to_owned(), id: id.clone() });
        }

        let mut facts = Vec::new();
        for fact in &file.fact {
            let place = format!("fact `{}`", fact.id);
            let definitions = define(&file.definition, &fact.topics);
            let mut follow_ups = Vec::new();
            for follow_up in &fact.follow_ups {
                let answer = answers
                    .get(follow_up.fact.as_str())
                    .ok_or_else(|| TrainerError::UnknownFact { place: place.clone(), id: follow_up.fact.clone() })?;
                follow_ups
                    .push(FollowUp { questions: read(&follow_up.questions, &place)?, answer: (*answer).to_owned() });
            }
            let (definitions, questions) = (read(&definitions, &place)?, read(&fact.questions, &place)?);
            if definitions.is_empty() && questions.is_empty() {
                let source = PatternError::EmptyList { name: "questions".to_owned() };
                return Err(TrainerError::Pattern { place, source });
            }
            facts.push(Fact {
                id: fact.id.clone(),
                answer: fact.answer.clone(),
                definitions,
                questions,
                more: fact.more.clone(),
                follow_ups,
            });
        }

        // What is drawn from must not be empty.
        for (name, is_empty) in [
            ("fact", facts.is_empty()),
            ("foreign.questions", file.foreign.questions.is_empty()),
            ("continuation.questions", file.continuation.questions.is_empty()),
            ("system_prompts", file.system_prompts.is_empty()),
        ] {
            if is_empty {
                let source = PatternError::EmptyList { name: name.to_owned() };
                return Err(TrainerError::Pattern { place: "the corpus".to_owned(), source });
            }
        }
        let surface = Surface {
            prefixes: parse_all(&file.prefixes, &|| "prefixes".to_owned())?,
            suffixes: parse_all(&file.suffixes, &|| "suffixes".to_owned())?,
        };
        check_lists(surface.prefixes.iter().chain(&surface.suffixes), &lists)
            .map_err(|source| TrainerError::Pattern { place: "prefixes and suffixes".to_owned(), source })?;
        let held_out_keys =
            held_out.questions.values().flatten().chain(&held_out.foreign).map(|text| comparison_key(text)).collect();
        Ok(Self {
            foreign_definitions: read(&define(&file.definition, &file.foreign.topics), "foreign topics")?,
            foreign: read(&file.foreign.questions, "foreign questions")?,
            foreign_answer: file.foreign.answer,
            continuations: read(&file.continuation.questions, "continuations")?,
            exhausted_answer: file.continuation.exhausted,
            system_prompts: read(&file.system_prompts, "system prompts")?,
            facts,
            surface,
            lists,
            held_out_keys,
        })
    }

    /// Draws the turns of one talk on one subject: a question, and now and then what follows from it.
    ///
    /// # Errors
    /// A pattern that says hardly anything but held-out questions.
    pub fn talk(&self, foreign_share: f64, rng: &mut impl Rng) -> Result<Vec<Turn>, TrainerError> {
        if rng.random_bool(foreign_share) {
            return self.foreign_talk(rng);
        }
        let fact = self.facts.choose(rng).expect("a corpus without facts has no recipe");
        let from_definitions =
            fact.questions.is_empty() || (!fact.definitions.is_empty() && rng.random_bool(DEFINITION_SHARE));
        let patterns = if from_definitions { &fact.definitions } else { &fact.questions };
        let mut turns = vec![self.turn(patterns, &fact.answer, &fact.id, rng)?];
        if !fact.follow_ups.is_empty() && rng.random_bool(FOLLOW_UP_SHARE) {
            let follow_up = fact.follow_ups.choose(rng).expect("checked above");
            turns.push(self.turn(&follow_up.questions, &follow_up.answer, &fact.id, rng)?);
        } else if rng.random_bool(CONTINUATION_SHARE) {
            let answer = fact.more.as_ref().unwrap_or(&self.exhausted_answer);
            turns.push(self.turn(&self.continuations, answer, "continuations", rng)?);
        }
        Ok(turns)
    }

    /// Draws a system prompt.
    pub fn system_prompt(&self, rng: &mut impl Rng) -> String {
        draw(&self.system_prompts, rng).sample(&self.lists, rng)
    }

    /// The right answer to a held-out question of this fact.
    pub fn answer(&self, fact: &str) -> Option<&str> {
        self.facts.iter().find(|candidate| candidate.id == fact).map(|found| found.answer.as_str())
    }

    /// The one polite line that declines foreign questions.
    pub fn foreign_answer(&self) -> &str {
        &self.foreign_answer
    }

    /// Every answer there is, in file order.
    pub fn answers(&self) -> impl Iterator<Item = &str> {
        let fixed = [self.foreign_answer.as_str(), self.exhausted_answer.as_str()];
        let facts = self.facts.iter().flat_map(|fact| [Some(fact.answer.as_str()), fact.more.as_deref()]);
        fixed.into_iter().chain(facts.flatten())
    }

    fn foreign_talk(&self, rng: &mut impl Rng) -> Result<Vec<Turn>, TrainerError> {
        let from_definitions = !self.foreign_definitions.is_empty() && rng.random_bool(FOREIGN_DEFINITION_SHARE);
        let patterns = if from_definitions { &self.foreign_definitions } else { &self.foreign };
        let mut turns = vec![self.turn(patterns, &self.foreign_answer, "foreign questions", rng)?];
        if rng.random_bool(CONTINUATION_SHARE) {
            turns.push(self.turn(&self.continuations, &self.foreign_answer, "continuations", rng)?);
        }
        Ok(turns)
    }

    fn turn(&self, patterns: &[Weighted], answer: &str, place: &str, rng: &mut impl Rng) -> Result<Turn, TrainerError> {
        let mut leaked = String::new();
        for _ in 0..DRAW_LIMIT {
            let plain = draw(patterns, rng).sample(&self.lists, rng);
            if self.held_out_keys.contains(&comparison_key(&plain)) {
                leaked = plain;
                continue;
            }
            let question = self.surface.dress(plain, &self.lists, rng);
            if self.held_out_keys.contains(&comparison_key(&question)) {
                leaked = question;
                continue;
            }
            return Ok(Turn { question, answer: answer.to_owned() });
        }
        Err(TrainerError::HeldOutLeak { place: place.to_owned(), question: leaked })
    }
}

/// The definition patterns, asking for these topics; none without topics.
fn define(definition: &[String], topics: &[String]) -> Vec<String> {
    if topics.is_empty() {
        return Vec::new();
    }
    let topics = format!("{{{}}}", topics.join("|"));
    definition.iter().map(|pattern| pattern.replace("<topic>", &topics)).collect()
}

fn draw<'a>(patterns: &'a [Weighted], rng: &mut impl Rng) -> &'a Pattern {
    let chosen = patterns.choose_weighted(rng, |entry| entry.weight);
    &chosen.expect("every set of patterns is checked not to be empty, and weights are at least one").pattern
}

fn parse_all(sources: &[String], place: &dyn Fn() -> String) -> Result<Vec<Pattern>, TrainerError> {
    sources
        .iter()
        .map(|source| Pattern::parse(source).map_err(|source| TrainerError::Pattern { place: place(), source }))
        .collect()
}

fn weigh(sources: &[String], lists: &WordLists, place: &dyn Fn() -> String) -> Result<Vec<Weighted>, TrainerError> {
    let patterns = parse_all(sources, place)?;
    check_lists(&patterns, lists).map_err(|source: PatternError| TrainerError::Pattern { place: place(), source })?;
    let weight = |pattern: &Pattern| pattern.breadth(lists).clamp(1.0, BREADTH_CEILING).sqrt();
    Ok(patterns.into_iter().map(|pattern| Weighted { weight: weight(&pattern), pattern }).collect())
}
