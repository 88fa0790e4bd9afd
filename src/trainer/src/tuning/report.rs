//! What a run was and how it went, for people ([`HTML_FILE`]) and for programs ([`JSON_FILE`]).
//!
//! There is no clock in it: a run that was interrupted and resumed reports what an uninterrupted one does, bit for bit.

use std::path::Path;

use ampoule_bundle::BundleIdentity;
use serde::{Deserialize, Serialize};

use crate::error::TrainerError;
use crate::progress::Progress;

use super::answers::{Answer, Judge, Respondent};
use super::checkpoint::Curves;
use super::lessons::Lesson;
use super::page;
use super::peft;
use super::schedule::Settings;

/// The report for programs, in the adapter's folder.
pub const JSON_FILE: &str = "training.json";
/// The report for people, one file without a reference to any other.
pub const HTML_FILE: &str = "report.html";

/// Far beyond a report of any run.
const MAX_JSON_BYTES: u64 = 1 << 30;

/// A finished run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The trainer's version.
    pub trainer: String,
    /// What was adapted.
    pub base: Base,
    /// How.
    pub settings: Settings,
    /// How many linear layers have matrices.
    pub modules: usize,
    /// What was learnt.
    pub examples: Extent,
    /// What of the base was rehearsed beside it.
    pub rehearsals: Option<Extent>,
    /// What is left of what the base knew; `None` when nothing was kept aside to tell.
    pub kept_aside: Option<KeptAside>,
    /// What was only tested.
    pub held_out_examples: Option<Extent>,
    /// Whether held-out examples ended the run before its last step.
    pub ended_early: bool,
    /// The held-out loss of the adapter that was written, in nats a token.
    pub held_out_loss: Option<f32>,
    /// What was measured on the way.
    pub curves: Curves,
    /// Examples with what the base and the adapter say to them.
    pub samples: Vec<Sample>,
}

/// The base bundle, by name and digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The digest of its manifest.
    pub manifest: String,
}

/// How much data there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// Examples.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Those of them that are learnt.
    pub learnt: usize,
    /// The tokens of the longest example.
    pub longest: usize,
}

/// One example before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// What was asked last.
    pub question: String,
    /// What the example says.
    pub expected: String,
    /// What the base says.
    pub before: String,
    /// What the base says with the adapter.
    pub after: String,
}

/// Rehearsals that were never trained on, and whether they are answered as the base answers them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptAside {
    /// How many there are.
    pub asked: usize,
    /// How many of them the adapter answers as the base does.
    pub as_before: usize,
    /// Some of them, those that are answered otherwise first.
    pub samples: Vec<Before>,
}

/// One question of what the base knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Before {
    /// What was asked.
    pub question: String,
    /// What the base says.
    pub before: String,
    /// What the base says with the adapter.
    pub after: String,
}

/// What a report says that measured nothing of what was forgotten.
const UNMEASURED: &str = "Nothing was measured of what the base has forgotten: give `train --rehearse` some \
                          questions that it knew, or put them with their answers to `evaluate`.";

impl Report {
    /// One sentence on what is left of what the base knew.
    pub fn forgetting(&self) -> String {
        match &self.kept_aside {
            None => UNMEASURED.to_owned(),
            Some(KeptAside { asked, as_before, .. }) => format!(
                "{as_before} of {asked} questions to rehearse that were kept aside and never trained on are answered \
                 as the base answers them."
            ),
        }
    }

    /// The file for programs.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("plain values always serialise");
        text.push('\n');
        text
    }

    /// The file for people.
    pub fn to_html(&self) -> String {
        page::html(self)
    }

    /// The steps that were taken.
    pub fn steps(&self) -> usize {
        self.curves.losses.len()
    }
}

/// Whether an adapter's folder says on which base it was trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was trained on the base at hand.
    Told,
    /// It was trained elsewhere, and only its shapes speak for the base.
    Untold,
}

/// Holds an adapter's folder against the base at hand.
///
/// # Errors
/// [`TrainerError::OtherBase`], and a report that cannot be read.
pub fn check_base(folder: &Path, wanted: &Base) -> Result<Origin, TrainerError> {
    match base_of(folder)? {
        None => Ok(Origin::Untold),
        Some(found) if found.manifest == wanted.manifest => Ok(Origin::Told),
        Some(found) => Err(TrainerError::OtherBase {
            path: folder.to_owned(),
            found: found.to_string(),
            wanted: wanted.to_string(),
        }),
    }
}

/// The base that an adapter's folder says it was trained on; `None` when it was not trained here.
fn base_of(folder: &Path) -> Result<Option<Base>, TrainerError> {
    #[derive(Deserialize)]
    struct OnlyBase {
        base: Base,
    }
    let path = folder.join(JSON_FILE);
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    let bytes = peft::read_regular(&path, MAX_JSON_BYTES)?;
    let report: OnlyBase = serde_json::from_slice(&bytes).map_err(|source| TrainerError::NoReport { path, source })?;
    Ok(Some(report.base))
}

impl Base {
    /// The name and digest of a verified bundle.
    pub fn of(identity: &BundleIdentity) -> Self {
        Self {
            name: identity.name.to_string(),
            version: identity.version.to_string(),
            manifest: identity.manifest.to_string(),
        }
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({})", self.name, self.version, self.manifest)
    }
}

impl Extent {
    /// Counts.
    pub fn of(lessons: &[Lesson]) -> Self {
        Self {
            examples: lessons.len(),
            tokens: lessons.iter().map(|lesson| lesson.tokens.len()).sum(),
            learnt: lessons.iter().map(Lesson::learnt).sum(),
            longest: lessons.iter().map(|lesson| lesson.tokens.len()).max().unwrap_or(0),
        }
    }
}

impl std::fmt::Display for Extent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { examples, tokens, learnt, longest } = self;
        write!(f, "{examples} examples, {tokens} tokens, {learnt} of them learnt, the longest has {longest}")
    }
}

impl KeptAside {
    /// Asks all of them again, and quotes so many.
    ///
    /// # Errors
    /// What [`Respondent::answer_again`] refuses.
    pub fn ask(
        lessons: &[Lesson],
        adapter: Respondent<'_>,
        quoted: usize,
        progress: Progress,
    ) -> Result<Option<Self>, TrainerError> {
        if lessons.is_empty() {
            return Ok(None);
        }
        let counter = progress.start_counting("what the base knew is asked again", lessons.len());
        let (mut kept, mut changed) = (Vec::new(), Vec::new());
        for lesson in lessons {
            let answer = adapter.answer_again(lesson)?;
            let is_kept = answer.is_right(Judge::Exact);
            let Answer { question, expected: before, said: after, .. } = answer;
            (if is_kept { &mut kept } else { &mut changed }).push(Before { question, before, after });
            counter.advance();
        }
        counter.finish();
        let (asked, as_before) = (lessons.len(), kept.len());
        Ok(Some(Self { asked, as_before, samples: changed.into_iter().chain(kept).take(quoted).collect() }))
    }
}

impl Sample {
    /// Puts one example to both.
    ///
    /// # Errors
    /// What [`Respondent::answer`] refuses.
    pub fn take(lesson: &Lesson, base: Respondent<'_>, adapter: Respondent<'_>) -> Result<Self, TrainerError> {
        let (before, after) = (base.answer(lesson)?, adapter.answer(lesson)?);
        Ok(Self { question: before.question, expected: before.expected, before: before.said, after: after.said })
    }
}
