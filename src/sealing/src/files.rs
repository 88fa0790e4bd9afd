//! Reading small files with a cap, and putting a finished file in its place in one step.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use ampoule_bundle::limits::MAX_TRUST_ROOT_BYTES;
use ampoule_bundle::{SealedBundle, TrustRoot, regular, without_waiting};

use crate::error::SealingError;

/// Reads the whole file `path`, refusing one longer than `limit_bytes` before more than that is held.
pub(crate) fn read_capped(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, SealingError> {
    let in_context = |source| SealingError::Read { path: path.to_owned(), source };
    let file = regular(without_waiting().open(path), || path.metadata()).map_err(in_context)?;
    let file = file.map_err(|found| in_context(io::Error::other(format!("it is {found}, not a file"))))?;
    let found_bytes = file.metadata().map_err(in_context)?.len();
    if found_bytes > limit_bytes {
        return Err(SealingError::TooLarge { path: path.to_owned(), found_bytes, limit_bytes });
    }
    let mut bytes = Vec::new();
    file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(in_context)?;
    let read_bytes = bytes.len() as u64;
    if read_bytes > limit_bytes {
        return Err(SealingError::TooLarge { path: path.to_owned(), found_bytes: read_bytes, limit_bytes });
    }
    Ok(bytes)
}

/// Writes `path` by way of a file beside it, so that the name never shows half of the content.
///
/// An existing file is replaced; on any error the half-written one is removed. `check` reads the complete file and can
/// still refuse it.
pub(crate) fn write_checked(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), SealingError>,
    check: impl FnOnce(File) -> Result<(), SealingError>,
) -> Result<(), SealingError> {
    let in_context = |source: io::Error| SealingError::Write { path: path.to_owned(), source };
    let partial = partial_name(path);
    let attempt = || {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&partial);
        check(fill(file.map_err(in_context)?, path, write)?)?;
        fs::rename(&partial, path).map_err(in_context)
    };
    attempt().inspect_err(|_| {
        // The error that is reported is the one that stopped the writing; a leftover is only untidy.
        let _ = fs::remove_file(&partial);
    })
}

/// [`write_checked`] for bytes that are there already.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), SealingError> {
    let in_context = |source| SealingError::Write { path: path.to_owned(), source };
    write_checked(path, |writer| writer.write_all(bytes).map_err(in_context), |_| Ok(()))
}

/// Writes the file `path`, which must not be there yet, where nobody looks before all is done.
pub(crate) fn write_new(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), SealingError>,
) -> Result<(), SealingError> {
    let file = File::create_new(path).map_err(|source| SealingError::Write { path: path.to_owned(), source })?;
    fill(file, path, write).map(drop)
}

/// Writes to `file` until it lies on the disk. `path` is the name for messages.
fn fill(
    file: File,
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), SealingError>,
) -> Result<File, SealingError> {
    let in_context = |source: io::Error| SealingError::Write { path: path.to_owned(), source };
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    write(&mut writer)?;
    let file = writer.into_inner().map_err(|error| in_context(error.into_error()))?;
    file.sync_all().map_err(in_context)?;
    Ok(file)
}

/// Opens the bundle at `path`; its signatures are not verified by that.
pub(crate) fn open_bundle(path: &Path) -> Result<SealedBundle, SealingError> {
    let opened = regular(without_waiting().open(path), || path.metadata());
    let file = opened.map_err(|source| SealingError::Read { path: path.to_owned(), source })?;
    let file = file.map_err(|found| SealingError::NotABundleFile { path: path.to_owned(), found })?;
    Ok(SealedBundle::open(file)?)
}

/// Reads the trust root at `path`.
pub(crate) fn read_root(path: &Path) -> Result<TrustRoot, SealingError> {
    Ok(TrustRoot::pin(&read_capped(path, MAX_TRUST_ROOT_BYTES)?)?)
}

/// The name that a file or folder has until it is complete.
pub(crate) fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}
