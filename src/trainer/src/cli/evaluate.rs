//! `ampoule-trainer evaluate`.

use std::path::PathBuf;

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::progress::Progress;
use ampoule_trainer::tuning::answers::{self, Answer, Judge, Respondent};
use ampoule_trainer::tuning::examples::{self, Form};
use ampoule_trainer::tuning::lessons::Lesson;
use clap::Args;
use serde::Serialize;

use super::data::{self, BaseArguments, tokenise};
use super::{Output, share};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    base: BaseArguments,
    /// The examples to put to the model: JSON Lines, as for `train`, which must not have seen them.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The folder of an adapter that was trained on this base; the base alone is asked without it.
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// When an answer is right: it says what the example says and nothing else, or contains that.
    #[arg(long, value_name = "HOW", default_value = "exact")]
    judge: Judge,
    /// The share of right answers, 0 to 1, below which the exit code is 3; of the adapter, if there is one.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pass_mark: f64,
}

/// What was found.
#[derive(Serialize)]
struct Evaluation {
    judge: Judge,
    base: Answers,
    adapter: Option<Answers>,
}

/// What one of the two said.
#[derive(Serialize)]
struct Answers {
    right: usize,
    asked: usize,
    wrong: Vec<Answer>,
}

impl Arguments {
    pub(super) fn run(self, output: Output) -> Result<(), TrainerError> {
        let examples = examples::read(&self.data, Form::Example)?;
        let base = self.base.open()?;
        let adapter = self.adapter.as_deref().map(|folder| data::adapter(folder, &base)).transpose()?;
        let lessons = tokenise(&self.data, &examples, &base, usize::MAX)?;
        // Told before anything is asked, and not after half of it.
        if let Some(lesson) = lessons.iter().find(|lesson| !answers::asks(lesson)) {
            return Err(TrainerError::NothingAsked { line: lesson.line });
        }
        let alone = Respondent { decoder: &base.decoder, text: &base.text, adapter: None };
        let evaluation = Evaluation {
            judge: self.judge,
            base: ask(alone, &lessons, self.judge)?,
            adapter: match &adapter {
                Some(adapter) => Some(ask(Respondent { adapter: Some(adapter), ..alone }, &lessons, self.judge)?),
                None => None,
            },
        };
        output.print(&evaluation.to_string(), &evaluation);
        let judged = evaluation.adapter.as_ref().unwrap_or(&evaluation.base);
        if (judged.right as f64) < self.pass_mark * judged.asked as f64 {
            let (right, asked, pass_mark) = (judged.right, judged.asked, self.pass_mark);
            return Err(TrainerError::BelowMark { right, asked, pass_mark });
        }
        Ok(())
    }
}

fn ask(respondent: Respondent<'_>, lessons: &[Lesson], judge: Judge) -> Result<Answers, TrainerError> {
    let counter = Progress::Shown.start_counting("questions answered", lessons.len());
    let mut answers = Answers { right: 0, asked: lessons.len(), wrong: Vec::new() };
    for lesson in lessons {
        let answer = respondent.answer(lesson)?;
        if answer.is_right(judge) {
            answers.right += 1;
        } else {
            answers.wrong.push(answer);
        }
        counter.advance();
    }
    counter.finish();
    Ok(answers)
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Answer { line, question, expected, said } in &self.adapter.as_ref().unwrap_or(&self.base).wrong {
            writeln!(f, "wrong, line {line}: {question:?}\n  expected {expected:?}\n  said     {said:?}")?;
        }
        write!(f, "base:    {}", self.base)?;
        self.adapter.as_ref().map_or(Ok(()), |answers| write!(f, "\nadapter: {answers}"))
    }
}

impl std::fmt::Display for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = 100.0 * self.right as f64 / self.asked.max(1) as f64;
        write!(f, "{} of {} right ({percent:.1} %)", self.right, self.asked)
    }
}
