//! Opens what says who is trusted: the trust root, and beside it the revocation list and the downgrade token where the
//! site has them.  Whoever can exchange one of these decides what this host serves, so none may be writable by
//! everybody.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ampoule_bundle::limits::MAX_TRUST_ROOT_BYTES;
use ampoule_bundle::{BundleError, TrustRoot, regular, without_waiting};

use crate::config::{ConfigError, ConfigErrors};
use crate::demo;
use crate::error::Error;
use crate::permissions;
use crate::replace::{lock_folder_of, replace};

/// What stands beside a trust root, where the site has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Supplements {
    /// The revocation list.
    pub revocations: Option<PathBuf>,
    /// The permission to use one older bundle.
    pub downgrade_token: Option<PathBuf>,
}

/// One of the three files, as messages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrustFile {
    /// The root.json.
    Root,
    /// The revocations.json.
    Revocations,
    /// The downgrade token.
    Downgrade,
}

impl std::fmt::Display for TrustFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            TrustFile::Root => "trust root",
            TrustFile::Revocations => "revocation list",
            TrustFile::Downgrade => "downgrade token",
        })
    }
}

/// Opens a trust root with what stands beside it.
///
/// # Errors
/// [`Error::OpenTrustFile`] when a file is not there, [`Error::TrustFile`] when it is refused, and what [`read`]
/// refuses.
pub fn open(root: &Path, supplements: &Supplements) -> Result<TrustRoot, Error> {
    supplement(pin(&read(root, TrustFile::Root)?, root)?, supplements)
}

/// As [`open`], unless it is the demo's root, which serves nothing else.  Also the bytes of the root, for whoever keeps
/// them.
///
/// # Errors
/// As [`open`], and [`Error::Configuration`] for the demo's root.
pub fn open_for_serving(path: &Path, supplements: &Supplements) -> Result<(TrustRoot, Vec<u8>), Error> {
    let bytes = read(path, TrustFile::Root)?;
    let root = pin(&bytes, path)?;
    if demo::shares_a_key_with(&root) {
        let digest = root.digest().to_string();
        return Err(ConfigErrors::from(ConfigError::DemoRoot { digest }).into());
    }
    Ok((supplement(root, supplements)?, bytes))
}

fn pin(bytes: &[u8], path: &Path) -> Result<TrustRoot, Error> {
    TrustRoot::pin(bytes).map_err(|source| refused(path, TrustFile::Root, source))
}

/// The list before the token, which a key that the list revokes may not sign.
fn supplement(root: TrustRoot, supplements: &Supplements) -> Result<TrustRoot, Error> {
    let mut root = root;
    if let Some(path) = &supplements.revocations {
        let bytes = read(path, TrustFile::Revocations)?;
        root = root.with_revocations(&bytes).map_err(|source| refused(path, TrustFile::Revocations, source))?;
    }
    if let Some(path) = &supplements.downgrade_token {
        let bytes = read(path, TrustFile::Downgrade)?;
        root = root.with_downgrade(&bytes).map_err(|source| refused(path, TrustFile::Downgrade, source))?;
    }
    Ok(root)
}

fn refused(path: &Path, what: TrustFile, source: BundleError) -> Error {
    Error::TrustFile { path: path.to_owned(), what, source: Box::new(source) }
}

/// The bytes of such a file, which only its owner may write.
///
/// # Errors
/// [`Error::OpenTrustFile`] when there is no such file, [`Error::WritableTrustFile`] and [`Error::KeyForTrustRoot`].
pub fn read(path: &Path, what: TrustFile) -> Result<Vec<u8>, Error> {
    let at = |source| Error::OpenTrustFile { path: path.to_owned(), what, source };
    let file = regular(without_waiting().open(path), || path.metadata()).map_err(at)?;
    let file = file.map_err(|found| at(io::Error::other(format!("it is {found}, not a file"))))?;
    if let Some(found) = permissions::writable_by_all(&file).map_err(at)? {
        return Err(Error::WritableTrustFile { path: path.to_owned(), what, found });
    }
    let mut bytes = Vec::new();
    // One byte more than a file may have, so that a longer one is refused and not cut.
    file.take(MAX_TRUST_ROOT_BYTES + 1).read_to_end(&mut bytes).map_err(at)?;
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(Error::KeyForTrustRoot { path: path.to_owned() });
    }
    Ok(bytes)
}

/// What an update has done.
#[derive(Debug)]
pub struct Updated {
    /// The version before.
    pub from: u64,
    /// The root that is pinned now.
    pub root: TrustRoot,
}

/// Takes the roots in `chain` one after the other and puts the last one in the place of the one at `path`, in one step.
///
/// # Errors
/// The first root that does not follow the one before it; then `path` is what it was.
pub fn update(path: &Path, chain: &[PathBuf]) -> Result<Updated, Error> {
    let at = |source| Error::ReplaceTrustRoot { path: path.to_owned(), source };
    let _lock = lock_folder_of(path).map_err(at)?;
    let mut root = pin(&read(path, TrustFile::Root)?, path)?;
    let from = root.version();
    let mut last = None;
    for next in chain {
        let bytes = read(next, TrustFile::Root)?;
        root = root.succeed(&bytes).map_err(|source| refused(next, TrustFile::Root, source))?;
        last = Some(bytes);
    }
    if let Some(bytes) = last {
        replace(path, &bytes).map_err(at)?;
    }
    Ok(Updated { from, root })
}
