//! What `import`, `activate` and `rollback` do, each as a straight line of the steps of `boot` that ends in one change of
//! the store.  Whatever is refused on the way leaves the store as it was.

use std::path::{Path, PathBuf};

use ampoule_bundle::{AdmittedBundle, BundleError, Timestamp, TrustRoot, VerifiedBundle};

use super::catalogue::{Record, Wanted};
use super::error::StoreError;
use super::writer::{ReceiveError, StoreWriter};
use super::{Store, delivery, self_test};
use crate::admission::Admission;
use crate::boot;
use crate::error::Error;
use crate::identity::DecryptionIdentities;
use crate::progress::Progress;
use crate::state::State;
use crate::trust::{self, Supplements, TrustFile};

/// What a bundle of a store is verified and opened with, where that is said.
#[derive(Debug, Clone, Default)]
pub struct OpenWith {
    /// The trust root; without it that of the bundle's import.
    pub trust_root: Option<PathBuf>,
    /// What stands beside it.
    pub supplements: Supplements,
    /// The identity that opens what is encrypted.
    pub identity: Option<PathBuf>,
}

/// Brings a bundle into the store at `folder`, which is made if there is none.
///
/// # Errors
/// Whatever a bundle can be refused for, or [`Error::Store`].
pub fn import(
    delivered: &Path,
    folder: &Path,
    trust_root: &Path,
    supplements: &Supplements,
) -> Result<(Store, Record), Error> {
    let (root, root_bytes) = trust::open_for_serving(trust_root, supplements)?;
    let name = delivered.display().to_string();
    let sealed = delivery::open(delivered, folder)?;
    // Without the weights this takes no time, and what is refused here has not been copied for nothing.
    let admission = match Store::open(folder) {
        Err(StoreError::NoStore { .. }) => Admission::of_host(),
        store => Admission::of_store(&store?),
    };
    // Whoever stores a bundle need not be able to read it.
    admission.admit_model(boot::verify(sealed.clone(), &root, &name)?.leave_locked(), &name)?;

    let mut writer = StoreWriter::open_or_create(folder)?;
    let mut incoming = writer.receive()?;
    let progress = Progress::start("Copying", sealed.file_bytes());
    let received = incoming.blobs_of(&sealed, &|bytes| progress.advance(bytes));
    progress.finish();
    received.map_err(|error| match error {
        ReceiveError::Store(error) => error.into(),
        ReceiveError::Bundle(source) => Error::Bundle { name: name.clone(), source: Box::new(source) },
    })?;

    // The blobs are judged and not what they were copied from: what is kept is what was verified.
    let parts = sealed.unverified_parts();
    let attestations: Vec<_> = parts.attestations.iter().map(|attestation| attestation.digest()).collect();
    let kept = incoming.store().assemble(parts.manifest.digest(), &attestations, &name)?;
    let verified = boot::verify(kept.clone(), &root, &name)?.leave_locked();
    boot::check_every_byte(&verified, &name)?;
    let admitted = admit(incoming.store(), verified, &name)?;
    let now = Timestamp::new(jiff::Timestamp::now());
    let record = Record::of(admitted.identity(), &kept, now);
    incoming.keep(record.clone(), &admitted, &root_bytes)?;
    Ok((writer.store().clone(), record))
}

/// Makes an imported bundle the one that is served, once a child process has loaded and proven it: under the
/// configuration in `configuration`, if a file is named there.
///
/// # Errors
/// Whatever a bundle can be refused for, or [`Error::Store`].
pub fn activate(
    wanted: &Wanted,
    folder: &Path,
    with: &OpenWith,
    configuration: &[PathBuf],
) -> Result<(Store, Record), Error> {
    let mut writer = StoreWriter::open(folder)?;
    let record = writer.store().find(wanted)?.clone();
    let admitted = admit_again(writer.store(), &record, with)?;
    self_test::in_a_child(&record, wanted, folder, with, configuration)?;
    writer.activate(&record, &admitted)?;
    settle(writer.store(), &admitted, &record)?;
    Ok((writer.store().clone(), record))
}

/// Makes the previous bundle the one that is served.
///
/// # Errors
/// Whatever a bundle can be refused for, or [`Error::Store`].
pub fn roll_back(folder: &Path, with: &OpenWith) -> Result<(Store, Record), Error> {
    let mut writer = StoreWriter::open(folder)?;
    let record = writer.store().previous()?.clone();
    let admitted = admit_again(writer.store(), &record, with)?;
    writer.roll_back(&admitted)?;
    settle(writer.store(), &admitted, &record)?;
    Ok((writer.store().clone(), record))
}

/// Verifies every byte of a bundle in the store and admits it: since its import its blobs, its trust root, this host and
/// the time may have changed.
fn admit_again(store: &Store, record: &Record, with: &OpenWith) -> Result<AdmittedBundle, Error> {
    let name = store.describe(record);
    let identities = DecryptionIdentities::read(with.identity.as_deref())?;
    let verified = open_again(store, record, &root_for(store, record, with)?, &identities)?;
    boot::check_every_byte(&verified, &name).map_err(Error::in_store)?;
    admit(store, verified, &name)
}

/// The root that a bundle of the store is verified against.  Without one of the caller's that of its import counts;
/// `serve` always takes the configured one.
pub(super) fn root_for(store: &Store, record: &Record, with: &OpenWith) -> Result<TrustRoot, Error> {
    let kept = store.trust_root(record);
    let (root, _) = trust::open_for_serving(with.trust_root.as_ref().unwrap_or(&kept), &with.supplements)?;
    if with.trust_root.is_none() && root.digest() != record.trust_root {
        let (what, found) = ("the trust root that the import was verified against".to_owned(), root.digest());
        let source = BundleError::DigestMismatch { what, found, expected: record.trust_root };
        return Err(Error::TrustFile { path: kept, what: TrustFile::Root, source: Box::new(source) });
    }
    Ok(root)
}

/// Verifies a bundle of the store but for its weights.
pub(super) fn verify_again(store: &Store, record: &Record, root: &TrustRoot) -> Result<VerifiedBundle, Error> {
    boot::verify(store.open_bundle(record)?, root, &store.describe(record)).map_err(Error::in_store)
}

/// The same, and opened if it is encrypted.
pub(super) fn open_again(
    store: &Store,
    record: &Record,
    root: &TrustRoot,
    identities: &DecryptionIdentities,
) -> Result<VerifiedBundle, Error> {
    let verified = verify_again(store, record, root)?;
    identities.unlock(verified, &store.describe(record)).map_err(Error::in_store)
}

/// The one admission of everything that a store holds.
pub(super) fn admit(store: &Store, verified: VerifiedBundle, name: &str) -> Result<AdmittedBundle, Error> {
    Admission::of_store(store).admit_model(verified, name)
}

/// Notes what follows from a switch that is done: the catalogue says which counters nothing may be below any more.  A cut
/// before this leaves nothing open, because the catalogue itself is always held against, and the next switch notes both.
fn settle(store: &Store, admitted: &AdmittedBundle, record: &Record) -> Result<(), Error> {
    let mut seen = store.catalogue().settled();
    seen.raise(&admitted.marks().without_counters());
    Ok(State::open(&store.path)?.raise(&seen, &format!("{} becoming active", record.title()))?)
}
