//! What `import`, `activate` and `rollback` do, each as a straight line of the steps of `boot` that ends in one change of
//! the store.  Whatever is refused on the way leaves the store as it was.

use std::fs::File;
use std::path::Path;

use ampoule_bundle::{AdmittedBundle, Timestamp, TrustRoot};

use super::Store;
use super::catalogue::{Record, Wanted};
use super::writer::StoreWriter;
use crate::boot;
use crate::error::Error;
use crate::identity::DecryptionIdentities;
use crate::progress::Progress;

/// Brings a bundle into the store at `folder`, which is made if there is none.
///
/// # Errors
/// Whatever a bundle can be refused for, or [`Error::Store`].
pub fn import(bundle: &Path, folder: &Path, trust_root: &Path) -> Result<(Store, Record), Error> {
    let root_bytes = boot::read_trust_root(trust_root)?;
    let root = boot::serving_root(&root_bytes, trust_root)?;
    let name = bundle.display().to_string();
    // Without the weights this takes no time, and what is refused here has not been copied for nothing.
    boot::admit_model(boot::verify(boot::open_bundle(bundle)?, &root, &name)?.leave_locked(), &name)?;

    let mut writer = StoreWriter::open_or_create(folder)?;
    let at = |source| Error::OpenBundle { path: bundle.to_owned(), source };
    let source = File::open(bundle).map_err(at)?;
    let progress = Progress::start("Copying", source.metadata().map_err(at)?.len());
    let incoming = writer.receive(&source, &|bytes| progress.advance(bytes))?;
    progress.finish();

    // The copy is judged and not what it was copied from: what is kept is what was verified.
    let sealed = boot::open_source(incoming.reader()?, &name)?;
    let content = sealed.content_digest();
    let verified = boot::verify(sealed, &root, &name)?.leave_locked();
    boot::check_every_byte(&verified, &name)?;
    let admitted = boot::admit_model(verified, &name)?;
    let now = Timestamp::new(jiff::Timestamp::now());
    let record = Record::of(admitted.identity(), content, incoming.bytes()?, now);
    writer.keep(incoming, record.clone(), &admitted, &root_bytes)?;
    Ok((writer.store().clone(), record))
}

/// Makes an imported bundle the one that is served.
///
/// # Errors
/// Whatever a bundle can be refused for, or [`Error::Store`].
pub fn activate(
    wanted: &Wanted,
    folder: &Path,
    trust_root: Option<&Path>,
    identities: &DecryptionIdentities,
) -> Result<(Store, Record), Error> {
    let mut writer = StoreWriter::open(folder)?;
    let record = writer.store().find(wanted)?.clone();
    let admitted = admit_again(writer.store(), &record, trust_root, identities)?;
    writer.activate(&record, &admitted)?;
    Ok((writer.store().clone(), record))
}

/// Makes the previous bundle the one that is served.
///
/// # Errors
/// Whatever a bundle can be refused for, or [`Error::Store`].
pub fn roll_back(
    folder: &Path,
    trust_root: Option<&Path>,
    identities: &DecryptionIdentities,
) -> Result<(Store, Record), Error> {
    let mut writer = StoreWriter::open(folder)?;
    let record = writer.store().previous()?.clone();
    let admitted = admit_again(writer.store(), &record, trust_root, identities)?;
    writer.roll_back(&admitted)?;
    Ok((writer.store().clone(), record))
}

/// Verifies every byte of a bundle in the store and admits it: since its import its file, its trust root, this host and
/// the time may have changed.  Without a root of the caller's the one of its import counts; `serve` always takes the
/// configured one.
fn admit_again(
    store: &Store,
    record: &Record,
    trust_root: Option<&Path>,
    identities: &DecryptionIdentities,
) -> Result<AdmittedBundle, Error> {
    let root = open_root(trust_root.unwrap_or(&store.trust_root(record)))?;
    let name = store.describe(record);
    let verified = boot::verify(store.open_bundle(record)?, &root, &name).map_err(Error::in_store)?;
    let verified = identities.unlock(verified, &name).map_err(Error::in_store)?;
    boot::check_every_byte(&verified, &name).map_err(Error::in_store)?;
    boot::admit_model(verified, &name)
}

fn open_root(path: &Path) -> Result<TrustRoot, Error> {
    boot::serving_root(&boot::read_trust_root(path)?, path)
}
