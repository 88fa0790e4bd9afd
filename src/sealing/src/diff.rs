//! Makes a thin bundle: what a new bundle has and an older one lacks, for a site that holds the older one.
//!
//! Nothing is signed for it: its statements are those of the new bundle, and the site verifies what it completes to.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use ampoule_bundle::archive::{ThinBundle, write_thin};
use ampoule_bundle::{BundleError, Digest};

use crate::error::SealingError;
use crate::files;
use crate::progress::Progress;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The manifest digest of the bundle that the thin one completes to.
    pub manifest: Digest,
    /// The manifest digest of the bundle that it needs.
    pub base: Digest,
    /// The bytes of layers that it carries.
    pub carried_bytes: u64,
    /// The bytes of layers that the site has already.
    pub spared_bytes: u64,
}

/// Writes to `out` the thin bundle that makes the bundle at `new` from the one at `old`.  An existing file is not replaced.
///
/// # Errors
/// `AlreadyExists`, `NothingNew`, and what opening the two refuses. Their signatures are not verified.
pub fn diff(old: &Path, new: &Path, out: &Path) -> Result<Difference, SealingError> {
    if out.exists() {
        return Err(SealingError::AlreadyExists { path: out.to_owned() });
    }
    let (held, wanted) = (old, new);
    let (old, new) = (files::open_bundle(old)?, files::open_bundle(new)?);
    if old.content_digest() == new.content_digest() {
        return Err(SealingError::NothingNew { old: held.to_owned(), new: wanted.to_owned() });
    }
    let manifest = new.unverified_manifest();
    let mut total_bytes = 0;
    let mut seen = BTreeSet::new();
    for layer in manifest.layers() {
        total_bytes += if seen.insert(layer.digest) { layer.size } else { 0 };
    }
    let progress = Progress::of_bytes(total_bytes, "writing");
    let mut carried_bytes = 0;
    let write = |writer: &mut BufWriter<File>| {
        let written = write_thin(&old, &new, &mut progress.counting(writer));
        carried_bytes = written.map_err(|error| SealingError::while_writing(out, error))?;
        Ok(())
    };
    files::write_checked(out, write, |file| {
        // Nothing leaves the house that cannot be read again.
        let thin = ThinBundle::open(file)?;
        let (found, expected) = (thin.parts().manifest.digest(), manifest.digest());
        if found != expected {
            return Err(
                BundleError::DigestMismatch { what: "the thin bundle's manifest".to_owned(), found, expected }.into()
            );
        }
        Ok(())
    })?;
    Ok(Difference {
        manifest: manifest.digest(),
        base: old.unverified_manifest().digest(),
        carried_bytes,
        spared_bytes: total_bytes - carried_bytes,
    })
}
