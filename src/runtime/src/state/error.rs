//! What can be wrong with the state of an installation.  Each message says what was found and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why the state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process is changing the state.
    #[error("another ampoule is changing the state of {}: wait until it is done, then try again", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// The file is not what was written.
    #[error(
        "the state of {folder} cannot be used: {reason}; restore it from a backup, or begin anew with `ampoule state \
         reset --state {folder} --reason TEXT`, which is kept on record", folder = folder.display()
    )]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },
    /// A state is there already.
    #[error(
        "there is a state in {} already: `ampoule state show` prints it, and only `ampoule state reset` begins anew",
        folder.display()
    )]
    Exists {
        /// The folder.
        folder: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot use {} of the state: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There was a state, and it is gone.
    #[error(
        "the state of {folder} is lost: there was one, as {folder}/high-water.log says, and its file high-water.json is \
         missing; restore it from a backup, or begin anew with `ampoule state reset --state {folder} --reason TEXT`, \
         which is kept on record", folder = folder.display()
    )]
    Lost {
        /// The folder.
        folder: PathBuf,
    },
    /// There is no state and no sign that there was one.
    #[error(
        "there is no state in {folder}: if this is the first start here, `ampoule state init --state {folder}` makes one; \
         if there was one, it is lost: restore it from a backup, or begin anew with `ampoule state reset --state \
         {folder} --reason TEXT`, which is kept on record", folder = folder.display()
    )]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// A reset without a reason that somebody can read later.
    #[error("the reason of a reset is kept on record: give one of 1 to {limit} characters, in one line")]
    Reason {
        /// The most characters.
        limit: usize,
    },
    /// More names than a state has room for.
    #[error(
        "the state of {} has no room for more: it would have more than {limit} bytes; begin anew with `ampoule state \
         reset`, which is kept on record", folder.display()
    )]
    TooLarge {
        /// The folder.
        folder: PathBuf,
        /// The cap in bytes.
        limit: u64,
    },
    /// Every user of this host may make an older bundle acceptable.
    #[error("{} may be written by everybody (mode {found:o}): take that away with `chmod o-w`", path.display())]
    WritableByAll {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        found: u32,
    },
}

impl StateError {
    /// Whether the system does not let this process write, as opposed to anything being wrong with the state.
    pub fn is_read_only(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem))
    }
}
