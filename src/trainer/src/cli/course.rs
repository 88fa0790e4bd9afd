//! How an adapter is trained: the options that `train` and, to foresee a run, `check` take, and the judgement of what is
//! foreseen, which must be the same in both.

use ampoule_trainer::error::TrainerError;
use ampoule_trainer::tuning::forecast::Forecast;
use ampoule_trainer::tuning::low_rank::Targets;
use ampoule_trainer::tuning::schedule::Settings;
use clap::Args;

use super::{positive, share};

/// The settings of a run.
#[derive(Debug, Args)]
pub(super) struct Course {
    /// The linear layers to adapt, by name and separated by commas, such as q_proj,v_proj; all of them by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    targets: Vec<String>,
    /// The adapter's rank.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    rank: u16,
    /// What the adapter adds is scaled by alpha / rank; twice the rank by default.
    #[arg(long, value_name = "X", value_parser = positive)]
    alpha: Option<f64>,
    /// How often each example is seen.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    epochs: u16,
    /// Examples in a step.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// The learning rate after the warm-up; it falls to zero along a cosine.
    #[arg(long, value_name = "X", default_value_t = 2e-4, value_parser = positive)]
    learning_rate: f64,
    /// The share of the steps in which the learning rate rises.
    #[arg(long, value_name = "X", default_value_t = 0.05, value_parser = share)]
    warmup_share: f64,
    /// AdamW's weight decay.
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = share)]
    weight_decay: f64,
    /// The largest norm of a step's gradient; a larger one is scaled down.
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    clip_norm: f64,
    /// Seeds the initial matrices, the order of the examples, and which rehearsals are kept aside.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Course {
    pub(super) fn settings(&self, max_tokens: usize) -> Settings {
        Settings {
            seed: self.seed,
            epochs: self.epochs.into(),
            batch: self.batch.into(),
            max_tokens,
            rank: self.rank.into(),
            alpha: self.alpha.unwrap_or(2.0 * f64::from(self.rank)),
            learning_rate: self.learning_rate,
            warmup_share: self.warmup_share,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
        }
    }

    pub(super) fn targets(&self) -> Targets {
        if self.targets.is_empty() { Targets::AllLinear } else { Targets::Named(self.targets.clone()) }
    }
}

/// Refuses a run that would not fit, and warns where nobody can tell yet.
pub(super) fn judge(forecast: &Forecast) -> Result<(), TrainerError> {
    forecast.check()?;
    match forecast.fits {
        Some(true) => {}
        Some(false) => eprintln!(
            "warning: the run may not fit into the memory that is left: that depends on how long the base's answers to \
             what is to be rehearsed are, and the run is refused if they turn out too long"
        ),
        None => eprintln!(
            "warning: this system does not tell how much memory is left, so nothing says whether the run fits"
        ),
    }
    Ok(())
}
