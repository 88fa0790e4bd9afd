//! The held-out questions, asked of a finished folder.
//!
//! An answer is right when it is the fact's answer to the letter. That is strict, and fits a model that is to repeat
//! what we wrote: an answer that is nearly right would be one that we did not write.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use ampoule_inference::model::{Config, Decoder, Weights};
use candle_core::Device;
use tokenizers::Tokenizer;

use crate::corpus::{Corpus, HeldOut};
use crate::error::TrainerError;
use crate::greedy;
use crate::recipe::PassMarks;
use crate::rows;
use crate::vocabulary::END;

/// Longer than any answer of the corpus.
const ANSWER_TOKENS: usize = 160;

/// How a model did on the held-out questions.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Questions about facts.
    pub questions: usize,
    /// Those answered exactly.
    pub exact: usize,
    /// Foreign questions.
    pub foreign: usize,
    /// Those declined with the one polite line.
    pub declined: usize,
    /// What went wrong: the question and what the model said.
    pub misses: Vec<(String, String)>,
}

impl Report {
    /// Compares with the recipe's pass marks.
    ///
    /// # Errors
    /// [`TrainerError::BelowPassMark`].
    pub fn check(&self, marks: &PassMarks) -> Result<(), TrainerError> {
        let exact = percent(self.exact, self.questions);
        let declined = percent(self.declined, self.foreign);
        if exact >= marks.exact_percent && declined >= marks.declined_percent {
            return Ok(());
        }
        Err(TrainerError::BelowPassMark {
            exact,
            exact_needed: marks.exact_percent,
            declined,
            declined_needed: marks.declined_percent,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (question, said) in &self.misses {
            writeln!(f, "missed: {question:?} -> {said:?}")?;
        }
        let exact = percent(self.exact, self.questions);
        writeln!(f, "held-out questions answered exactly: {} of {} ({exact:.1} %)", self.exact, self.questions)?;
        let declined = percent(self.declined, self.foreign);
        write!(f, "held-out foreign questions declined:  {} of {} ({declined:.1} %)", self.declined, self.foreign)
    }
}

/// Asks all held-out questions of the model in `folder`, greedily.
///
/// # Errors
/// A folder that cannot be read back.
pub fn evaluate(folder: &Path, corpus: &Corpus, held_out: &HeldOut) -> Result<Report, TrainerError> {
    let model = Model::read(folder)?;
    let mut report = Report { questions: 0, exact: 0, foreign: 0, declined: 0, misses: Vec::new() };
    let of_facts = held_out.questions.iter().flat_map(|(id, questions)| {
        let right = corpus.answer(id).expect("Corpus::new has found every fact of the held-out set");
        questions.iter().map(move |question| (question, right))
    });
    for (question, right) in of_facts {
        let said = model.answer(question)?;
        report.questions += 1;
        if said == right {
            report.exact += 1;
        } else {
            report.misses.push((question.clone(), said));
        }
    }
    for question in &held_out.foreign {
        let said = model.answer(question)?;
        report.foreign += 1;
        if said == corpus.foreign_answer() {
            report.declined += 1;
        } else {
            report.misses.push((question.clone(), said));
        }
    }
    Ok(report)
}

/// A model read back from its folder.
#[derive(Debug)]
struct Model {
    tokenizer: Tokenizer,
    decoder: Decoder,
}

impl Model {
    fn read(folder: &Path) -> Result<Self, TrainerError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| TrainerError::Read { path, source })
        };
        let tokenizer = Tokenizer::from_bytes(read("tokenizer.json")?)
            .map_err(|source| TrainerError::Tokenizer { action: "read back", source })?;
        let config = Config::from_hugging_face(&read("config.json")?)?;
        let tensors = candle_core::safetensors::load_buffer(&read("model.safetensors")?, &Device::Cpu)?;
        let tensors: BTreeMap<_, _> = tensors.into_iter().collect();
        Ok(Self { tokenizer, decoder: Decoder::new(config, Weights::from_tensors(tensors)?)? })
    }

    fn answer(&self, question: &str) -> Result<String, TrainerError> {
        let prompt = rows::prompt(&self.tokenizer, question)?;
        let answer = greedy::continuation(&self.decoder, None, &prompt, &[END], ANSWER_TOKENS)?;
        self.tokenizer.decode(&answer, true).map_err(|source| TrainerError::Tokenizer { action: "used", source })
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 100.0 } else { 100.0 * part as f64 / whole as f64 }
}
