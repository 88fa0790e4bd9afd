//! What can be wrong with a store.  Each message says what was found and what to do about it.

use std::io;
use std::path::PathBuf;

use ampoule_bundle::Digest;

use crate::state::StateError;

/// Why the store cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process is changing the store.
    #[error("another ampoule is changing the store {}: wait until it is done, then try again", folder.display())]
    Busy {
        /// The store.
        folder: PathBuf,
    },
    /// The file under a bundle's name is another bundle.
    #[error(
        "{} was exchanged: its content digest is {found}, but {title} was imported with {expected}; import that again \
         from the file that was delivered",
        path.display()
    )]
    Exchanged {
        /// Name and version of what was imported.
        title: String,
        /// The file.
        path: PathBuf,
        /// The content digest of the file.
        found: Digest,
        /// The content digest that was imported.
        expected: Digest,
    },
    /// A bundle's file is gone.
    #[error("{title} is in the catalogue, but its file {} is missing: import it again", path.display())]
    FileMissing {
        /// Name and version.
        title: String,
        /// The file.
        path: PathBuf,
    },
    /// A file of the store cannot be read or written.
    #[error("cannot use {} of the store: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder is no store.
    #[error("there is no store in {}: `ampoule import FILE.bundle --store DIR` makes one", folder.display())]
    NoStore {
        /// The folder.
        folder: PathBuf,
    },
    /// No bundle has been activated.
    #[error("no bundle of the store {} is active: `ampoule activate NAME` makes an imported one active", folder.display())]
    NothingActive {
        /// The store.
        folder: PathBuf,
    },
    /// There is nothing to go back to.
    #[error(
        "the store {} keeps no previous bundle to go back to; `ampoule list` shows what it holds and \
         `ampoule activate NAME@VERSION` makes one of those active",
        folder.display()
    )]
    NothingPrevious {
        /// The store.
        folder: PathBuf,
    },
    /// What was taken into use before cannot be read or noted.
    #[error(transparent)]
    HighWater(#[from] StateError),
    /// The catalogue cannot be understood.
    #[error(
        "the state of the store cannot be used: {reason}; restore that file from a backup, or move the whole store away \
         and import the bundles again"
    )]
    StateDamaged {
        /// The file, and what is wrong with it.
        reason: String,
    },
    /// There are bundles and no catalogue.
    #[error(
        "the store {folder} holds bundles but its state, {folder}/state.json, is missing; restore that file from a \
         backup, or move the whole store away and import the bundles again",
        folder = folder.display()
    )]
    StateLost {
        /// The store.
        folder: PathBuf,
    },
    /// No bundle of this name, or not in this version.
    #[error(
        "{wanted} is not in the store {}, which holds {}; `ampoule import` brings it in",
        folder.display(),
        list(found)
    )]
    UnknownBundle {
        /// What was asked for.
        wanted: String,
        /// The store.
        folder: PathBuf,
        /// The names and versions that are there.
        found: Vec<String>,
    },
    /// Every user of this host may decide what is served.
    #[error("{} may be written by everybody (mode {found:o}): take that away with `chmod o-w`", path.display())]
    WritableByAll {
        /// The file.
        path: PathBuf,
        /// Its mode.
        found: u32,
    },
}

fn list(titles: &[String]) -> String {
    if titles.is_empty() { "nothing yet".to_owned() } else { titles.join(", ") }
}
