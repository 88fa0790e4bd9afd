//! The command line of `ampoule-trainer`: what each command takes, and the one call that it makes.
//!
//! Results go to standard output, as sentences or with `--json` as one JSON object; notes and progress go to standard
//! error.

use std::path::PathBuf;

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::pretrain::pretrain;
use ampoule_trainer::progress::Progress;
use clap::{Parser, Subcommand};

mod check;
mod course;
mod data;
mod evaluate;
mod export;
mod train;

const EXAMPLES: &str = "\
Examples:
  ampoule-trainer check --base chat.bundle --trust-root root.json --data examples.jsonl
  ampoule-trainer train --base chat.bundle --trust-root root.json --data examples.jsonl \\
      --held-out held-out.jsonl --out my-adapter
  ampoule-trainer evaluate --base chat.bundle --trust-root root.json --data held-out.jsonl \\
      --adapter my-adapter --pass-mark 0.9
  ampoule-trainer export --base chat.bundle --trust-root root.json --adapter my-adapter \\
      --name helpdesk --version 1.0.0 --counter 1 --key site.key --out helpdesk.bundle

A line of data is {\"messages\":[{\"role\":\"user\",\"content\":\"...\"},{\"role\":\"assistant\",\"content\":\"...\"}]}
or {\"prompt\":\"...\",\"completion\":\"...\"}. Only the assistant's words, or the completion, are learnt.
A line has at most 1 MiB, and no key twice.

Exit codes: 0 ok, 1 failure, 2 usage, 3 a check failed, 10 unreadable bundle, 11 signature or digest,
12 not admitted, 13 another run's checkpoint, 20 model, 78 recipe.";

/// Trains offline: adapters to a sealed model on a site's own examples, and small models from nothing.
#[derive(Debug, Parser)]
#[command(name = "ampoule-trainer", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print the result as one JSON object.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check training data against a base model: form, assistant's words, lengths; and foresee steps, tokens and memory
    /// of a run with these settings. Trains nothing; ends with exit code 12 when `train` would refuse the run for want of
    /// memory.
    Check(Box<check::Arguments>),
    /// Train an adapter (LoRA) to a sealed base model and write it as a PEFT folder with a report.
    ///
    /// A run that was interrupted goes on with --resume to the very adapter that it would have made.
    Train(Box<train::Arguments>),
    /// Put examples to the base model, and to an adapter of it, and count the right answers.
    Evaluate(evaluate::Arguments),
    /// Seal an adapter into a signed bundle that is bound to its base, ready for `ampoule serve`.
    Export(Box<export::Arguments>),
    /// Train a model from nothing by a recipe and write it as a Hugging Face folder, ready for `ampoule-seal seal`.
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

/// How a command reports its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// Sentences for people.
    Text,
    /// One JSON object for programs.
    Json,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<(), TrainerError> {
        let output = if self.json { Output::Json } else { Output::Text };
        match self.command {
            Command::Check(arguments) => arguments.run(output),
            Command::Train(arguments) => arguments.run(output),
            Command::Evaluate(arguments) => arguments.run(output),
            Command::Export(arguments) => arguments.run(output),
            Command::Pretrain { recipe, out } => {
                let report = pretrain(&recipe, &out, Progress::Shown)?;
                let text = format!("{report}\nthe model is in {}", out.display());
                output.print(&text, &report);
                Ok(())
            }
        }
    }
}

impl Output {
    fn print(self, text: &str, json: &impl serde::Serialize) {
        match self {
            Output::Text => println!("{text}"),
            Output::Json => {
                println!("{}", serde_json::to_string_pretty(json).expect("plain values always serialise"));
            }
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    number(text).filter(|number| *number > 0.0).ok_or_else(|| "wanted is a number above 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    number(text)
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| "wanted is a number from 0 to 1".to_owned())
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}
