//! What can be wrong with the header of a weight file. It has an enum of its own, because the vendor's tool meets these
//! defects before there is a bundle.

/// What the checked pre-pass of a weight header refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeightHeaderError {
    /// The header ends early.
    #[error("the header ends inside {what}")]
    Truncated {
        /// The part that is cut.
        what: &'static str,
    },
    /// The magic number or version is unknown.
    #[error("{what} is {found}, must be {expected}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// The value found.
        found: String,
        /// The values known.
        expected: &'static str,
    },
    /// A count or length lies above its cap.
    #[error("{what} is {found}, more than the limit of {limit}")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// The number found.
        found: u64,
        /// The cap.
        limit: u64,
    },
    /// The JSON part is not strict JSON of the right shape.
    #[error("header JSON: {reason}")]
    Json {
        /// The parser's reason.
        reason: String,
    },
    /// A text in the header is not UTF-8 or has a form that is not allowed.
    #[error("{what} is not valid text")]
    Text {
        /// Which text.
        what: &'static str,
    },
    /// A name occurs twice.
    #[error("{what} `{name}` occurs twice")]
    Repeated {
        /// `tensor` or `metadata key`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A tensor's shape, type and extent do not fit each other or the file.
    #[error("tensor `{tensor}`: {reason}")]
    Tensor {
        /// The tensor's name.
        tensor: String,
        /// What does not fit.
        reason: &'static str,
    },
    /// Bytes of the file belong to nothing.
    #[error("{found} bytes at offset {offset} belong to no tensor")]
    Unexplained {
        /// Offset in the file.
        offset: u64,
        /// How many bytes.
        found: u64,
    },
    /// The header's own length is not the one that was signed.
    #[error("the header is {found} bytes long, the signed statement says {expected}")]
    Length {
        /// The length parsed.
        found: u64,
        /// The length signed.
        expected: u64,
    },
}
