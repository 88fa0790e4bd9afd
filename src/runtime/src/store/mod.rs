//! The store: the folder of bundles that were imported on this host, and which of them is served.
//!
//! ```text
//! DIR/catalogue.json         what is here, which bundle is active and which was before: replaced by one rename
//! DIR/blobs/sha256/<hex>     manifests, attestations, configs and layers, named by their digest: what two bundles share
//!                            lies here once; never changed, only replaced where it was damaged
//! DIR/roots/<digest>.json    the trust root that each import was verified against
//! DIR/high-water.json, .log  what was taken into use, so that nothing older is: `state`, made together with the store
//! DIR/lock                   held by whoever changes the store; readers need no lock
//! DIR/*.partial              what an interrupted writer left behind; the next writer begins it anew
//! ```
//!
//! Every change is prepared beside what it replaces, made durable and then put in place by one rename, so that a reader
//! sees the old store or the new one, also after `kill -9` or a power cut.  Blobs come before the catalogue that names
//! them and go after it.  Nothing here is trusted: whatever the store hands out is put together, opened, verified and
//! admitted like a file that came from anywhere.

mod catalogue;
mod delivery;
mod error;
mod export;
mod folder;
mod prune;
mod self_test;
mod steps;
mod trial;
mod writer;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_bundle::archive::{Assembled, Parts, read_blob};
use ampoule_bundle::limits::{
    MAX_ATTESTATION_BYTES, MAX_ATTESTATIONS, MAX_ATTESTATIONS_TOTAL_BYTES, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES,
};
use ampoule_bundle::{Attestation, BundleError, Digest, Manifest, SealedBundle, Source};

use crate::boot;
use crate::error::Error;
use crate::permissions;
use crate::state::Keeping;
use folder::{Blobs, Folder};

pub use catalogue::{Catalogue, Record, Standing, Wanted};
pub use error::StoreError;
pub use export::{Destination, export};
pub use prune::{Pruned, prune};
pub use self_test::self_test;
pub use steps::{OpenWith, activate, import, roll_back};
pub use trial::Trial;

/// The catalogue's file.
const CATALOGUE_FILE: &str = "catalogue.json";
/// A line of the catalogue is about 700 bytes: room for thousands of bundles.
const CATALOGUE_LIMIT_BYTES: u64 = 4 << 20;

/// One look at a store.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
    folder: Arc<Folder>,
    catalogue: Catalogue,
}

impl Store {
    /// Reads what is in the store.
    ///
    /// # Errors
    /// [`StoreError`] when there is no store, or its catalogue cannot be used.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let no_store = || StoreError::NoStore { folder: path.to_owned() };
        let folder = Folder::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => no_store(),
            _ => StoreError::Io { path: path.to_owned(), source },
        })?;
        let catalogue = read_catalogue(&folder)?;
        let catalogue = match catalogue {
            Some(catalogue) => catalogue,
            None if has(&folder, "bundles")? => return Err(StoreError::OldLayout { folder: path.to_owned() }),
            None if has(&folder, "blobs")? => return Err(StoreError::CatalogueLost { folder: path.to_owned() }),
            None => return Err(no_store()),
        };
        Ok(Store { path: path.to_owned(), folder: Arc::new(folder), catalogue })
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
        self.catalogue.active().ok_or_else(|| StoreError::NothingActive { folder: self.path.clone() })
    }

    /// The bundle that a name, with or without a version, means.
    ///
    /// # Errors
    /// [`StoreError::UnknownBundle`] with what is there instead.
    pub fn find(&self, wanted: &Wanted) -> Result<&Record, StoreError> {
        self.catalogue.find(wanted).ok_or_else(|| StoreError::UnknownBundle {
            wanted: wanted.to_string(),
            folder: self.path.clone(),
            found: self.catalogue.titles(),
        })
    }

    /// Where this store keeps what was taken into use.
    pub fn keeping(&self) -> Keeping {
        Keeping::Store { folder: self.path.clone(), settled: self.catalogue.settled() }
    }

    /// Whether only who has an identity can look into a bundle. One that cannot be opened at all is not called so.
    pub fn is_encrypted(&self, record: &Record) -> bool {
        self.open_bundle(record).is_ok_and(|bundle| bundle.unverified_manifest().is_encrypted())
    }

    /// What a bundle of this store is called in messages.
    pub fn describe(&self, record: &Record) -> String {
        format!("{} in the store {}", record.title(), self.path.display())
    }

    /// The bundle to go back to.
    ///
    /// # Errors
    /// [`StoreError::NothingPrevious`].
    pub fn previous(&self) -> Result<&Record, StoreError> {
        self.catalogue.previous().ok_or_else(|| StoreError::NothingPrevious { folder: self.path.clone() })
    }

    /// Where the trust root of a bundle's import lies.
    pub fn trust_root(&self, record: &Record) -> PathBuf {
        self.path.join(ROOTS).join(root_name(record.trust_root))
    }

    /// Opens a bundle of this store, each of its blobs once.  Nothing in it is trusted yet, except that it is the one that
    /// was imported: manifest, attestations and config are those that the catalogue names by their digests.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when a blob is missing, [`Error::Bundle`] when one is damaged.
    pub fn open_bundle(&self, record: &Record) -> Result<SealedBundle, Error> {
        let sealed = self.assemble(record.manifest, &record.attestations, &self.describe(record));
        let sealed = sealed.map_err(|error| match error {
            Error::Store(StoreError::BlobMissing { path }) => {
                StoreError::Incomplete { title: record.title(), path }.into()
            }
            other => other.in_store(),
        })?;
        let found = sealed.content_digest();
        if found != record.content {
            // Only a catalogue that somebody made up can say so: the digests in it decide what is found.
            let reason = format!("{} has content digest {found} and not {}", record.title(), record.content);
            return Err(StoreError::CatalogueDamaged { reason }.into());
        }
        Ok(sealed)
    }

    /// Puts a bundle together from its blobs.
    fn assemble(&self, manifest: Digest, attestations: &[Digest], name: &str) -> Result<SealedBundle, Error> {
        let refused = |source| Error::Bundle { name: name.to_owned(), source: Box::new(source) };
        let blobs = Blobs::of(&self.folder)?;
        let read = |digest: Digest, what: &str, limit| -> Result<Vec<u8>, Error> {
            read_blob(&*blobs.open(digest)?, digest, what, limit).map_err(refused)
        };
        let manifest = Manifest::parse(read(manifest, "the model manifest", MAX_MANIFEST_BYTES)?).map_err(refused)?;
        let config = read(manifest.config_digest(), "the model config", MAX_CONFIG_BYTES)?;
        let too_large =
            |what: &str, found, limit| refused(BundleError::TooLarge { what: what.to_owned(), found, limit });
        let count = attestations.len() as u64;
        if count > MAX_ATTESTATIONS as u64 {
            return Err(too_large("the number of attestations", count, MAX_ATTESTATIONS as u64));
        }
        let mut total = 0;
        let mut parsed = Vec::with_capacity(attestations.len());
        for digest in attestations {
            let what = format!("the attestation {digest}");
            let bytes = read(*digest, &what, MAX_ATTESTATION_BYTES)?;
            total += bytes.len() as u64;
            if total > MAX_ATTESTATIONS_TOTAL_BYTES {
                let what = "the length in bytes of all attestations";
                return Err(too_large(what, total, MAX_ATTESTATIONS_TOTAL_BYTES));
            }
            parsed.push(Attestation::parse(&what, bytes).map_err(refused)?);
        }
        let layers = open_layers(&manifest, |digest| blobs.open(digest))?;
        let parts = Parts { manifest, config, attestations: parsed };
        boot::open_source(Assembled::new(&parts, &layers).map_err(refused)?, name)
    }
}

/// Opens the content of each layer, and what two layers share once.
fn open_layers<E>(
    manifest: &Manifest,
    open: impl Fn(Digest) -> Result<Arc<dyn Source>, E>,
) -> Result<Vec<Arc<dyn Source>>, E> {
    let mut opened: HashMap<Digest, Arc<dyn Source>> = HashMap::new();
    let mut layers = Vec::with_capacity(manifest.layers().len());
    for layer in manifest.layers() {
        let source = match opened.get(&layer.digest) {
            Some(source) => Arc::clone(source),
            None => open(layer.digest)?,
        };
        opened.insert(layer.digest, Arc::clone(&source));
        layers.push(source);
    }
    Ok(layers)
}

/// Where the trust roots lie.
const ROOTS: &str = "roots";

fn root_name(digest: Digest) -> String {
    format!("{}.json", digest.to_hex())
}

fn has(folder: &Folder, name: &str) -> Result<bool, StoreError> {
    Ok(folder.names()?.iter().any(|found| found == name))
}

fn read_catalogue(folder: &Folder) -> Result<Option<Catalogue>, StoreError> {
    let path = folder.path(CATALOGUE_FILE);
    let Some(file) = folder.file(CATALOGUE_FILE)? else { return Ok(None) };
    let mode = permissions::writable_by_all(&file).map_err(|source| StoreError::Io { path: path.clone(), source })?;
    if let Some(found) = mode {
        return Err(StoreError::WritableByAll { path, found });
    }
    let bytes = folder.read(CATALOGUE_FILE, &file, CATALOGUE_LIMIT_BYTES)?;
    let parsed = Catalogue::parse(&path.display().to_string(), &bytes);
    parsed.map(Some).map_err(|reason| StoreError::CatalogueDamaged { reason })
}
