//! The only code that changes a store.  Each change is prepared in a `.partial` file, made durable, renamed into place
//! and the folder made durable: whatever interrupts it, the old state or the new one is there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ampoule_bundle::AdmittedBundle;

use super::catalogue::{Catalogue, Record};
use super::error::StoreError;
use super::{STATE_FILE, Store, bundle_path, bundles, root_path, roots};
use crate::state::{State, StateError};

/// How much is copied between two looks at the progress.  The kernel copies it, or only shares it where it can.
const COPY_BYTES: u64 = 16 << 20;
/// Bundles and roots are never changed in place, so nobody needs to write them.
const KEPT_MODE: u32 = 0o444;
/// The state is rewritten by its owner and read by whoever serves.
const STATE_MODE: u32 = 0o644;

/// A store that nobody else changes as long as this lives.
#[derive(Debug)]
pub(super) struct StoreWriter {
    store: Store,
    /// The lock ends with the process that holds it, however that ends.
    _lock: File,
}

impl StoreWriter {
    /// Locks the store, which must be there.
    pub(super) fn open(folder: &Path) -> Result<StoreWriter, StoreError> {
        Store::open(folder)?;
        let lock = lock(folder)?;
        // Only now: what was read before the lock may have changed since.
        Ok(StoreWriter { store: Store::open(folder)?, _lock: lock })
    }

    /// Locks the store and makes it first if there is none.
    pub(super) fn open_or_create(folder: &Path) -> Result<StoreWriter, StoreError> {
        let at = |source| StoreError::Io { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(at)?;
        let lock = lock(folder)?;
        let store = match Store::open(folder) {
            Err(StoreError::NoStore { .. }) => {
                // The catalogue comes first: bundles without a catalogue are a store that has lost it.  The marks come
                // before it: a store without marks is one that has lost them.  What is there was left by a writer that
                // was interrupted between the two.
                match State::create(folder) {
                    Ok(_) | Err(StateError::Exists { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                replace(&folder.join(STATE_FILE), &Catalogue::empty().to_bytes(), STATE_MODE)?;
                Store::open(folder)?
            }
            other => other?,
        };
        for path in [bundles(folder), roots(folder)] {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
            made.map_err(|source| StoreError::Io { path, source })?;
        }
        sync_folder(folder)?;
        Ok(StoreWriter { store, _lock: lock })
    }

    /// The store as it is now.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Copies a file into the store, where it counts for nothing until it is kept.
    pub(super) fn receive(&self, source: &File, progress: &dyn Fn(u64)) -> Result<Incoming, StoreError> {
        let path = self.store.folder.join("incoming.partial");
        let at = |source| StoreError::Io { path: path.clone(), source };
        let file = begin(&path, KEPT_MODE)?;
        let incoming = Incoming { file, path: path.clone() };
        loop {
            let count = io::copy(&mut source.take(COPY_BYTES), &mut &incoming.file).map_err(at)?;
            progress(count);
            if count == 0 {
                return Ok(incoming);
            }
        }
    }

    /// Puts a received bundle in its place and into the catalogue.  That it was admitted is shown, not claimed.
    pub(super) fn keep(
        &mut self,
        incoming: Incoming,
        record: Record,
        _proof: &AdmittedBundle,
        trust_root: &[u8],
    ) -> Result<(), StoreError> {
        let folder = self.store.folder.clone();
        let path = bundle_path(&folder, &record);
        let at = |source| StoreError::Io { path: path.clone(), source };
        incoming.file.sync_all().map_err(at)?;
        fs::rename(&incoming.path, &path).map_err(at)?;
        sync_folder(&bundles(&folder))?;
        replace(&root_path(&folder, &record), trust_root, KEPT_MODE)?;
        self.save(self.store.catalogue.with(record))
    }

    /// Makes an admitted bundle the one that is served.
    pub(super) fn activate(&mut self, record: &Record, _proof: &AdmittedBundle) -> Result<(), StoreError> {
        self.save(self.store.catalogue.with_active(record))
    }

    /// Makes the previous bundle, which was admitted again, the one that is served.
    pub(super) fn roll_back(&mut self, _proof: &AdmittedBundle) -> Result<(), StoreError> {
        self.save(self.store.catalogue.rolled_back())
    }

    fn save(&mut self, catalogue: Catalogue) -> Result<(), StoreError> {
        if catalogue != self.store.catalogue {
            replace(&self.store.folder.join(STATE_FILE), &catalogue.to_bytes(), STATE_MODE)?;
            self.store.catalogue = catalogue;
        }
        Ok(())
    }
}

/// A copy that is not part of the store yet.  It is removed unless it was kept.
#[derive(Debug)]
pub(super) struct Incoming {
    file: File,
    path: PathBuf,
}

impl Incoming {
    /// A handle to read the copy by.
    pub(super) fn reader(&self) -> Result<File, StoreError> {
        self.file.try_clone().map_err(|source| StoreError::Io { path: self.path.clone(), source })
    }

    /// The length of the copy.
    pub(super) fn bytes(&self) -> Result<u64, StoreError> {
        let facts = self.file.metadata();
        facts.map(|facts| facts.len()).map_err(|source| StoreError::Io { path: self.path.clone(), source })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone when it was kept; otherwise the next import would begin it anew, and until then it only takes room.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let at = |source| StoreError::Io { path: path.clone(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(STATE_MODE).open(&path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Busy { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(at(source)),
    }
}

/// Replaces a small file in one step.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let partial = path.with_extension("partial");
    let at = |source| StoreError::Io { path: partial.clone(), source };
    let mut file = begin(&partial, mode)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at)?;
    fs::rename(&partial, path).map_err(at)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// A new file in place of whatever an interrupted writer left there; the lock says that it is nobody else's.
fn begin(path: &Path, mode: u32) -> Result<File, StoreError> {
    let at = |source| StoreError::Io { path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(at(source)),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path).map_err(at)
}

/// Makes the names in a folder durable.
fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| StoreError::Io { path: folder.to_owned(), source })
}
