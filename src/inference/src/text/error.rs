//! Everything that can go wrong between text and tokens, named by the defect.
//!
//! The HTTP layer must tell the client's mistakes from the model's: [`TextError::fault`] decides it here, once.

use thiserror::Error;

/// A failure of tokenizing, detokenizing or rendering a chat template.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TextError {
    /// The conversation has no message.
    #[error("the conversation is empty: give at least one message")]
    EmptyConversation,
    /// A file of the bundle that belongs to the tokenizer cannot be understood.
    #[error("{file} cannot be read: {reason}")]
    File {
        /// The file's name in the bundle.
        file: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// A GGUF metadata key that the tokenizer needs is absent.
    #[error("the GGUF metadata lacks `{key}`, which the tokenizer needs")]
    GgufKeyMissing {
        /// The key that was looked for.
        key: &'static str,
    },
    /// A GGUF metadata key holds a value of the wrong type or range.
    #[error("the GGUF metadata key `{key}` must hold {expected}")]
    GgufKeyType {
        /// The key that was read.
        key: &'static str,
        /// The type that was wanted.
        expected: &'static str,
    },
    /// Two GGUF token tables have different lengths.
    #[error("the GGUF metadata key `{key}` has {found} entries, but there are {expected} tokens")]
    GgufTableLength {
        /// The table with the wrong length.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        expected: usize,
    },
    /// The conversation uses every private-use character, so none is left to mark its text with.
    #[error("the conversation uses every private-use character of Unicode; leave at least one out")]
    NoMarkerLeft,
    /// The bundle has no chat template, so a conversation cannot become a prompt.
    #[error("this model has no chat template; use plain completions instead")]
    NoChatTemplate,
    /// A template option has a value of the wrong type.
    #[error("the template option `{name}` must be {expected}, not {found}")]
    TemplateOptionType {
        /// The option.
        name: String,
        /// What is allowed.
        expected: &'static str,
        /// What was given.
        found: String,
    },
    /// The template failed for another reason than its own `raise_exception`.
    #[error("the chat template failed at line {line}: {reason}")]
    TemplateFailed {
        /// What the template engine said.
        reason: String,
        /// The line in the template, 0 if unknown.
        line: usize,
    },
    /// The template ran for more steps than any honest template needs.
    #[error("the chat template did not end within {limit} steps")]
    TemplateFuel {
        /// The number of steps that were allowed.
        limit: u64,
    },
    /// The template's source is longer than any honest one.
    #[error("the chat template has {found} bytes, at most {limit} are allowed")]
    TemplateLength {
        /// The length of the source.
        found: usize,
        /// The largest length.
        limit: usize,
    },
    /// The template wrote more text than is allowed.
    #[error("the chat template wrote more than {limit} bytes")]
    TemplateOutput {
        /// The number of bytes that were allowed.
        limit: usize,
    },
    /// The template refused the conversation by `raise_exception`.
    #[error("{message}")]
    TemplateRaised {
        /// The template's own words.
        message: String,
    },
    /// The template cannot be compiled.
    #[error("the chat template is not valid at line {line}: {reason}")]
    TemplateSyntax {
        /// What the template engine said.
        reason: String,
        /// The line in the template, 0 if unknown.
        line: usize,
    },
    /// Compiling or rendering did not end in time; the template does what no limit of steps counts.
    #[error("the chat template did not end within {limit_seconds} s")]
    TemplateDeadline {
        /// The limit.
        limit_seconds: u64,
    },
    /// The system gives no thread to render on.
    #[error("no thread with a stack of {stack} bytes could be started for the chat template: {reason}")]
    TemplateThread {
        /// The size of the stack.
        stack: usize,
        /// What the system said.
        reason: String,
    },
    /// The tokenizer library refused a text.
    #[error("the text cannot be tokenized: {reason}")]
    Tokenize {
        /// What the tokenizer said.
        reason: String,
    },
    /// The text is longer than the caller allows.
    #[error("the text has {found} bytes, but at most {limit} are allowed here")]
    TooLong {
        /// The text's length in bytes.
        found: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The `decoder` section of tokenizer.json has a step that cannot be streamed.
    #[error("the tokenizer's decoder step `{found}` is not supported")]
    UnsupportedDecoder {
        /// The step's type.
        found: String,
    },
    /// The GGUF file names a kind of tokenizer that is not known here.
    #[error("the GGUF tokenizer model `{found}` is not supported; supported are: {supported}")]
    UnsupportedGgufModel {
        /// The value of `tokenizer.ggml.model`.
        found: String,
        /// The known values.
        supported: &'static str,
    },
    /// The GGUF file names a pre-tokenizer that is not known here.
    #[error("the GGUF pre-tokenizer `{found}` is not supported; supported are: {supported}")]
    UnsupportedPreTokenizer {
        /// The value of `tokenizer.ggml.pre`.
        found: String,
        /// The known values.
        supported: String,
    },
    /// A message has a role that is not known here.
    #[error("the role `{found}` is not known; known are: system, developer, user, assistant, tool")]
    UnknownRole {
        /// The role that was given.
        found: String,
    },
    /// A template option is not on the allow-list.
    #[error("the template option `{name}` is not allowed; allowed are: {allowed}")]
    UnknownTemplateOption {
        /// The option.
        name: String,
        /// The allow-list.
        allowed: &'static str,
    },
}

/// Whose mistake a [`TextError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request cannot be served as it is: a 4xx answer.
    Client,
    /// The bundle's tokenizer or template is at fault, or this machine: a 5xx answer, or a refusal at load time.
    Model,
}

impl TextError {
    /// Whose mistake this is.
    ///
    /// A template that fails counts as the client's fault: it rendered other conversations, and what differs is the
    /// conversation.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::EmptyConversation
            | Self::NoMarkerLeft
            | Self::NoChatTemplate
            | Self::TemplateOptionType { .. }
            | Self::TemplateFailed { .. }
            | Self::TemplateFuel { .. }
            | Self::TemplateOutput { .. }
            | Self::TemplateRaised { .. }
            | Self::Tokenize { .. }
            | Self::TooLong { .. }
            | Self::UnknownRole { .. }
            | Self::UnknownTemplateOption { .. } => Fault::Client,
            Self::File { .. }
            | Self::GgufKeyMissing { .. }
            | Self::GgufKeyType { .. }
            | Self::GgufTableLength { .. }
            | Self::TemplateDeadline { .. }
            | Self::TemplateLength { .. }
            | Self::TemplateSyntax { .. }
            | Self::TemplateThread { .. }
            | Self::UnsupportedDecoder { .. }
            | Self::UnsupportedGgufModel { .. }
            | Self::UnsupportedPreTokenizer { .. } => Fault::Model,
        }
    }
}
