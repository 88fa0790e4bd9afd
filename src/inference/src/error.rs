//! What can go wrong between a verified bundle and its tokens.  Variants are named by their defect; nothing here knows
//! of status codes: the runtime maps these to exit codes and to HTTP answers.

use std::sync::Arc;

use ampoule_bundle::BundleError;

use crate::known_answers::Comparison;
use crate::model::ModelError;
use crate::text::TextError;

/// A model that cannot be loaded, or a computation that cannot be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferenceError {
    /// The bundle's weights cannot be read, or are not what was signed.
    #[error(transparent)]
    Bundle(#[from] BundleError),

    /// The decoder's configuration, weights or input are refused.
    #[error(transparent)]
    Model(#[from] ModelError),

    /// The tokenizer or the chat template is refused.
    #[error(transparent)]
    Text(#[from] TextError),

    /// The bundle lacks a file that the model needs.
    #[error("the bundle has no file {path}, which the model needs: seal it again with this file")]
    MissingFile {
        /// The file's path in the bundle.
        path: String,
    },

    /// A file of the model is not the JSON that it should be.
    #[error("{path} cannot be read: {source}")]
    MalformedFile {
        /// The file's path in the bundle.
        path: String,
        /// What the parser said.
        source: serde_json::Error,
    },

    /// The bundle has no weights at all.
    #[error("the bundle has no weights: seal it again with the model's safetensors or GGUF files")]
    NoWeights,

    /// The weights are neither all safetensors nor one GGUF file.
    #[error(
        "the bundle has {found} weight files of mixed formats; either safetensors files or one GGUF file is possible"
    )]
    MixedWeights {
        /// How many weight files there are.
        found: usize,
    },

    /// A bundle that was to be a model of its own is an adapter.
    #[error("{name} is an adapter: name its base as the bundle, and this one among the adapters")]
    AnAdapter {
        /// The bundle.
        name: String,
    },

    /// A bundle that was to be an adapter is a model of its own.
    #[error("{name} is no adapter: serve it as a model of its own")]
    NotAnAdapter {
        /// The bundle.
        name: String,
    },

    /// An adapter beside a model that takes none.
    #[error("the adapter {name} cannot be used: the served model takes no adapters")]
    NoAdaptersHere {
        /// The adapter.
        name: String,
    },

    /// An adapter of another model.
    #[error("the adapter {name} belongs to another {what}: it is bound to {found}, the served model has {expected}")]
    AdapterOfOther {
        /// The adapter.
        name: String,
        /// What differs.
        what: &'static str,
        /// The digest that it is bound to.
        found: String,
        /// The digest that is there.
        expected: String,
    },

    /// Two adapters, or an adapter and the model, have one name.
    #[error("the name {name} is taken: replace the adapter that has it, or seal this one under another name")]
    AdapterNameTaken {
        /// The name.
        name: String,
    },

    /// As many adapters as may be loaded are loaded.
    #[error(
        "the adapter {name} is one too many: {limit} are loaded, which is the limit; unload one, or raise the limit"
    )]
    TooManyAdapters {
        /// The adapter.
        name: String,
        /// How many may be loaded.
        limit: usize,
    },

    /// No adapter of this name is loaded.
    #[error("no adapter {name} is loaded")]
    UnknownAdapter {
        /// The name.
        name: String,
    },

    /// Constraints and options leave no room for a prompt and an answer.
    #[error("the context length is {found} tokens; at least 2 are needed: raise the configured context length")]
    ContextTooShort {
        /// What is left.
        found: usize,
    },

    /// An encoder's own files ask for something that this runtime does not have.
    #[error("the encoder's {field} is {found}; supported: {supported}")]
    UnsupportedEncoder {
        /// The field.
        field: &'static str,
        /// What stands there, shortened.
        found: String,
        /// What would be accepted, in words.
        supported: &'static str,
    },

    /// An encoder's tensor has an element type that this runtime does not compute with.
    #[error("tensor {name} is {found}; an encoder's tensors must be F32, F16 or BF16")]
    UnsupportedTensorKind {
        /// The tensor's name.
        name: String,
        /// Its type.
        found: String,
    },

    /// Two tensors have one name.
    #[error("tensor {name} appears twice in the weights")]
    RepeatedTensor {
        /// The name.
        name: String,
    },

    /// The weights are as they were sealed, but nothing can be computed with them.
    #[error(
        "the model computes {found} from its first tokens: its weights hold no usable numbers; seal it again from good ones"
    )]
    NotANumber {
        /// What came out.
        found: f32,
    },

    /// The weights say nothing: whatever goes in, all that comes out is alike.
    #[error(
        "the model computes {found} for everything: its weights hold no usable numbers; seal it again from good ones"
    )]
    OneNumber {
        /// What came out.
        found: f32,
    },

    /// The release statement records answers, but no tolerance for this backend.
    #[error("the release records known answers, but states no tolerance for the backend {backend}")]
    NoKnownAnswerTolerance {
        /// The backend's name.
        backend: &'static str,
    },

    /// The release statement records an answer that this kind of model cannot give.
    #[error("known answer {answer} cannot be replayed: the model is {model}")]
    KnownAnswerOfOtherKind {
        /// The answer's place in the statement, from 0.
        answer: usize,
        /// What the model is.
        model: crate::ModelKind,
    },

    /// The model computes something else here than where it was sealed.
    #[error("the model does not compute on this machine what it computed where it was sealed: {0}")]
    KnownAnswersMissed(Box<Comparison>),

    /// Too few answers were worth recording.
    #[error(
        "only {found} of {wanted} known answers can be recorded: after all other texts the model's best token leads the \
         next one by no more than {margin}; ask for {found}, or for a smaller tolerance"
    )]
    TooFewKnownAnswers {
        /// How many were found.
        found: usize,
        /// How many were asked for.
        wanted: usize,
        /// The lead that the best token must have.
        margin: f64,
    },

    /// An encoder where a model that writes text is wanted.
    #[error("the model turns texts into vectors: name one that writes text")]
    NoGenerator,

    /// A request is larger than all memory that there is for tokens.
    #[error("a request of up to {tokens} tokens never fits: there is memory for {limit} (`limits.token_budget`)")]
    NeverFits {
        /// Prompt and longest answer.
        tokens: usize,
        /// For how many there is memory.
        limit: usize,
    },

    /// The operating system refused the engine a thread.
    #[error("the engine's thread cannot be started: {source}")]
    ThreadNotStarted {
        /// Why.
        source: std::io::Error,
    },

    /// The tensor library refused an operation: a shape or type that the checks before it should have caught.
    #[error("the tensor library refused an operation: {0}")]
    Tensor(#[from] candle_core::Error),

    /// The engine ended before this request did.
    #[error("the engine was stopped before the request was finished")]
    EngineStopped,

    /// The engine's thread panicked; the process should end, for its state is unknown.
    #[error("the engine failed: {message}")]
    EnginePanicked {
        /// The panic's own message.
        message: String,
    },

    /// One forward step failed, and with it every request that took part in it.
    #[error("a step of the model failed: {source}")]
    StepFailed {
        /// What failed; shared by the requests of the step.
        source: Arc<InferenceError>,
    },

    /// The model computed something that is not a number, or plus infinity.
    #[error(
        "the model gave {found} as the logit of token {token} at step {step}; its weights or its input are damaged"
    )]
    LogitNotFinite {
        /// The first token concerned.
        token: u32,
        /// The value.
        found: f32,
        /// How many tokens had been generated before.
        step: u64,
    },

    /// Mask and biases leave no token that could come next.
    #[error("no token is left to choose from at step {step}: the mask excludes all of them")]
    NoTokenLeft {
        /// How many tokens had been generated before.
        step: u64,
    },
}

/// A request that the engine does not take.  Nothing was computed for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// As many requests as allowed are open; try again later.
    #[error("the engine is overloaded: {limit} requests are open, which is the limit")]
    Overloaded {
        /// How many requests may wait and run together.
        limit: usize,
    },

    /// The request names an adapter that was loaded beside another model.
    #[error("the adapter {name} was loaded beside another model")]
    AdapterOfOther {
        /// The adapter.
        name: String,
    },

    /// The engine is draining, stopped or has failed.
    #[error("the engine takes no more requests")]
    Stopped,

    /// The prompt, or one of the inputs, has no token.
    #[error("the prompt is empty; at least one token is needed")]
    EmptyPrompt,

    /// There is no input to embed.
    #[error("there is no input; at least one is needed")]
    NoInput,

    /// The prompt leaves no room for a single token.
    #[error("the prompt has {found} tokens; at most {limit} are possible")]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// The most that are possible here.
        limit: usize,
    },

    /// A token id that the model's vocabulary does not have.
    #[error("token id {token} is outside the vocabulary of {vocabulary_size} tokens")]
    TokenOutOfRange {
        /// The id.
        token: u32,
        /// Ids are below this.
        vocabulary_size: usize,
    },

    /// Nothing was asked for.
    #[error("max_tokens is 0; at least 1 is needed")]
    NothingToGenerate,

    /// A sampling parameter that has no defined meaning.
    #[error("{name} is {found}, but must be {allowed}")]
    ParameterOutOfRange {
        /// The parameter's name, as the HTTP APIs spell it.
        name: &'static str,
        /// Its value.
        found: f32,
        /// What would be right, in words.
        allowed: &'static str,
    },

    /// More stop strings than one request may carry.
    #[error("{found} stop strings were given; at most {limit} are possible")]
    TooManyStopStrings {
        /// How many were given.
        found: usize,
        /// How many are allowed.
        limit: usize,
    },

    /// A stop string that is empty or too long.
    #[error("a stop string has {found} bytes; 1 to {limit} are possible")]
    StopStringLength {
        /// Its length in bytes.
        found: usize,
        /// The longest allowed.
        limit: usize,
    },

    /// A generation was asked of an encoder, or an embedding of a generator.
    #[error("this model is {found}; the request needs {required}")]
    WrongKind {
        /// What the request needs.
        required: crate::ModelKind,
        /// What the model is.
        found: crate::ModelKind,
    },
}
