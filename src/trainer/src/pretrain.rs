//! `pretrain`: from a recipe to a Hugging Face folder, every parameter from nothing.
//!
//! ```text
//! recipe ─► corpus ─► tokenizer ─► initial weights ─► steps ─► folder ─► held-out questions
//! ```
//!
//! The held-out questions are asked of the folder as written, half-precision weights and all, not of the weights in
//! memory: what passes is what will be sealed.

use std::collections::BTreeMap;
use std::path::Path;

use ampoule_inference::model::Config;
use candle_core::{Device, Tensor};
use rand::Rng;
use tokenizers::Tokenizer;

use crate::corpus::Corpus;
use crate::error::TrainerError;
use crate::evaluation::{self, Report};
use crate::export::{self, Folder};
use crate::learner::Learner;
use crate::progress::Progress;
use crate::recipe::{ModelShape, Recipe};
use crate::rows::{Purpose, RowSampler, stream};
use crate::vocabulary;

/// How many talks the tokenizer learns from, beside every answer.
const VOCABULARY_TALKS: u64 = 20_000;

/// Runs a recipe, writes the model to `out` and asks it the held-out questions.
///
/// # Errors
/// Everything that [`TrainerError`] names. The folder is written even when the pass marks are missed, so that the
/// failure can be looked at.
pub fn pretrain(recipe_path: &Path, out: &Path, progress: Progress) -> Result<Report, TrainerError> {
    if out.exists() {
        return Err(TrainerError::OutputExists { path: out.to_owned() });
    }
    let (recipe, corpus, held_out) = Recipe::read(recipe_path)?;
    let folder = train(&recipe, &corpus, progress)?;
    folder.write(out)?;
    let report = evaluation::evaluate(out, &corpus, &held_out)?;
    report.check(&recipe.evaluation)?;
    Ok(report)
}

/// Trains in memory; the result is the folder's files.
///
/// # Errors
/// Corpus defects that only drawing reveals, a diverging loss, and what the libraries refuse.
pub fn train(recipe: &Recipe, corpus: &Corpus, progress: Progress) -> Result<Folder, TrainerError> {
    let tokenizer = learn_vocabulary(recipe, corpus)?;
    let config_json = export::config_json(&recipe.model, tokenizer.get_vocab_size(true));
    let config = Config::from_hugging_face(config_json.as_bytes())?;
    let weights = initial_weights(recipe, &config)?;
    let mut learner = Learner::new(config, weights, &recipe.training)?;

    let sampler = RowSampler::new(corpus, &tokenizer, &recipe.data, recipe.seed);
    let bar = progress.start(recipe.training.steps);
    for step in 1..=recipe.training.steps {
        let batch = sampler.batch(step)?;
        let loss = learner.step(&batch, recipe.training.learning_rate(step))?;
        if !loss.is_finite() {
            return Err(TrainerError::Diverged { step, loss });
        }
        bar.step(step, loss, batch.inputs.len());
    }
    bar.finish();
    Folder::new(&recipe.model, config_json, &tokenizer, &learner.weights())
}

fn learn_vocabulary(recipe: &Recipe, corpus: &Corpus) -> Result<Tokenizer, TrainerError> {
    let mut texts: Vec<String> = Vec::new();
    for counter in 0..VOCABULARY_TALKS {
        let mut rng = stream(recipe.seed, Purpose::Vocabulary, counter);
        let talk = corpus.talk(recipe.data.foreign_share, &mut rng)?;
        texts.extend(talk.into_iter().map(|turn| turn.question));
    }
    // Answers are what the model writes: each counts as often as a common question, so that they get short.
    for answer in corpus.answers() {
        texts.extend(std::iter::repeat_n(answer.to_owned(), 40));
    }
    vocabulary::learn(texts.iter().map(String::as_str), recipe.model.vocabulary_size)
}

/// Normal deviates for matrices, ones for norms. What writes into the residual stream starts smaller, by the root of the
/// number of such writes, so that the stream does not grow with depth.
fn initial_weights(recipe: &Recipe, config: &Config) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let ModelShape { layers, .. } = recipe.model;
    let residual_scale = 1.0 / (2.0 * layers as f64).sqrt();
    let mut weights = BTreeMap::new();
    for (index, (name, shape)) in config.tensors().into_iter().enumerate() {
        let mut rng = stream(recipe.seed, Purpose::Weights, index as u64);
        let writes_residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
        let scale = if writes_residual { residual_scale } else { 1.0 } * recipe.training.initial_deviation;
        let count = shape.iter().product();
        let values: Vec<f32> = if shape.len() == 1 {
            vec![1.0; count]
        } else {
            (0..count).map(|_| (normal(&mut rng) * scale) as f32).collect()
        };
        weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(weights)
}

/// A standard normal deviate (Box and Muller).
fn normal(rng: &mut impl Rng) -> f64 {
    // In (0, 1], so that the logarithm is finite.
    let radius: f64 = 1.0 - rng.random::<f64>();
    let angle = std::f64::consts::TAU * rng.random::<f64>();
    (-2.0 * radius.ln()).sqrt() * angle.cos()
}
