//! `ampoule-trainer train`.

use std::path::PathBuf;

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::memory::Memory;
use ampoule_trainer::progress::Progress;
use ampoule_trainer::tuning::answers::{self, Respondent};
use ampoule_trainer::tuning::forecast::{Forecast, Material};
use ampoule_trainer::tuning::lessons::Lesson;
use ampoule_trainer::tuning::report::{HTML_FILE, Report};
use ampoule_trainer::tuning::tune::{self, Run, Start, tune};
use clap::Args;

use super::Output;
use super::course::{self, Course};
use super::data::{Data, Prepared};

// One line, which is broken where the terminal ends.
const ADVICE: &str = "\
A few dozen examples want many passes: begin with --epochs 40 --learning-rate 1e-3, and hold some questions out, so \
that the run ends when it has learnt enough. What the model must not forget belongs into --rehearse: the report then \
says how many of some questions kept aside are answered as before, and `evaluate` says it of questions of your own. \
`check` takes the same data and settings and foresees steps, tokens and memory; a run that would not fit into the memory is \
refused.";

#[derive(Debug, Args)]
#[command(after_help = ADVICE)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// The folder to write; must not exist yet.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Go on with an interrupted run, which lies in FOLDER.run; where no checkpoint is found there, that is said, and
    /// the run begins at step 1.
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    course: Course,
    /// How many examples the report quotes with what the base and the adapter say to them, held-out ones if there are any.
    #[arg(long, value_name = "N", default_value_t = 8)]
    samples: usize,
}

impl Arguments {
    pub(super) fn run(self, output: Output) -> Result<(), TrainerError> {
        let start = if self.resume { Start::Resume } else { Start::Fresh };
        tune::check_place(&self.out, start)?;
        let prepared = self.data.open()?;
        eprintln!("{}", prepared.summary());
        let (settings, targets) = (self.course.settings(self.data.max_tokens), self.course.targets());
        let Prepared { base, lessons, rehearsals, held_out } = prepared;
        let respondent = Respondent { decoder: &base.decoder, text: &base.text, adapter: None };
        let foresee = |rehearsals: &[Lesson], is_answered| {
            let material = Material { lessons: &lessons, rehearsals, is_answered, held_out: &held_out };
            let forecast = Forecast::of(base.decoder.config(), &targets, &settings, material, Memory::look())?;
            eprintln!("{forecast}");
            course::judge(&forecast)
        };
        foresee(&rehearsals, false)?;
        let max_tokens = base.within_context(self.data.max_tokens);
        let rehearsals = answers::rehearsals(rehearsals, respondent, max_tokens, Progress::Shown)?;
        if !rehearsals.is_empty() {
            // Only now are the base's answers as long as they are.
            foresee(&rehearsals, true)?;
        }
        let report = tune(
            base,
            &Run {
                out: &self.out,
                start,
                lessons: &lessons,
                rehearsals: &rehearsals,
                held_out: &held_out,
                targets: &targets,
                settings: &settings,
                samples: self.samples,
                progress: Progress::Shown,
            },
        )?;
        if has_learnt_nothing(&report) {
            eprintln!("warning: the loss hardly fell: give more --epochs, or a higher --learning-rate");
        }
        let out = self.out.display();
        let text = format!("{}\nthe adapter is in {out}, its report in {out}/{HTML_FILE}", summary(&report));
        output.print(&text, &report);
        Ok(())
    }
}

/// Whether the second half of the steps did hardly better than the first step.
fn has_learnt_nothing(report: &Report) -> bool {
    let losses = &report.curves.losses;
    let later = &losses[losses.len() / 2..];
    let mean = later.iter().sum::<f32>() / later.len().max(1) as f32;
    losses.first().is_some_and(|first| mean > 0.9 * first)
}

fn summary(report: &Report) -> String {
    let early = if report.ended_early { ", ended early: the held-out examples got no better" } else { "" };
    let held_out = report.held_out_loss.map_or_else(String::new, |loss| format!(", held-out loss {loss:.4}"));
    format!("{} steps{held_out}{early}\n{}", report.steps(), report.forgetting())
}
