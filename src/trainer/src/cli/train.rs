//! `ampoule-trainer train`.

use std::path::PathBuf;

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::progress::Progress;
use ampoule_trainer::tuning::answers::{self, Respondent};
use ampoule_trainer::tuning::low_rank::Targets;
use ampoule_trainer::tuning::report::{HTML_FILE, Report};
use ampoule_trainer::tuning::schedule::Settings;
use ampoule_trainer::tuning::tune::{Run, Start, tune};
use clap::Args;

use super::Output;
use super::data::{Data, Prepared};

const ADVICE: &str = "\
A few dozen examples want many passes: begin with --epochs 40 --learning-rate 1e-3, and hold some questions out, so that the
run ends when it has learnt enough. What the model must not forget belongs into --rehearse; afterwards `evaluate` says how
much of it is left.";

#[derive(Debug, Args)]
#[command(after_help = ADVICE)]
pub(super) struct Arguments {
    #[command(flatten)]
    data: Data,
    /// The folder to write; must not exist yet.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Go on with an interrupted run, which lies in FOLDER.run.
    #[arg(long)]
    resume: bool,
    /// The linear layers to adapt, by name and separated by commas, such as q_proj,v_proj; all of them by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    targets: Vec<String>,
    /// The adapter's rank.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    rank: u16,
    /// What the adapter adds is scaled by alpha / rank; twice the rank by default.
    #[arg(long, value_name = "X")]
    alpha: Option<f64>,
    /// How often each example is seen.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    epochs: u16,
    /// Examples in a step.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// The learning rate after the warm-up; it falls to zero along a cosine.
    #[arg(long, value_name = "X", default_value_t = 2e-4)]
    learning_rate: f64,
    /// The share of the steps in which the learning rate rises.
    #[arg(long, value_name = "X", default_value_t = 0.05)]
    warmup_share: f64,
    /// AdamW's weight decay.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    weight_decay: f64,
    /// The largest norm of a step's gradient; a larger one is scaled down.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    clip_norm: f64,
    /// Seeds the initial matrices and the order of the examples.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// How many examples the report quotes with what the base and the adapter say to them, held-out ones if there are any.
    #[arg(long, value_name = "N", default_value_t = 8)]
    samples: usize,
}

impl Arguments {
    pub(super) fn run(self, output: Output) -> Result<(), TrainerError> {
        let prepared = self.data.open()?;
        eprintln!("{}", prepared.summary());
        let settings = Settings {
            seed: self.seed,
            epochs: self.epochs.into(),
            batch: self.batch.into(),
            max_tokens: self.data.max_tokens,
            rank: self.rank.into(),
            alpha: self.alpha.unwrap_or(2.0 * f64::from(self.rank)),
            learning_rate: self.learning_rate,
            warmup_share: self.warmup_share.clamp(0.0, 1.0),
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
        };
        let targets = if self.targets.is_empty() { Targets::AllLinear } else { Targets::Named(self.targets) };
        let Prepared { base, lessons, rehearsals, held_out } = prepared;
        let respondent = Respondent { decoder: &base.decoder, text: &base.text, adapter: None };
        let max_tokens = base.within_context(self.data.max_tokens);
        let rehearsals = answers::rehearsals(rehearsals, respondent, max_tokens, Progress::Shown)?;
        let report = tune(
            base,
            &Run {
                out: &self.out,
                start: if self.resume { Start::Resume } else { Start::Fresh },
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
    format!("{} steps{held_out}{early}", report.steps())
}
