//! The files of the state: read whole, replaced by one rename, and durable before anything depends on them.  Whatever
//! interrupts a writer, the old state or the new one is there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::StateError;
use crate::permissions;

/// The state itself.
const CHAIN_FILE: &str = "high-water.json";
/// When it was made and reset, one JSON object a line, for good. Nothing is decided by it, but that there was a state.
const LOG_FILE: &str = "high-water.log";
/// A record is a few hundred bytes, and its counters some more for each name of a bundle: room for a thousand names.
pub(super) const LIMIT_BYTES: u64 = 16 << 20;
/// What a writer holds as long as it writes.
const LOCK_FILE: &str = "high-water.lock";
/// The state is rewritten by its owner and read by whoever serves.
const MODE: u32 = 0o644;
/// Whoever may open the lock may hold it, and so keep everybody else from writing.
const LOCK_MODE: u32 = 0o600;
/// A link or a pipe in the place of a file of the state is neither followed nor waited for.
const OWN_FILES: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
/// A writer holds the lock for some milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// What the folder holds.
pub(super) enum Found {
    /// The bytes of a state.
    Chain(Vec<u8>),
    /// No state, and whether there was one.
    Nothing {
        /// Whether the log says that there was one.
        was_there: bool,
    },
}

/// Where the state of a folder lies.
pub(super) fn chain_path(folder: &Path) -> PathBuf {
    folder.join(CHAIN_FILE)
}

/// Reads what is there.
pub(super) fn read(folder: &Path) -> Result<Found, StateError> {
    let path = chain_path(folder);
    let at = |source| StateError::Io { path: path.clone(), source };
    let file = match OpenOptions::new().read(true).custom_flags(OWN_FILES).open(&path) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            let was_there = folder.join(LOG_FILE).try_exists().map_err(at)?;
            return Ok(Found::Nothing { was_there });
        }
        other => other.map_err(at)?,
    };
    // Whoever may write the folder may put another file in the place of this one.
    let folder_file = File::open(folder).map_err(at)?;
    for (path, file) in [(path.as_path(), &file), (folder, &folder_file)] {
        if let Some(found) = permissions::writable_by_all(file).map_err(at)? {
            return Err(StateError::WritableByAll { path: path.to_owned(), found });
        }
    }
    if !file.metadata().map_err(at)?.is_file() {
        let reason = format!("{} is no file", path.display());
        return Err(StateError::Damaged { folder: folder.to_owned(), reason });
    }
    let mut bytes = Vec::new();
    file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(at)?;
    if bytes.len() as u64 > LIMIT_BYTES {
        let reason = format!("{} has more than {LIMIT_BYTES} bytes", path.display());
        return Err(StateError::Damaged { folder: folder.to_owned(), reason });
    }
    Ok(Found::Chain(bytes))
}

/// The folder, locked: nobody else writes its state as long as this lives, however the process ends.
pub(super) struct Writer {
    folder: PathBuf,
    handle: File,
    _lock: File,
}

impl Writer {
    /// Locks the folder, which must be there.
    pub(super) fn lock(folder: &Path) -> Result<Writer, StateError> {
        let at = |source| StateError::Io { path: folder.to_owned(), source };
        let handle = File::open(folder).map_err(at)?;
        let lock = lock_file(folder, &handle)?;
        let begun = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Writer { folder: folder.to_owned(), handle, _lock: lock }),
                Err(TryLockError::Error(source)) => return Err(at(source)),
                Err(TryLockError::WouldBlock) if begun.elapsed() > LOCK_PATIENCE => {
                    return Err(StateError::Busy { folder: folder.to_owned() });
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Puts a new state in the place of the old one.
    pub(super) fn replace(&self, bytes: &[u8]) -> Result<(), StateError> {
        if bytes.len() as u64 > LIMIT_BYTES {
            return Err(StateError::TooLarge { folder: self.folder.clone(), limit: LIMIT_BYTES });
        }
        let path = chain_path(&self.folder);
        let partial = path.with_extension("partial");
        let at = |source| StateError::Io { path: partial.clone(), source };
        let mut file = self.begin(&partial)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at)?;
        fs::rename(&partial, &path).map_err(at)?;
        self.sync()
    }

    /// Adds a line to the log.
    pub(super) fn log(&self, line: &str) -> Result<(), StateError> {
        let path = self.folder.join(LOG_FILE);
        let at = |source| StateError::Io { path: path.clone(), source };
        let mut options = OpenOptions::new();
        let mut file = options.append(true).create(true).mode(MODE).custom_flags(OWN_FILES).open(&path).map_err(at)?;
        // A line that a power cut left unfinished does not spoil the next one.
        let is_fresh = file.metadata().map_err(at)?.len() == 0;
        let separator = if is_fresh { "" } else { "\n" };
        file.write_all(format!("{separator}{line}").as_bytes()).and_then(|()| file.sync_all()).map_err(at)?;
        self.sync()
    }

    /// The user that this process acts as, by what the system writes on a new file.
    pub(super) fn uid(&self) -> Result<u32, StateError> {
        let partial = chain_path(&self.folder).with_extension("partial");
        let uid = self.begin(&partial)?.metadata().map(|facts| facts.uid());
        uid.map_err(|source| StateError::Io { path: partial, source })
    }

    /// A new file in place of whatever an interrupted writer left there; the lock says that it is nobody else's.
    fn begin(&self, path: &Path) -> Result<File, StateError> {
        let at = |source| StateError::Io { path: path.to_owned(), source };
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(at(source)),
            _ => {}
        }
        OpenOptions::new().write(true).create_new(true).mode(MODE).open(path).map_err(at)
    }

    /// Makes the names in the folder durable.
    fn sync(&self) -> Result<(), StateError> {
        self.handle.sync_all().map_err(|source| StateError::Io { path: self.folder.clone(), source })
    }
}

/// The file that is locked. Whoever owns the folder owns it, also where somebody with more rights writes first.
fn lock_file(folder: &Path, handle: &File) -> Result<File, StateError> {
    let path = folder.join(LOCK_FILE);
    let at = |source| StateError::Io { path: path.clone(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(LOCK_MODE).custom_flags(OWN_FILES);
    let file = options.open(&path).map_err(at)?;
    let (owner, found) = (handle.metadata().map_err(at)?, file.metadata().map_err(at)?);
    if owner.uid() != found.uid() {
        // Only who has the right can give it away; where nobody has, it stays with whoever came first.
        let _ = fchown(&file, Some(owner.uid()), Some(owner.gid()));
    }
    Ok(file)
}
