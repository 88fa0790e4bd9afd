//! What can be typed, and which function each command runs.

use std::path::PathBuf;

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::pretrain::pretrain;
use ampoule_trainer::progress::Progress;
use ampoule_trainer::tuning::base::Base;
use ampoule_trainer::tuning::examples;
use ampoule_trainer::tuning::lessons::{self, Lesson};
use ampoule_trainer::tuning::low_rank::Targets;
use ampoule_trainer::tuning::schedule::Settings;
use ampoule_trainer::tuning::tune::{Run, Start, tune};
use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  ampoule-trainer check --base chat.bundle --trust-root root.json --data examples.jsonl
  ampoule-trainer train --base chat.bundle --trust-root root.json --data examples.jsonl \\
      --held-out held-out.jsonl --out my-adapter

A line of data is {\"messages\":[{\"role\":\"user\",\"content\":\"...\"},{\"role\":\"assistant\",\"content\":\"...\"}]}
or {\"prompt\":\"...\",\"completion\":\"...\"}. Only the assistant's words, or the completion, are learnt.";

/// Trains offline: adapters to a sealed model on a site's own examples, and small models from nothing.
#[derive(Debug, Parser)]
#[command(name = "ampoule-trainer", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check training data against a base model: form, assistant's words, lengths. Trains nothing.
    Check(Data),
    /// Train an adapter (LoRA) to a sealed base model and write it as a PEFT folder.
    ///
    /// A run that was interrupted goes on with --resume to the very adapter that it would have made.
    Train(Box<Train>),
    /// Trains a model from nothing by a recipe and writes it as a Hugging Face folder, ready for `ampoule-seal seal`.
    ///
    /// Ends with the held-out questions; exit code 3 means that the model misses the recipe's pass marks.
    Pretrain {
        /// The recipe (TOML): seed, corpus, shape, steps, pass marks.
        #[arg(long, value_name = "FILE")]
        recipe: PathBuf,
        /// The folder to write; must not exist yet.
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Data {
    /// The sealed base model.
    #[arg(long, value_name = "BUNDLE")]
    base: PathBuf,
    /// The root.json whose keys may sign it.
    #[arg(long, value_name = "FILE")]
    trust_root: PathBuf,
    /// What is to be learnt: JSON Lines.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// What is only tested, after each pass: JSON Lines that --data does not hold. The best adapter by it is kept.
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,
    /// The longest example in tokens; what is longer is cut at its end.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_tokens: usize,
}

#[derive(Debug, Args)]
struct Train {
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
}

impl Arguments {
    pub(crate) fn run(self) -> Result<(), TrainerError> {
        match self.command {
            Command::Check(data) => data.open().map(|prepared| println!("ok: {}", prepared.summary())),
            Command::Train(train) => train.run(),
            Command::Pretrain { recipe, out } => {
                let report = pretrain(&recipe, &out, Progress::Shown)?;
                println!("{report}\nthe model is in {}", out.display());
                Ok(())
            }
        }
    }
}

struct Prepared {
    base: Base,
    lessons: Vec<Lesson>,
    held_out: Vec<Lesson>,
}

impl Prepared {
    fn summary(&self) -> String {
        let describe = |lessons: &[Lesson]| {
            let tokens: usize = lessons.iter().map(|lesson| lesson.tokens.len()).sum();
            let learnt: usize = lessons.iter().map(Lesson::learnt).sum();
            let longest = lessons.iter().map(|lesson| lesson.tokens.len()).max().unwrap_or(0);
            format!("{} examples, {tokens} tokens, {learnt} of them learnt, the longest has {longest}", lessons.len())
        };
        let held_out = match &self.held_out[..] {
            [] => String::new(),
            lessons => format!("; held out: {}", describe(lessons)),
        };
        format!("{}{held_out}", describe(&self.lessons))
    }
}

impl Data {
    /// Reads the data first: its defects are told before a large model is loaded.
    fn open(&self) -> Result<Prepared, TrainerError> {
        let data = examples::read(&self.data)?;
        let held_out = self.held_out.as_deref().map(examples::read).transpose()?;
        let base = Base::open(&self.base, &self.trust_root)?;
        let max_tokens = self.max_tokens.min(base.decoder.config().context_length);
        let tokenise = |path: &PathBuf, examples: &[examples::Example]| {
            let lessons::Lessons { lessons, cut } = lessons::tokenise(path, examples, &base.text, max_tokens)?;
            if let Some(first) = cut.first() {
                let (count, path) = (cut.len(), path.display());
                eprintln!(
                    "warning: {count} examples of {path} are longer than {max_tokens} tokens and cut, the first in line {first}"
                );
            }
            Ok::<_, TrainerError>(lessons)
        };
        let lessons = tokenise(&self.data, &data)?;
        let held_out = match (&self.held_out, &held_out) {
            (Some(path), Some(examples)) => tokenise(path, examples)?,
            _ => Vec::new(),
        };
        Ok(Prepared { base, lessons, held_out })
    }
}

impl Train {
    fn run(self) -> Result<(), TrainerError> {
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
        let Prepared { base, lessons, held_out } = prepared;
        let outcome = tune(
            base,
            &Run {
                out: &self.out,
                start: if self.resume { Start::Resume } else { Start::Fresh },
                lessons: &lessons,
                held_out: &held_out,
                targets: &targets,
                settings: &settings,
                progress: Progress::Shown,
            },
        )?;
        let steps = outcome.steps;
        let early = if outcome.ended_early { ", ended early: the held-out examples got no better" } else { "" };
        let held_out = outcome.held_out.map_or_else(String::new, |loss| format!(", held-out loss {loss:.4}"));
        println!("{steps} steps{held_out}{early}\nthe adapter is in {}", self.out.display());
        Ok(())
    }
}
