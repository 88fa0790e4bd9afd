//! The only code that changes a store.  Each change is prepared in a `.partial` file, made durable, renamed into place
//! and the folder made durable: whatever interrupts it, the old state or the new one is there.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ampoule_bundle::{AdmittedBundle, BundleError, Digest, Hasher, SealedBundle, Source};

use super::catalogue::{Catalogue, Record};
use super::error::StoreError;
use super::folder::{Blobs, Folder};
use super::{CATALOGUE_FILE, ROOTS, Store, root_name};
use crate::state::{State, StateError};

/// Blobs and roots are never changed in place, so nobody needs to write them.
const KEPT_MODE: u32 = 0o444;
/// The catalogue is rewritten by its owner and read by whoever serves.
const CATALOGUE_MODE: u32 = 0o644;
/// A blob that is being received.
pub(super) const INCOMING: &str = "incoming.partial";
/// How much of a blob that is there already is read and hashed at once.
const HASH_BYTES: usize = 1 << 20;

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
    pub(super) fn open_or_create(path: &Path) -> Result<StoreWriter, StoreError> {
        let at = |source| StoreError::Io { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(at)?;
        let lock = lock(path)?;
        let store = match Store::open(path) {
            Err(StoreError::NoStore { .. }) => {
                // The catalogue comes first: blobs without a catalogue are a store that has lost it.  The marks come before
                // it: a store without marks is one that has lost them.  What is there was left by a writer that was
                // interrupted between the two.
                match State::create(path) {
                    Ok(_) | Err(StateError::Exists { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
                replace(
                    &Folder::open(path).map_err(at)?,
                    CATALOGUE_FILE,
                    &Catalogue::empty().to_bytes(),
                    CATALOGUE_MODE,
                )?;
                Store::open(path)?
            }
            other => other?,
        };
        Blobs::of_or_new(&store.folder)?;
        store.folder.sub_or_new(ROOTS)?;
        Ok(StoreWriter { store, _lock: lock })
    }

    /// The store as it is now.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Begins to bring the blobs of a bundle into the store, where they count for nothing until it is kept.
    pub(super) fn receive(&mut self) -> Result<Incoming<'_>, StoreError> {
        let blobs = Blobs::of(&self.store.folder)?;
        Ok(Incoming { writer: self, blobs, added: Vec::new() })
    }

    /// Makes an admitted bundle the one that is served.
    pub(super) fn activate(&mut self, record: &Record, _proof: &AdmittedBundle) -> Result<(), StoreError> {
        self.save(self.store.catalogue.with_active(record))
    }

    /// Makes the previous bundle, which was admitted again, the one that is served.
    pub(super) fn roll_back(&mut self, _proof: &AdmittedBundle) -> Result<(), StoreError> {
        self.save(self.store.catalogue.rolled_back())
    }

    /// Replaces the catalogue by another one, unless nothing changes.
    pub(super) fn save(&mut self, catalogue: Catalogue) -> Result<(), StoreError> {
        if catalogue != self.store.catalogue {
            replace(&self.store.folder, CATALOGUE_FILE, &catalogue.to_bytes(), CATALOGUE_MODE)?;
            self.store.catalogue = catalogue;
        }
        Ok(())
    }
}

/// Blobs of a bundle that is not part of the store yet.  Those that it brought are removed unless it is kept.
pub(super) struct Incoming<'a> {
    writer: &'a mut StoreWriter,
    blobs: Blobs,
    added: Vec<Digest>,
}

impl Incoming<'_> {
    /// Brings in every blob that the store lacks or holds damaged, and says how far that has come.
    pub(super) fn blobs_of(&mut self, sealed: &SealedBundle, progress: &dyn Fn(u64)) -> Result<(), ReceiveError> {
        let parts = sealed.unverified_parts();
        let small = [parts.manifest.bytes(), &parts.config];
        for bytes in small.into_iter().chain(parts.attestations.iter().map(|attestation| attestation.bytes())) {
            self.blob(Digest::of(bytes), |out| out.write_all(bytes).map_err(|source| BundleError::Write { source }))?;
        }
        for (index, layer) in parts.manifest.layers().iter().enumerate() {
            self.blob(layer.digest, |out| sealed.copy_layer(index, out))?;
            progress(layer.size);
        }
        self.blobs.0.sync()?;
        Ok(())
    }

    /// Brings in one blob, unless it is there already and whole.  `write` checks its digest while it writes.
    fn blob(
        &mut self,
        digest: Digest,
        write: impl FnOnce(&mut dyn Write) -> Result<(), BundleError>,
    ) -> Result<(), ReceiveError> {
        let name = digest.to_hex();
        let is_new = match self.blobs.open(digest) {
            Err(StoreError::BlobMissing { .. }) => true,
            Err(other) => return Err(other.into()),
            // What lies there is not believed for its name.
            Ok(there) if is_whole(&*there, digest) => return Ok(()),
            Ok(_) => false,
        };
        let folder = &self.writer.store.folder;
        let at = |source| StoreError::Io { path: folder.path(INCOMING), source };
        let mut file = folder.begin(INCOMING, KEPT_MODE)?;
        write(&mut file).map_err(|error| match error {
            BundleError::Write { source } => ReceiveError::Store(at(source)),
            defect => ReceiveError::Bundle(defect),
        })?;
        file.sync_all().map_err(at)?;
        folder.rename(INCOMING, &self.blobs.0, &name)?;
        if is_new {
            self.added.push(digest);
        }
        Ok(())
    }

    /// The store that the blobs lie in.
    pub(super) fn store(&self) -> &Store {
        &self.writer.store
    }

    /// Puts the bundle into the catalogue.  That it was admitted is shown, not claimed.
    pub(super) fn keep(mut self, record: Record, _proof: &AdmittedBundle, trust_root: &[u8]) -> Result<(), StoreError> {
        let roots = self.writer.store.folder.sub(ROOTS)?;
        replace(&roots, &root_name(record.trust_root), trust_root, KEPT_MODE)?;
        let content = record.content;
        let next = self.writer.store.catalogue.with(record);
        let saved = self.writer.save(next);
        // A catalogue that was replaced and could not be made durable may name the blobs already.
        let is_named = |store: Store| store.catalogue.iter().any(|(record, _)| record.content == content);
        if saved.is_ok() || Store::open(&self.writer.store.path).map_or(true, is_named) {
            self.added.clear();
        }
        saved
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // What cannot be removed only takes room, until `ampoule prune` finds it or an import uses it.
        let _ = self.writer.store.folder.remove(INCOMING);
        for digest in &self.added {
            let _ = self.blobs.0.remove(&digest.to_hex());
        }
    }
}

/// Why a blob was not received.
pub(super) enum ReceiveError {
    /// The store cannot be written.
    Store(StoreError),
    /// What was delivered is not what its manifest says.
    Bundle(BundleError),
}

impl From<StoreError> for ReceiveError {
    fn from(error: StoreError) -> ReceiveError {
        ReceiveError::Store(error)
    }
}

/// Whether a blob that is there has the content that its name says.
fn is_whole(blob: &dyn Source, digest: Digest) -> bool {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; HASH_BYTES];
    let mut offset = 0;
    loop {
        match blob.read_at(&mut buffer, offset) {
            Ok(0) => return hasher.finish() == digest,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A sector that cannot be read is replaced like one that says something else.
            Err(_) => return false,
        }
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let at = |source| StoreError::Io { path: path.clone(), source };
    let mut options = OpenOptions::new();
    // Its owner's alone, because whoever may open it may lock it; and a file of the store's own, or nothing.
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(&path).map_err(at)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Busy { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(at(source)),
    }
}

/// Replaces a small file in one step.
fn replace(folder: &Folder, name: &str, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
    let partial = Path::new(name).with_extension("partial").display().to_string();
    let mut file = folder.begin(&partial, mode)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|source| StoreError::Io { path: folder.path(&partial), source })?;
    folder.rename(&partial, folder, name)?;
    folder.sync()
}
