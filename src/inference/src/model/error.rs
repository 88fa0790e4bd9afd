//! Every way in which a model's configuration, its weights or its input can be refused, named by its defect.

/// Why a model cannot be built from what was given, or cannot take this input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// Two fields of a model configuration contradict each other.
    #[error("configuration fields {first} and {second} contradict each other: correct one of them and seal again")]
    ConflictingConfigFields {
        /// The one field.
        first: String,
        /// The other field.
        second: String,
    },
    /// A sequence grew beyond what the model was made for.
    #[error("{found} tokens exceed the model's context length of {limit}: shorten the input")]
    ContextExceeded {
        /// Tokens that the sequence would have held.
        found: usize,
        /// The model's context length in tokens.
        limit: usize,
    },
    /// An adapter that changes nothing.
    #[error(
        "the adapter has no matrices for any module of this model: it belongs to another one, or its export failed"
    )]
    EmptyAdapter,
    /// A forward pass was asked for over no tokens at all.
    #[error("a forward pass needs at least one token, found none")]
    EmptyInput,
    /// A tensor has a dimension of no length, so that it holds no number.
    #[error("tensor {name} has shape {found:?}, which holds no number: export the model again")]
    EmptyTensor {
        /// The tensor's name as it stands in the file.
        name: String,
        /// The tensor's shape, outermost dimension first.
        found: Vec<usize>,
    },
    /// A field has the wrong type or an impossible value.
    #[error("configuration field {field} is {found}, expected {expected}")]
    InvalidConfigField {
        /// The field, with dots for nesting.
        field: String,
        /// What stands there, shortened.
        found: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A key/value cache of one model was given to another.
    #[error("the key/value cache has {found} layers, the model has {expected}")]
    MismatchedCache {
        /// Layers of the cache.
        found: usize,
        /// Layers of the model.
        expected: usize,
    },
    /// A field that decides the model's shape is absent.
    #[error("configuration field {field} is missing")]
    MissingConfigField {
        /// The field, with dots for nesting.
        field: String,
    },
    /// A tensor that the configuration calls for is absent.
    #[error("tensor {name} is missing from the weights")]
    MissingTensor {
        /// The tensor's name as Hugging Face spells it.
        name: String,
    },
    /// A tensor's shape differs from what the configuration calls for.
    #[error("tensor {name} has shape {found:?}, the configuration calls for {expected:?}")]
    MisshapenTensor {
        /// The tensor's name as Hugging Face spells it.
        name: String,
        /// The tensor's shape, outermost dimension first.
        found: Vec<usize>,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
    },
    /// A model configuration is not a JSON object.
    #[error("the model configuration is not a JSON object: {reason}")]
    MalformedConfig {
        /// What the parser said.
        reason: String,
    },
    /// A tensor's data do not have the length that its shape and format imply.
    #[error("tensor {name} holds {found} bytes, its shape and format imply {expected}")]
    MissizedTensor {
        /// The tensor's name as Hugging Face spells it.
        name: String,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// Two tensors carry one name.
    #[error("tensor {name} appears twice in the weights")]
    RepeatedTensor {
        /// The tensor's name as Hugging Face spells it.
        name: String,
    },
    /// The tensor library failed; the model or the runtime is at fault, not the request.
    #[error("tensor computation failed")]
    Tensor(#[from] candle_core::Error),
    /// A token id lies outside of the vocabulary.
    #[error("token {found} is outside of the vocabulary of {vocabulary_size} tokens")]
    TokenOutOfRange {
        /// The token id found.
        found: u32,
        /// Size of the vocabulary.
        vocabulary_size: usize,
    },
    /// The configuration has a field that this runtime does not know, so it cannot promise to honour it.
    #[error("configuration field {field} is not known for {architecture}: this runtime cannot honour it")]
    UnknownConfigField {
        /// The field, with dots for nesting.
        field: String,
        /// The architecture that the configuration names.
        architecture: String,
    },
    /// The weights hold a tensor that the configuration does not call for.
    #[error("tensor {name} is not part of the model that the configuration describes")]
    UnknownTensor {
        /// The tensor's name as it stands in the file.
        name: String,
    },
    /// An adapter names a module that the model does not have.
    #[error("the adapter has matrices for {name}, which is no linear layer of this model")]
    UnknownModule {
        /// The module's name.
        name: String,
    },
    /// An adapter asks for what is not computed here.
    #[error("the adapter's {field} is {found}: this runtime takes {supported}")]
    UnsupportedAdapter {
        /// The member of its configuration.
        field: String,
        /// What stands there.
        found: String,
        /// What would be accepted.
        supported: &'static str,
    },
    /// The model is of a family that this runtime does not have.
    #[error("model type {found} is not supported: supported are {supported}")]
    UnsupportedArchitecture {
        /// The model type found.
        found: String,
        /// The model types that would be accepted.
        supported: &'static str,
    },
    /// The configuration asks for behaviour that this runtime does not have.
    #[error("configuration field {field} is {found}, this runtime supports {supported}")]
    UnsupportedConfigField {
        /// The field, with dots for nesting.
        field: String,
        /// What stands there, shortened.
        found: String,
        /// What this runtime supports.
        supported: &'static str,
    },
    /// A tensor is stored in a number format that this runtime does not compute with.
    #[error("tensor {name} is stored as {found}, supported are F32, F16, BF16, Q8_0, Q5_0, Q4_0, Q4_K, Q5_K and Q6_K")]
    UnsupportedTensorKind {
        /// The tensor's name as it stands in the file.
        name: String,
        /// The format found.
        found: String,
    },
}
