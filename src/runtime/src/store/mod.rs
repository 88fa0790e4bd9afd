//! The store: the folder of bundles that were imported on this host, and which of them is served.
//!
//! ```text
//! DIR/state.json                  what is here, which bundle is active and which was before: replaced by one rename
//! DIR/bundles/<content>.bundle    the bundles, named by the digest of their index.json; never changed, only replaced
//! DIR/roots/<digest>.json         the trust root that each import was verified against
//! DIR/high-water.json, .log       what was taken into use, so that nothing older is: `state`, made together with the store
//! DIR/lock                        held by whoever changes the store; readers need no lock
//! DIR/*.partial                   what an interrupted writer left behind; the next writer begins it anew
//! ```
//!
//! Every change is prepared beside what it replaces, made durable and then put in place by one rename, so that a reader
//! sees the old store or the new one, also after `kill -9` or a power cut.  Nothing here is trusted: whatever the store
//! hands out is opened, verified and admitted like a file that came from anywhere.

mod catalogue;
mod error;
mod steps;
mod writer;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ampoule_bundle::SealedBundle;

use crate::boot;
use crate::error::Error;
use crate::permissions;
use crate::state::Keeping;

pub use catalogue::{Catalogue, Record, Standing, Wanted};
pub use error::StoreError;
pub use steps::{activate, import, roll_back};

/// The catalogue's file.
const STATE_FILE: &str = "state.json";
/// A line of the catalogue is about 500 bytes: room for thousands of bundles.
const STATE_LIMIT_BYTES: u64 = 4 << 20;

/// One look at a store.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
    catalogue: Catalogue,
}

impl Store {
    /// Reads what is in the store.
    ///
    /// # Errors
    /// [`StoreError`] when there is no store, or its state cannot be used.
    pub fn open(folder: &Path) -> Result<Store, StoreError> {
        let path = folder.join(STATE_FILE);
        let bytes = match read_state(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let folder = folder.to_owned();
                return Err(if bundles(&folder).exists() {
                    StoreError::StateLost { folder }
                } else {
                    StoreError::NoStore { folder }
                });
            }
            other => other?,
        };
        let catalogue = Catalogue::parse(&path.display().to_string(), &bytes)
            .map_err(|reason| StoreError::StateDamaged { reason })?;
        Ok(Store { folder: folder.to_owned(), catalogue })
    }

    /// What is in the store.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The bundle that is served.
    ///
    /// # Errors
    /// [`StoreError::NothingActive`].
    pub fn active(&self) -> Result<&Record, StoreError> {
        self.catalogue.active().ok_or_else(|| StoreError::NothingActive { folder: self.folder.clone() })
    }

    /// The bundle that `ampoule activate` means.
    ///
    /// # Errors
    /// [`StoreError::UnknownBundle`] with what is there instead.
    pub fn find(&self, wanted: &Wanted) -> Result<&Record, StoreError> {
        self.catalogue.find(wanted).ok_or_else(|| StoreError::UnknownBundle {
            wanted: wanted.to_string(),
            folder: self.folder.clone(),
            found: self.catalogue.titles(),
        })
    }

    /// Where this store keeps what was taken into use.
    pub fn keeping(&self) -> Keeping {
        Keeping::Store { folder: self.folder.clone(), settled: self.catalogue.settled() }
    }

    /// What a bundle of this store is called in messages.
    pub fn describe(&self, record: &Record) -> String {
        format!("{} in the store {}", record.title(), self.folder.display())
    }

    /// The bundle to go back to.
    ///
    /// # Errors
    /// [`StoreError::NothingPrevious`].
    pub fn previous(&self) -> Result<&Record, StoreError> {
        self.catalogue.previous().ok_or_else(|| StoreError::NothingPrevious { folder: self.folder.clone() })
    }

    /// Where a bundle's file lies.
    pub fn path(&self, record: &Record) -> PathBuf {
        bundle_path(&self.folder, record)
    }

    /// Where the trust root of a bundle's import lies.
    pub fn trust_root(&self, record: &Record) -> PathBuf {
        root_path(&self.folder, record)
    }

    /// Opens and reads a bundle of this store, in one go.
    ///
    /// # Errors
    /// As [`Store::open_file`] and [`Store::read_bundle`].
    pub fn open_bundle(&self, record: &Record) -> Result<SealedBundle, Error> {
        self.read_bundle(record, self.open_file(record)?)
    }

    /// Opens the file of a bundle and reads nothing of it.
    ///
    /// # Errors
    /// [`StoreError`] when it is missing.
    pub fn open_file(&self, record: &Record) -> Result<File, StoreError> {
        let path = self.path(record);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::FileMissing { title: record.title(), path: path.clone() },
            _ => StoreError::Io { path: path.clone(), source },
        })
    }

    /// Reads a bundle of this store from its open file.  Nothing in it is trusted yet, except that it is the one that was
    /// imported: a file that was exchanged for another, however well signed, is refused.
    ///
    /// # Errors
    /// [`StoreError`] when it is another bundle, [`Error::Bundle`] when it is no bundle any more.
    pub fn read_bundle(&self, record: &Record, file: File) -> Result<SealedBundle, Error> {
        let path = self.path(record);
        let sealed = boot::open_source(file, &self.describe(record)).map_err(Error::in_store)?;
        let found = sealed.content_digest();
        if found != record.content {
            return Err(StoreError::Exchanged { title: record.title(), path, found, expected: record.content }.into());
        }
        Ok(sealed)
    }
}

/// Where the bundles lie.
fn bundles(folder: &Path) -> PathBuf {
    folder.join("bundles")
}

/// Where the trust roots lie.
fn roots(folder: &Path) -> PathBuf {
    folder.join("roots")
}

fn bundle_path(folder: &Path, record: &Record) -> PathBuf {
    bundles(folder).join(format!("{}.bundle", record.content.to_hex()))
}

fn root_path(folder: &Path, record: &Record) -> PathBuf {
    roots(folder).join(format!("{}.json", record.trust_root.to_hex()))
}

fn read_state(path: &Path) -> Result<Vec<u8>, StoreError> {
    let at = |source| StoreError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(at)?;
    if let Some(found) = permissions::writable_by_all(&file).map_err(at)? {
        return Err(StoreError::WritableByAll { path: path.to_owned(), found });
    }
    let mut bytes = Vec::new();
    file.take(STATE_LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(at)?;
    if bytes.len() as u64 > STATE_LIMIT_BYTES {
        let reason = format!("{} has more than {STATE_LIMIT_BYTES} bytes", path.display());
        return Err(StoreError::StateDamaged { reason });
    }
    Ok(bytes)
}
