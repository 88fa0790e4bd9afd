//! What the errors of a sealing mean to whoever called: the exit codes, and the words for programs.

use std::path::Path;

use ampoule_bundle::{BundleError, ErrorClass};

use super::SealingError;

impl SealingError {
    /// What stopped the archive's writer, which does not know the name of the file that it writes.
    pub(crate) fn while_writing(path: &Path, error: BundleError) -> SealingError {
        match error {
            BundleError::Write { source } => SealingError::Write { path: path.to_owned(), source },
            error => SealingError::Bundle(error),
        }
    }

    /// The error and its causes from the outside in; the words of a cause that ends the one before are not said twice.
    pub fn said(&self) -> Vec<String> {
        let mut said = vec![self.to_string()];
        let mut words = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !words.ends_with(&text) {
                said.push(text.clone());
            }
            words = text;
            cause = inner.source();
        }
        said
    }

    /// The process's exit code, from the table that all of Ampoule's binaries share.
    pub fn exit_code(&self) -> u8 {
        match self {
            SealingError::ImpossibleThreshold { .. }
            | SealingError::ExpiryPast { .. }
            | SealingError::KeyInTwoRoles { .. }
            | SealingError::LowerMinimum { .. }
            | SealingError::NotABundleToSign { .. }
            | SealingError::NothingNew { .. }
            | SealingError::NothingToChange
            | SealingError::NothingToRevoke
            | SealingError::UnknownExclusion { .. }
            | SealingError::WrongCommand { .. } => 2,
            SealingError::Contract(_) | SealingError::ContractFileMissing { .. } => 78,
            SealingError::Bundle(error) => match error.class() {
                ErrorClass::Unreadable => 10,
                ErrorClass::Signature => 11,
            },
            SealingError::NoKnownAnswers { .. } => 20,
            SealingError::KnownAnswersTwice | SealingError::KnownAnswersOfAdapter => 2,
            SealingError::Conversion(error) => error.exit_code(),
            SealingError::Oms(error) => error.exit_code(),
            SealingError::NotABundleFile { .. } | SealingError::NotATrustDocument { .. } => 10,
            _ => 1,
        }
    }
}
