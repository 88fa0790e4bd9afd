//! The recipe: every number that decides what a pretraining run makes. The same recipe makes the same bytes.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::corpus::{Corpus, CorpusFile, HeldOut};
use crate::error::TrainerError;

/// A recipe as written in TOML; paths are relative to its file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seeds the initial weights, the data and their order.
    pub seed: u64,
    /// The corpus file.
    pub corpus: PathBuf,
    /// The file of held-out questions.
    pub held_out: PathBuf,
    /// The model's shape.
    pub model: ModelShape,
    /// What a row of training data is made of.
    pub data: DataMix,
    /// How the weights are moved.
    pub training: Training,
    /// What the result must reach.
    pub evaluation: PassMarks,
}

/// The shape of a Llama.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelShape {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward blocks.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub heads: usize,
    /// Tokens that the tokenizer learns, special ones included.
    pub vocabulary_size: usize,
    /// Positions that the model may be asked for.
    pub context_length: usize,
}

/// What a row of training data is made of.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataMix {
    /// Share of talks that open with a foreign question, 0 to 1.
    pub foreign_share: f64,
    /// Share of rows that open with a system prompt, 0 to 1.
    pub system_prompt_share: f64,
    /// Rows in a batch.
    pub rows: usize,
    /// Tokens in a row.
    pub row_tokens: usize,
    /// Every so many steps the rows are long, so that long talks are seen too; 0 for never.
    pub long_every: usize,
    /// Rows in a long batch.
    pub long_rows: usize,
    /// Tokens in a long row.
    pub long_row_tokens: usize,
}

/// How the weights are moved: AdamW with clipping, linear warm-up and cosine decay.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Optimizer steps.
    pub steps: usize,
    /// Steps of linear warm-up.
    pub warmup_steps: usize,
    /// Learning rate after the warm-up.
    pub peak_learning_rate: f64,
    /// Learning rate at the last step.
    pub final_learning_rate: f64,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's first decay rate.
    pub beta_1: f64,
    /// AdamW's second decay rate.
    pub beta_2: f64,
    /// Gradients are scaled down to this global norm.
    pub clip_norm: f64,
    /// Standard deviation of the initial weights.
    pub initial_deviation: f64,
}

/// Pass marks, in per cent of the held-out questions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassMarks {
    /// Held-out questions that must be answered exactly.
    pub exact_percent: f64,
    /// Held-out foreign questions that must be declined.
    pub declined_percent: f64,
}

impl Recipe {
    /// Reads and checks a recipe and the two files it names.
    ///
    /// # Errors
    /// Unreadable or malformed files, settings out of range, and corpus defects.
    pub fn read(path: &Path) -> Result<(Self, Corpus, HeldOut), TrainerError> {
        let recipe: Self = read_toml(path)?;
        recipe.check()?;
        let beside = path.parent().unwrap_or(Path::new("."));
        let held_out: HeldOut = read_toml(&beside.join(&recipe.held_out))?;
        let file: CorpusFile = read_toml(&beside.join(&recipe.corpus))?;
        let corpus = Corpus::new(file, &held_out)?;
        Ok((recipe, corpus, held_out))
    }

    fn check(&self) -> Result<(), TrainerError> {
        let model = &self.model;
        let data = &self.data;
        let positive = [
            ("model.hidden_size", model.hidden_size),
            ("model.intermediate_size", model.intermediate_size),
            ("model.layers", model.layers),
            ("model.heads", model.heads),
            ("data.rows", data.rows),
            ("training.steps", self.training.steps),
        ];
        for (setting, found) in positive {
            require(found > 0, setting, found, "at least 1")?;
        }
        // RoPE turns pairs of channels, so a head has an even width.
        let head_size_is_even = model.hidden_size.is_multiple_of(2 * model.heads);
        require(head_size_is_even, "model.heads", model.heads, "a number that splits hidden_size into even parts")?;
        require(model.vocabulary_size > 300, "model.vocabulary_size", model.vocabulary_size, "above 300 (all bytes)")?;
        for (setting, found) in [("data.row_tokens", data.row_tokens), ("data.long_row_tokens", data.long_row_tokens)] {
            require((16..=model.context_length).contains(&found), setting, found, "from 16 to context_length")?;
        }
        let shares =
            [("data.foreign_share", data.foreign_share), ("data.system_prompt_share", data.system_prompt_share)];
        for (setting, found) in shares {
            require((0.0..=1.0).contains(&found), setting, found, "from 0 to 1")?;
        }
        let decays = [("training.beta_1", self.training.beta_1), ("training.beta_2", self.training.beta_2)];
        for (setting, found) in decays {
            require((0.0..1.0).contains(&found), setting, found, "from 0 to below 1")?;
        }
        let rate = self.training.peak_learning_rate;
        require(rate.is_finite() && rate > 0.0, "training.peak_learning_rate", rate, "above 0")?;
        require(self.training.clip_norm > 0.0, "training.clip_norm", self.training.clip_norm, "above 0")
    }
}

impl Training {
    /// The learning rate of a step counted from 1.
    pub fn learning_rate(&self, step: usize) -> f64 {
        if step <= self.warmup_steps {
            return self.peak_learning_rate * step as f64 / self.warmup_steps as f64;
        }
        let span = self.steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / span as f64).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.final_learning_rate + (self.peak_learning_rate - self.final_learning_rate) * cosine
    }
}

fn require(
    holds: bool,
    setting: &'static str,
    found: impl ToString,
    required: &'static str,
) -> Result<(), TrainerError> {
    if holds { Ok(()) } else { Err(TrainerError::Recipe { setting, found: found.to_string(), required }) }
}

fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, TrainerError> {
    let text = std::fs::read_to_string(path).map_err(|source| TrainerError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|source| TrainerError::Toml { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls_to_its_floor() {
        let training = Training {
            steps: 100,
            warmup_steps: 10,
            peak_learning_rate: 1.0,
            final_learning_rate: 0.1,
            weight_decay: 0.0,
            beta_1: 0.9,
            beta_2: 0.99,
            clip_norm: 1.0,
            initial_deviation: 0.02,
        };
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        close(training.learning_rate(1), 0.1);
        close(training.learning_rate(10), 1.0);
        close(training.learning_rate(55), 0.55);
        close(training.learning_rate(100), 0.1);
        close(training.learning_rate(101), 0.1);
    }
}
