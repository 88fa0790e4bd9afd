//! What can be wrong with a store.  Each message says what was found and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::error::Error;
use crate::exit::Exit;

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
    /// What is to be exported would overwrite something.
    #[error("{} is there already: name another place, or take it away first", path.display())]
    AlreadyThere {
        /// The file or folder.
        path: PathBuf,
    },
    /// A thin bundle needs layers that no bundle of the store has.
    #[error(
        "{name} is a thin bundle, made to complete {base}; the store {} lacks {} of its layers: {}; import that bundle \
         first, or the whole of the new one",
        folder.display(),
        missing.len(),
        missing.join(", ")
    )]
    BaseMissing {
        /// The thin bundle.
        name: String,
        /// Name, version and manifest digest of the bundle that it was made against.
        base: String,
        /// The store.
        folder: PathBuf,
        /// Path and digest of each layer that is nowhere.
        missing: Vec<String>,
    },
    /// There is no blob under this digest.
    #[error("the blob {} is missing", path.display())]
    BlobMissing {
        /// Where it would lie.
        path: PathBuf,
    },
    /// The catalogue cannot be understood.
    #[error(
        "the catalogue of the store cannot be used: {reason}; restore that file from a backup, or move the whole store \
         away and import the bundles again"
    )]
    CatalogueDamaged {
        /// The file, and what is wrong with it.
        reason: String,
    },
    /// There are blobs and no catalogue.
    #[error(
        "the store {folder} holds blobs but its catalogue, {folder}/catalogue.json, is missing; restore that file from a \
         backup, or move the whole store away and import the bundles again",
        folder = folder.display()
    )]
    CatalogueLost {
        /// The store.
        folder: PathBuf,
    },
    /// What is exported cannot be written.
    #[error("cannot export to {}: {source}", path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A bundle lacks a blob.
    #[error("{title} is in the catalogue, but {} is missing: import it again", path.display())]
    Incomplete {
        /// Name and version.
        title: String,
        /// The blob.
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
    /// Something else than a file or folder of the store's own.
    #[error("{} is {found}: a store has only files and folders of its own; take it away, then import again", path.display())]
    Misplaced {
        /// Where it lies.
        path: PathBuf,
        /// What it is.
        found: String,
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
    /// A store of whole files, as nothing that was ever released made it.
    #[error(
        "the store {} holds whole bundle files in `bundles`, which an unreleased ampoule kept there: move it away and \
         import the bundles again",
        folder.display()
    )]
    OldLayout {
        /// The store.
        folder: PathBuf,
    },
    /// The child process that was to load and prove the model did not succeed.
    #[error("{title} does not pass its self-test on this host, so nothing was switched: {reason}")]
    SelfTest {
        /// Name and version.
        title: String,
        /// How the child ended; what it said stands above.
        reason: String,
        /// Its exit code, if it has one of ours.
        exit: Option<Exit>,
    },
    /// The child process cannot be started.
    #[error("cannot start the self-test: {source}")]
    SelfTestNotStarted {
        /// What the system says.
        source: io::Error,
    },
    /// A new active bundle was refused, and this process may not change the store to go back.
    #[error(
        "{source}; {title} was activated and has not become ready yet, and this server may not write to the store to go \
         back by itself: run `ampoule rollback` where the store can be written, then start again"
    )]
    Unconfirmed {
        /// Name and version.
        title: String,
        /// The refusal.
        source: Box<Error>,
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
