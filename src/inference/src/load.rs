//! From an admitted bundle to a model that is ready to be served.
//!
//! ```text
//! AdmittedBundle ─load─► LoadedModel ─prove─► ReadyModel ─spawn─► EngineHandle
//! ```
//!
//! Each arrow consumes what stands left of it and no type has another constructor, so that a step cannot be skipped:
//!
//! ```compile_fail,E0308
//! fn unadmitted(bundle: ampoule_bundle::VerifiedBundle, options: &ampoule_inference::LoadOptions) {
//!     let _ = ampoule_inference::LoadedModel::load(bundle, options);
//! }
//! ```
//! ```compile_fail,E0599
//! fn unproved(model: ampoule_inference::LoadedModel, config: ampoule_inference::EngineConfig) {
//!     let _ = model.spawn(config);
//! }
//! ```

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use ampoule_bundle::statement::{AdapterBinding, KnownAnswers};
use ampoule_bundle::{AdmittedBundle, BundleIdentity, LoadError, TensorInfo, TensorKind, WeightFile};
use ampoule_kernels::{KvElement, Processor};

use crate::adapters::AdapterBase;
use crate::describe::Description;
use crate::encoder::{Case, Encoder, EncoderConfig, EncoderSink};
use crate::engine::{EngineConfig, EngineHandle};
use crate::error::InferenceError;
use crate::known_answers::{self, Recording};
use crate::model::Config;
use crate::packed::{Generator, PackedDecoder, PackedSink};
use crate::profile::{ModelKind, ModelProfile};
use crate::proof;
use crate::text::TextProcessor;

/// What the site may choose about loading.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// A shorter context than the model's own; longer ones have no effect.
    pub context_length: Option<usize>,
    /// How many threads compute; one for each core that the process may use, if absent.
    pub threads: Option<NonZero<usize>>,
    /// Told, from several threads, how many more bytes of weights have been read.
    pub progress: Option<Arc<dyn Fn(u64) + Send + Sync>>,
}

impl fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions").field("context_length", &self.context_length).finish_non_exhaustive()
    }
}

/// A model in memory, built from verified bytes alone.  It has not computed anything yet.
pub struct LoadedModel {
    pub(crate) model: Model,
    text: Arc<TextProcessor>,
    profile: ModelProfile,
    case: Case,
    identity: BundleIdentity,
    known_answers: Option<KnownAnswers>,
    /// What an adapter must be bound to.
    binding: Option<AdapterBinding>,
}

/// A model that gives the answers here that its vendor recorded.
pub struct ReadyModel {
    loaded: LoadedModel,
}

/// What computes.
pub(crate) enum Model {
    Generator(Box<Generator>),
    Encoder(Box<Encoder>),
}

impl Model {
    pub(crate) fn kind(&self) -> ModelKind {
        match self {
            Model::Generator(_) => ModelKind::Generator,
            Model::Encoder(_) => ModelKind::Encoder,
        }
    }
}

impl LoadedModel {
    /// Reads the bundle's configuration and tokenizer, and its weights while they are hashed.  Nothing of the weights is
    /// used before their digests have matched.
    pub fn load(bundle: AdmittedBundle, options: &LoadOptions) -> Result<LoadedModel, InferenceError> {
        let description = Description::of(&bundle)?;
        let file = |path: &str| bundle.file(path);
        let text = description.text(file)?;
        let (model, mut profile, case) = match description.decoder()? {
            Some(config) => {
                let (decoder, profile) = load_decoder(config, &bundle, options)?;
                (decoder, profile, Case::Kept)
            }
            None => {
                let config = EncoderConfig::from_files(file)?;
                let case = config.case;
                let (encoder, profile) = load_encoder(config, &bundle, options)?;
                (encoder, profile, case)
            }
        };
        let constraint = bundle.release().constraints.max_context_length.map(|tokens| tokens as usize);
        for limit in [constraint, options.context_length].into_iter().flatten() {
            profile.context_length = profile.context_length.min(limit);
        }
        if profile.context_length < 2 {
            return Err(InferenceError::ContextTooShort { found: profile.context_length });
        }
        Ok(LoadedModel {
            model,
            text: Arc::new(text),
            profile,
            case,
            identity: bundle.identity().clone(),
            known_answers: bundle.release().known_answers.clone(),
            binding: bundle.adapter_binding().cloned(),
        })
    }

    /// What the model is.
    pub fn profile(&self) -> &ModelProfile {
        &self.profile
    }

    /// Makes sure that the model computes numbers, then replays the answers that the release statement records and
    /// compares them within its tolerance.  A release without any has nothing more to prove.
    pub fn prove(mut self) -> Result<ReadyModel, InferenceError> {
        proof::compute(&mut self.model, self.profile.vocabulary_size)?;
        if let Some(expected) = &self.known_answers {
            known_answers::replay(&mut self.model, expected)?;
        }
        Ok(ReadyModel { loaded: self })
    }
}

impl ReadyModel {
    /// What the model is.
    pub fn profile(&self) -> &ModelProfile {
        &self.loaded.profile
    }

    /// Which bundle it came from.
    pub fn identity(&self) -> &BundleIdentity {
        &self.loaded.identity
    }

    /// What computes.
    pub(crate) fn into_model(self) -> Model {
        self.loaded.model
    }

    /// Records what the model computes, for the release statement of its bundle.
    ///
    /// # Errors
    /// [`InferenceError::TooFewKnownAnswers`] when the model prefers no token clearly enough to be held to it.
    pub fn record(&mut self, recording: &Recording) -> Result<KnownAnswers, InferenceError> {
        let LoadedModel { model, text, profile, .. } = &mut self.loaded;
        known_answers::record(model, text, profile.context_length, recording)
    }

    /// Starts the engine's thread, which owns the model from then on.
    pub fn spawn(self, config: EngineConfig) -> Result<EngineHandle, InferenceError> {
        let LoadedModel { model, text, profile, case, identity, binding, .. } = self.loaded;
        let fit = match (&model, binding) {
            (Model::Generator(generator), Some(binding)) => Some((generator.decoder.config().clone(), binding)),
            _ => None,
        };
        EngineHandle::start(model, text, profile, case, AdapterBase { identity, fit }, config)
    }
}

fn load_decoder(
    config: Config,
    bundle: &AdmittedBundle,
    options: &LoadOptions,
) -> Result<(Model, ModelProfile), InferenceError> {
    let weights = load_weights(bundle, PackedSink::new(&config), options)?;
    let (parameters, quantisation) = summary(bundle);
    let profile = ModelProfile {
        kind: ModelKind::Generator,
        architecture: config.architecture.to_string(),
        parameters,
        context_length: config.context_length,
        vocabulary_size: config.vocabulary_size,
        embedding_dimension: None,
        quantisation,
    };
    let decoder = PackedDecoder::new(config, weights)?;
    let element = kv_element(bundle.weights());
    let generator = Generator::new(decoder, processor(options)?, element);
    Ok((Model::Generator(Box::new(generator)), profile))
}

/// Keys and values are kept as exactly as the weights are stored.
pub(crate) fn kv_element(weights: &[WeightFile]) -> KvElement {
    let mut kinds = weights.iter().flat_map(|file| file.header.tensors()).map(|tensor| tensor.kind);
    if kinds.all(|kind| kind == TensorKind::F32) { KvElement::F32 } else { KvElement::F16 }
}

fn processor(options: &LoadOptions) -> Result<Processor, InferenceError> {
    let threads = options.threads.unwrap_or_else(Processor::default_threads);
    Processor::new(threads).map_err(|source| InferenceError::ThreadNotStarted { source })
}

fn load_encoder(
    config: EncoderConfig,
    bundle: &AdmittedBundle,
    options: &LoadOptions,
) -> Result<(Model, ModelProfile), InferenceError> {
    let weights = load_weights(bundle, EncoderSink::default(), options)?;
    let (parameters, quantisation) = summary(bundle);
    let profile = ModelProfile {
        kind: ModelKind::Encoder,
        architecture: config.model_type.clone(),
        parameters,
        context_length: config.max_tokens,
        vocabulary_size: config.transformer.vocabulary_size,
        embedding_dimension: Some(config.transformer.hidden_size),
        quantisation,
    };
    Ok((Model::Encoder(Box::new(Encoder::new(config, weights, processor(options)?)?)), profile))
}

pub(crate) fn load_weights<S>(
    bundle: &AdmittedBundle,
    sink: S,
    options: &LoadOptions,
) -> Result<S::Output, InferenceError>
where
    S: ampoule_bundle::TensorSink,
    S::Error: Into<InferenceError> + Send,
{
    let progress = |bytes| {
        if let Some(progress) = &options.progress {
            progress(bytes);
        }
    };
    bundle.load_weights(sink, &progress).map_err(|error| match error {
        LoadError::Bundle(error) => InferenceError::Bundle(error),
        LoadError::Sink(error) => error.into(),
    })
}

/// How many floating-point or quantised elements the weights have, and the kind that most of them are.
fn summary(bundle: &AdmittedBundle) -> (u64, String) {
    let mut kinds: Vec<(String, u64)> = Vec::new();
    for tensor in bundle.weights().iter().flat_map(|file| file.header.tensors()) {
        let (kind, elements) = (format!("{:?}", tensor.kind), elements(tensor));
        // Integer tables such as `position_ids` are no parameters.
        if kind.starts_with(['I', 'U']) || kind == "Bool" {
            continue;
        }
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, sum)) => *sum += elements,
            None => kinds.push((kind, elements)),
        }
    }
    let total = kinds.iter().map(|(_, elements)| elements).sum();
    let most = kinds.into_iter().max_by_key(|(_, elements)| *elements);
    (total, most.map_or_else(String::new, |(kind, _)| kind))
}

pub(crate) fn elements(tensor: &TensorInfo) -> u64 {
    tensor.shape.iter().fold(1, |product: u64, &dimension| product.saturating_mul(dimension as u64))
}

pub(crate) fn missing(path: &str) -> InferenceError {
    InferenceError::MissingFile { path: path.to_owned() }
}
