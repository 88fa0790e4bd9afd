//! What a model says to examples, judged by what they say themselves: the measure of an adapter that a person understands.
//!
//! Each example is asked as it would be in service, greedily, up to its last message of the assistant (or its
//! completion), and what the model says is held against that.

use std::collections::{BTreeMap, BTreeSet};

use ampoule_inference::model::{Adapter, Decoder};
use ampoule_inference::text::{SpecialTokensInOutput, TextProcessor};
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::error::TrainerError;
use crate::greedy;
use crate::progress::Progress;
use crate::rows::{Purpose, stream};

use super::lessons::Lesson;

/// How many tokens longer than the expected answer an answer may become before it is cut: a wrong one is wrong by then.
pub(super) const SPARE_TOKENS: usize = 32;

/// Of so many rehearsals one is kept aside, up to [`MAX_KEPT_ASIDE`].
const KEPT_ASIDE_OF: usize = 10;

/// How many rehearsals are kept aside at most: enough to see what is forgotten, few enough to ask of a large model.
const MAX_KEPT_ASIDE: usize = 64;

/// When an answer counts as right. Letter case and the amount of white space never count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Judge {
    /// The model says what the example says, and nothing else.
    Exact,
    /// The model says what the example says, and perhaps more.
    Contains,
}

/// One example, and what a model says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The line of the example.
    pub line: usize,
    /// What was asked last.
    pub question: String,
    /// What the example says.
    pub expected: String,
    /// What the model says.
    pub said: String,
}

impl Answer {
    /// Whether the answer is right.
    pub fn is_right(&self, judge: Judge) -> bool {
        let (expected, said) = (folded(&self.expected), folded(&self.said));
        match judge {
            Judge::Exact => said == expected,
            Judge::Contains => said.contains(&expected),
        }
    }
}

fn folded(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Whoever answers: a model, alone or with an adapter.
#[derive(Clone, Copy)]
pub struct Respondent<'a> {
    /// The model.
    pub decoder: &'a Decoder,
    /// Its tokenizer.
    pub text: &'a TextProcessor,
    /// What is added to it.
    pub adapter: Option<&'a Adapter>,
}

/// Whether an example has a prompt, and so can be put to a model at all.
pub fn asks(lesson: &Lesson) -> bool {
    !last_learnt(lesson).0.is_empty()
}

impl Respondent<'_> {
    /// Asks one example.
    ///
    /// # Errors
    /// [`TrainerError::NothingAsked`], and what the decoder refuses.
    pub fn answer(&self, lesson: &Lesson) -> Result<Answer, TrainerError> {
        self.answer_within(lesson, SPARE_TOKENS)
    }

    /// Asks a rehearsal, to which the base has said something already.
    ///
    /// # Errors
    /// As [`Respondent::answer`].
    pub fn answer_again(&self, lesson: &Lesson) -> Result<Answer, TrainerError> {
        // What the base said has no end when it was cut for want of room, and what is said now is cut there too.
        let is_cut = !lesson.tokens.last().is_some_and(|token| self.text.end_of_sequence().contains(token));
        self.answer_within(lesson, if is_cut { 0 } else { SPARE_TOKENS })
    }

    fn answer_within(&self, lesson: &Lesson, spare_tokens: usize) -> Result<Answer, TrainerError> {
        let (prompt, expected) = last_learnt(lesson);
        if prompt.is_empty() {
            return Err(TrainerError::NothingAsked { line: lesson.line });
        }
        let ends = self.text.end_of_sequence();
        let expected: Vec<u32> = expected.iter().copied().filter(|token| !ends.contains(token)).collect();
        let said = greedy::continuation(self.decoder, self.adapter, prompt, ends, expected.len() + spare_tokens)?;
        let decode = |tokens: &[u32]| self.text.tokenizer().decode(tokens, SpecialTokensInOutput::Skip);
        Ok(Answer {
            line: lesson.line,
            question: lesson.question.clone(),
            expected: decode(&expected).trim().to_owned(),
            said: decode(&said).trim().to_owned(),
        })
    }
}

/// Questions with what the base itself says to them: an adapter that only sees what is new forgets what the base knew, so
/// beside each batch it is held to the base's own opinion along these answers (self-synthesised rehearsal, arXiv
/// 2403.01244, with the base's probabilities as the target).
///
/// # Errors
/// What the decoder refuses.
pub fn rehearsals(
    mut questions: Vec<Lesson>,
    base: Respondent<'_>,
    max_tokens: usize,
    progress: Progress,
) -> Result<Vec<Lesson>, TrainerError> {
    let counter = progress.start_counting("the base answers what is to be rehearsed", questions.len());
    let ends = base.text.end_of_sequence();
    for Lesson { tokens, is_learnt, .. } in &mut questions {
        let room = max_tokens.saturating_sub(tokens.len() + 1);
        let said = greedy::continuation(base.decoder, None, tokens, ends, room)?;
        // An answer that was cut for want of room does not end here, and must not be learnt to.
        let end = ends.first().filter(|_| said.len() < room);
        tokens.extend(said.iter().chain(end));
        is_learnt.resize(tokens.len(), true);
        counter.advance();
    }
    counter.finish();
    Ok(questions)
}

/// Divides rehearsals into those that are kept aside, never trained on, and those that are rehearsed: what is rehearsed
/// says little about what is forgotten. A question that occurs again is never in both, and one that the lessons answer is
/// not kept aside.
pub fn set_aside(rehearsals: &[Lesson], lessons: &[Lesson], seed: u64) -> (Vec<Lesson>, Vec<Lesson>) {
    let mut questions = BTreeMap::new();
    // What the base had no room to answer compares with nothing.
    for lesson in rehearsals.iter().filter(|lesson| lesson.learnt() > 0) {
        questions.entry(last_learnt(lesson).0).or_insert(lesson);
    }
    let mut aside: Vec<&Lesson> = questions.into_values().collect();
    let count = aside.len().div_ceil(KEPT_ASIDE_OF).min(MAX_KEPT_ASIDE).min(aside.len().saturating_sub(1));
    aside.shuffle(&mut stream(seed, Purpose::KeptAside, 0));
    aside.truncate(count);
    aside.sort_by_key(|lesson| lesson.line);
    let questions: BTreeSet<&[u32]> = aside.iter().map(|lesson| last_learnt(lesson).0).collect();
    let rehearsed = rehearsals.iter().filter(|lesson| !questions.contains(last_learnt(lesson).0)).cloned().collect();
    // Only now, so that the draw and with it what is rehearsed are a matter of the rehearsals alone.
    let taught: BTreeSet<&[u32]> = lessons.iter().flat_map(prompts).collect();
    aside.retain(|lesson| !taught.contains(last_learnt(lesson).0));
    (aside.into_iter().cloned().collect(), rehearsed)
}

/// What comes before each stretch of learnt tokens.
pub fn prompts(lesson: &Lesson) -> impl Iterator<Item = &[u32]> {
    let marks = &lesson.is_learnt;
    let starts = (0..marks.len()).filter(|at| marks[*at] && (*at == 0 || !marks[*at - 1]));
    starts.map(|start| &lesson.tokens[..start])
}

/// What comes before the last stretch of learnt tokens, and that stretch.
pub(super) fn last_learnt(lesson: &Lesson) -> (&[u32], &[u32]) {
    let end = lesson.is_learnt.iter().rposition(|is_learnt| *is_learnt).map_or(0, |last| last + 1);
    let start = lesson.is_learnt[..end].iter().rposition(|is_learnt| !is_learnt).map_or(0, |last| last + 1);
    (&lesson.tokens[..start], &lesson.tokens[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stretch_that_is_learnt_is_the_answer() {
        let lesson = |marks: &[bool]| Lesson {
            line: 1,
            question: String::new(),
            tokens: (0..marks.len() as u32).collect(),
            is_learnt: marks.to_vec(),
        };
        let (f, t) = (false, true);
        assert_eq!(last_learnt(&lesson(&[f, t, f, t, t, f])), (&[0, 1, 2][..], &[3, 4][..]));
        assert_eq!(last_learnt(&lesson(&[f, t, t])), (&[0][..], &[1, 2][..]));
    }

    #[test]
    fn what_is_kept_aside_is_never_rehearsed() {
        let lesson = |line: usize, question: u32| Lesson {
            line,
            question: String::new(),
            tokens: vec![question, 0],
            is_learnt: vec![false, true],
        };
        // Each question occurs twice.
        let rehearsals: Vec<Lesson> = (0..200).map(|line| lesson(line, line as u32 % 100)).collect();
        let (aside, rehearsed) = set_aside(&rehearsals, &[], 1);
        assert_eq!((aside.len(), rehearsed.len()), (10, 180));
        assert!(rehearsed.iter().all(|lesson| aside.iter().all(|kept| kept.tokens != lesson.tokens)));
        assert_eq!(set_aside(&rehearsals, &[], 1).0, aside);
        assert_ne!(set_aside(&rehearsals, &[], 2).0, aside);
        let many: Vec<Lesson> = (0..2000).map(|line| lesson(line, line as u32)).collect();
        assert_eq!(set_aside(&many, &[], 1).0.len(), MAX_KEPT_ASIDE);
        // Something is always rehearsed, and what was not answered is not asked again.
        assert_eq!(set_aside(&many[..1], &[], 1).0, []);
        assert_eq!(set_aside(&many[..2], &[], 1).0.len(), 1);
        let unanswered = Lesson { is_learnt: vec![false; 2], ..lesson(0, 0) };
        assert_eq!(set_aside(&vec![unanswered; 9], &[], 1).0, []);
        // What the lessons answer, be it in the first of two turns, is trained on; what is rehearsed stays the same.
        let two_turns = Lesson {
            tokens: [&aside[7].tokens[..], &[9, 9]].concat(),
            is_learnt: vec![false, true, false, true],
            ..lesson(0, 0)
        };
        let taught = [aside[3].clone(), two_turns];
        let (left, still_rehearsed) = set_aside(&rehearsals, &taught, 1);
        assert_eq!((left.len(), still_rehearsed), (8, rehearsed));
        assert!(!left.contains(&aside[3]) && !left.contains(&aside[7]));
    }

    #[test]
    fn letter_case_and_white_space_do_not_make_an_answer_wrong() {
        let answer = |said: &str| Answer {
            line: 1,
            question: String::new(),
            expected: "Row C, behind the building.".to_owned(),
            said: said.to_owned(),
        };
        assert!(answer("row C,  behind the\nbuilding.").is_right(Judge::Exact));
        assert!(!answer("Well: row C, behind the building.").is_right(Judge::Exact));
        assert!(answer("Well: row C, behind the building.").is_right(Judge::Contains));
        assert!(!answer("Row D, behind the building.").is_right(Judge::Contains));
    }
}
