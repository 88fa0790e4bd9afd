//! What a run was and how it went, for people ([`HTML_FILE`]) and for programs ([`JSON_FILE`]).
//!
//! There is no clock in it: a run that was interrupted and resumed reports what an uninterrupted one does, bit for bit.

use std::path::Path;

use ampoule_bundle::BundleIdentity;
use serde::{Deserialize, Serialize};

use crate::error::TrainerError;

use super::answers::Respondent;
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

impl Report {
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

/// The base that an adapter's folder says it was trained on; `None` when it was not trained here.
///
/// # Errors
/// A report that cannot be read.
pub fn base_of(folder: &Path) -> Result<Option<Base>, TrainerError> {
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
