//! Where a process keeps what it has seen, if anywhere, and what that means for it: a folder of its own, the store that it
//! serves from, or nowhere, which is said plainly.

use std::fmt;
use std::path::{Path, PathBuf};

use ampoule_bundle::HighWaterMarks;

use super::{State, StateError};

/// Where what was seen is kept.
#[derive(Debug, Clone)]
pub enum Keeping {
    /// Nowhere: each start is the first, and nothing stops an older bundle.
    Nowhere,
    /// In a folder, which the configuration names.
    Folder(PathBuf),
    /// In a store, whose counters follow what `activate` and `rollback` do.
    Store {
        /// The store.
        folder: PathBuf,
        /// What follows from the catalogue: what a cut between the switch and the marks would otherwise leave open.
        settled: HighWaterMarks,
    },
}

impl Keeping {
    /// The marks to hold a bundle against, as they are now.
    ///
    /// # Errors
    /// [`StateError`] when the state cannot be used.
    pub fn marks(&self) -> Result<HighWaterMarks, StateError> {
        match self {
            Self::Nowhere => Ok(HighWaterMarks::none()),
            Self::Folder(folder) => Ok(State::open(folder)?.marks()),
            Self::Store { folder, settled } => {
                // A store and its marks are made together, so marks that are not there were lost.
                let state = State::open(folder).map_err(|error| match error {
                    StateError::Missing { folder } => StateError::Lost { folder },
                    other => other,
                });
                let mut marks = state?.marks();
                marks.raise(settled);
                Ok(marks)
            }
        }
    }

    /// Raises the marks by what a bundle has shown that is served from now on.  Whether the store's previous bundle may
    /// come back is decided by those who change the store, so a served bundle raises no counter there.
    ///
    /// # Errors
    /// [`StateError`] when the state cannot be written.
    pub fn raise_for_model(&self, seen: &HighWaterMarks, by: &str) -> Result<(), StateError> {
        match self {
            Self::Store { .. } => self.raise(&seen.without_counters(), by),
            Self::Nowhere | Self::Folder(_) => self.raise(seen, by),
        }
    }

    /// Raises the marks by what was seen.  A store may be mounted read-only for whoever serves from it; then the log says
    /// what is not kept.
    ///
    /// # Errors
    /// [`StateError`] when the state cannot be written.
    pub fn raise(&self, seen: &HighWaterMarks, by: &str) -> Result<(), StateError> {
        match self {
            Self::Nowhere => Ok(()),
            Self::Folder(folder) => State::open(folder)?.raise(seen, by),
            Self::Store { folder, .. } => match State::open(folder)?.raise(seen, by) {
                Err(error) if error.is_read_only() => {
                    tracing::warn!(
                        store = %folder.display(), by,
                        "this process may not write the store, so what it has seen is not kept; the marks are raised by \
                         `ampoule activate` and `ampoule rollback` alone"
                    );
                    Ok(())
                }
                outcome => outcome,
            },
        }
    }

    /// The folder that it is kept in.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::Nowhere => None,
            Self::Folder(folder) | Self::Store { folder, .. } => Some(folder),
        }
    }

    /// Whether an older bundle is refused after a restart.
    pub fn protects(&self) -> bool {
        !matches!(self, Self::Nowhere)
    }

    /// In one word, for metadata.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Nowhere => "off",
            Self::Folder(_) => "state",
            Self::Store { .. } => "store",
        }
    }
}

impl fmt::Display for Keeping {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => formatter.write_str(
                "rollback protection is off, because nothing that was seen is kept: name a folder with `state`, made once \
                 by `ampoule state init`, or serve from a store",
            ),
            Self::Folder(folder) => write!(formatter, "what was seen is kept in {}", folder.display()),
            Self::Store { folder, .. } => write!(formatter, "what was seen is kept in the store {}", folder.display()),
        }
    }
}
