//! What can go wrong in training, named by defect.

use std::path::PathBuf;

use thiserror::Error;

use crate::memory::Bytes;
use crate::tuning::checkpoint::Difference;
use crate::tuning::forecast::Peak;

/// A failure of the trainer.
#[derive(Debug, Error)]
pub enum TrainerError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A recipe or corpus is not TOML of the expected shape.
    #[error("{path} is not a valid file of its kind: {source}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A setting of the recipe is outside its range.
    #[error("the recipe's {setting} is {found}, but must be {required}")]
    Recipe {
        /// The setting's name.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The range in words.
        required: &'static str,
    },
    /// A pattern of the corpus is malformed.
    #[error("in the corpus, {place}: {source}")]
    Pattern {
        /// The fact or list that holds the pattern.
        place: String,
        /// What is wrong with it.
        source: PatternError,
    },
    /// Two facts share an identifier.
    #[error("the corpus has two facts named `{id}`: rename one")]
    DuplicateFact {
        /// The identifier.
        id: String,
    },
    /// A question or a follow-up names a fact that the corpus lacks.
    #[error("{place} names the fact `{id}`, which the corpus does not have")]
    UnknownFact {
        /// What names it.
        place: String,
        /// The identifier.
        id: String,
    },
    /// A pattern can hardly say anything but questions that are held out.
    #[error(
        "`{place}` keeps producing held-out questions such as {question:?}: change the pattern or the held-out set"
    )]
    HeldOutLeak {
        /// The fact.
        place: String,
        /// What it produced.
        question: String,
    },
    /// The training data cannot be used.
    #[error(transparent)]
    Data(#[from] crate::tuning::examples::DataError),
    /// The base cannot be used.
    #[error(transparent)]
    Base(#[from] crate::tuning::base::BaseError),
    /// An example without a prompt cannot be put to a model.
    #[error("the example in line {line} asks nothing: give it a prompt, so that it can be put to the model")]
    NothingAsked {
        /// Counted from 1.
        line: usize,
    },
    /// A folder that is no adapter, or an adapter that does not belong to the base.
    #[error("{path} cannot be used as an adapter of this base: {source}")]
    Adapter {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: ampoule_inference::model::ModelError,
    },
    /// An adapter that would compute nothing but nonsense.
    #[error("{path} holds an adapter whose {module} is not finite: it cannot be served, train it anew")]
    NotFinite {
        /// The folder.
        path: PathBuf,
        /// The linear layer.
        module: String,
    },
    /// An adapter that was trained on another base.
    #[error("{path} was trained on the base {found}, and this one is {wanted}: give the base that it was trained on")]
    OtherBase {
        /// The adapter's folder.
        path: PathBuf,
        /// The manifest digest of its base.
        found: String,
        /// That of the base at hand.
        wanted: String,
    },
    /// A report beside an adapter that is none.
    #[error("{path} is no report of a training: {source}; remove it if it is somebody else's")]
    NoReport {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Fewer right answers than were asked for.
    #[error("{right} of {asked} answers are right, and the pass mark asks for {pass_mark}: see the wrong ones above")]
    BelowMark {
        /// Right answers.
        right: usize,
        /// All answers.
        asked: usize,
        /// The share that was asked for.
        pass_mark: f64,
    },
    /// The adapter could not be sealed.
    #[error("the adapter cannot be sealed: {0}")]
    Sealing(#[from] ampoule_sealing::SealingError),
    /// A target that no module of the model is called.
    #[error("no linear layer of this model is called {found}: there are {known}")]
    UnknownTarget {
        /// The name.
        found: String,
        /// Those that there are.
        known: String,
    },
    /// An interrupted run stands where a new one was to begin.
    #[error("{path} holds an interrupted run: go on with it by --resume, or remove that folder to begin anew")]
    Interrupted {
        /// The run's folder.
        path: PathBuf,
    },
    /// A checkpoint of a run that was made of something else.
    #[error(
        "{path} holds a run that was begun otherwise: give what it was begun with, or remove that folder to begin \
         anew{}", listed(.differences)
    )]
    OtherRun {
        /// The run's folder.
        path: PathBuf,
        /// Everything in which it differs.
        differences: Vec<Difference>,
    },
    /// The machine has less memory than the run will take.
    #[error(
        "training would take about {} of memory beside the {} that are held already, and there are {} left: {peak}",
        Bytes(*.needed), Bytes(*.held), Bytes(*.available)
    )]
    Memory {
        /// Bytes that the run adds.
        needed: u64,
        /// Bytes that the process holds.
        held: u64,
        /// Bytes that it may still take.
        available: u64,
        /// What it does when it takes most, and so what makes it smaller.
        peak: Peak,
    },
    /// A checkpoint lacks a tensor although its digest matches: it was not written by this trainer.
    #[error("the checkpoint of step {step} lacks a tensor: remove it to go on from the one before")]
    IncompleteCheckpoint {
        /// Its step.
        step: usize,
    },
    /// The base is quantised, and what is learnt would not reach the layers.
    #[error(
        "the weights of this base are quantised ({kind}), and no gradient passes through such weights: train on the \
         same model sealed in half or single precision"
    )]
    Quantised {
        /// The first format that was found.
        kind: String,
    },
    /// Training left the finite numbers.
    #[error("the loss became {loss} at step {step}: lower the learning rate or the clipping norm")]
    Diverged {
        /// The step, counted from 1.
        step: usize,
        /// The loss.
        loss: f32,
    },
    /// The trained model does not reach the recipe's pass marks.
    #[error(
        "the model answers {exact:.1} % of the held-out questions (needed: {exact_needed:.1} %) and declines \
         {declined:.1} % of the foreign ones (needed: {declined_needed:.1} %): it was written, but should not be sealed"
    )]
    BelowPassMark {
        /// Per cent of held-out questions answered exactly.
        exact: f64,
        /// The pass mark.
        exact_needed: f64,
        /// Per cent of held-out foreign questions declined.
        declined: f64,
        /// The pass mark.
        declined_needed: f64,
    },
    /// The output folder already exists.
    #[error("{path} already exists: remove it or choose another --out, so that no model is overwritten by accident")]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// The tokenizer library refused.
    #[error("the tokenizer could not be {action}: {source}")]
    Tokenizer {
        /// What was being done.
        action: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The tensor library refused.
    #[error("a tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The decoder refused its configuration, its weights or its input.
    #[error(transparent)]
    Model(#[from] ampoule_inference::model::ModelError),
    /// The weights could not be serialised.
    #[error("cannot produce safetensors: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
}

fn listed(differences: &[Difference]) -> String {
    let line = |difference: &Difference| {
        format!("\n  {}: found {}, wanted {}", difference.what, difference.found, difference.wanted)
    };
    differences.iter().map(line).collect()
}

/// A malformed pattern or word list.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PatternError {
    /// Braces, bars or angle brackets do not match.
    #[error("the brackets of {pattern:?} do not match at {rest:?}")]
    Unbalanced {
        /// The pattern.
        pattern: String,
        /// What was left when it went wrong.
        rest: String,
    },
    /// `<!kind>` with a kind that does not exist.
    #[error("there is no generator `{name}`: use number, nonword or noise")]
    UnknownGenerator {
        /// The name.
        name: String,
    },
    /// `<name>` with a list that does not exist.
    #[error("there is no word list `{name}`")]
    UnknownList {
        /// The name.
        name: String,
    },
    /// A list without entries.
    #[error("the word list `{name}` is empty")]
    EmptyList {
        /// The name.
        name: String,
    },
    /// Nesting beyond the limit, or a list that reaches itself.
    #[error("{pattern:?} nests deeper than {limit} levels, or reaches itself")]
    TooDeep {
        /// The pattern or list.
        pattern: String,
        /// The limit.
        limit: usize,
    },
}
