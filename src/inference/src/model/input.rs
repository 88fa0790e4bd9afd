//! What a model refuses to compute, the same for every network: nothing at all, more than fits, and tokens without a row.

use super::ModelError;

/// What a model takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InputLimits {
    pub(crate) vocabulary_size: usize,
    /// The most tokens of a sequence.
    pub(crate) length: usize,
}

impl InputLimits {
    /// Refuses tokens that cannot be computed after `before` others of their sequence.
    pub(crate) fn check(self, tokens: &[u32], before: usize) -> Result<(), ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::EmptyInput);
        }
        self.check_length(tokens.len(), before)?;
        let vocabulary_size = self.vocabulary_size;
        match tokens.iter().find(|&&token| token as usize >= vocabulary_size) {
            Some(&found) => Err(ModelError::TokenOutOfRange { found, vocabulary_size }),
            None => Ok(()),
        }
    }

    /// Refuses so many tokens where they are too many after `before` others.
    pub(crate) fn check_length(self, count: usize, before: usize) -> Result<(), ModelError> {
        let (found, limit) = (before.saturating_add(count), self.length);
        if found > limit { Err(ModelError::ContextExceeded { found, limit }) } else { Ok(()) }
    }
}
