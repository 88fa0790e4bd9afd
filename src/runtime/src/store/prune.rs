//! What `ampoule prune` takes away: bundles that nobody will go back to, then what no bundle of the catalogue needs.
//!
//! The catalogue forgets a bundle before its blobs go, so whatever interrupts it, no bundle that is listed lacks one; the
//! next prune takes what this one left.

use std::collections::BTreeSet;
use std::path::Path;

use ampoule_bundle::Digest;

use super::catalogue::Record;
use super::error::StoreError;
use super::folder::{Blobs, Folder};
use super::writer::StoreWriter;
use super::{CATALOGUE_FILE, ROOTS, Store, root_name};
use crate::error::Error;

/// What was taken away, or would be.
#[derive(Debug)]
pub struct Pruned {
    /// The bundles.
    pub bundles: Vec<Record>,
    /// The names of blobs, trust roots and of what interrupted writers left.
    pub files: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

/// Takes away all bundles that are neither active nor previous but for the `keep` of them that were imported last, and
/// every file that no bundle needs.  With `dry_run` it only says what it would take.
///
/// # Errors
/// [`StoreError`], and the refusal of a bundle that is to be kept and whose manifest cannot be read: what it needs is not
/// known then.
pub fn prune(folder: &Path, keep: usize, dry_run: bool) -> Result<Pruned, Error> {
    let mut writer = StoreWriter::open(folder)?;
    let before = writer.store().clone();
    let next = before.catalogue().pruned(keep);
    let needed = Needed::by(&before, next.iter().map(|(record, _)| record))?;
    let is_gone = |record: &&Record| !next.iter().any(|(kept, _)| kept.content == record.content);
    let bundles = before.catalogue().iter().map(|(record, _)| record).filter(is_gone).cloned().collect();
    if !dry_run {
        writer.save(next)?;
    }
    let mut pruned = Pruned { bundles, files: Vec::new(), bytes: 0 };
    let blobs = Blobs::of(&before.folder)?;
    let roots = before.folder.sub(ROOTS)?;
    pruned.sweep(&blobs.0, dry_run, |name| !needed.blobs.contains(name))?;
    pruned.sweep(&roots, dry_run, |name| !needed.roots.contains(name))?;
    let catalogue = Path::new(CATALOGUE_FILE).with_extension("partial");
    pruned.sweep(&before.folder, dry_run, |name| Path::new(name) == catalogue || name == super::writer::INCOMING)?;
    Ok(pruned)
}

impl Pruned {
    /// Removes the files of a folder that are not needed.
    fn sweep(&mut self, folder: &Folder, dry_run: bool, is_waste: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        let waste: Vec<String> = folder.names()?.into_iter().filter(|name| is_waste(name)).collect();
        for name in &waste {
            // What is no file counts no bytes; removing it is refused below, by its name.
            let facts = folder.file(name).ok().flatten().and_then(|file| file.metadata().ok());
            self.bytes += facts.map_or(0, |facts| facts.len());
            if !dry_run {
                folder.remove(name)?;
            }
        }
        if !dry_run && !waste.is_empty() {
            folder.sync()?;
        }
        self.files.extend(waste);
        Ok(())
    }
}

/// The names of the files that some bundles need.
struct Needed {
    blobs: BTreeSet<String>,
    roots: BTreeSet<String>,
}

impl Needed {
    fn by<'a>(store: &Store, records: impl Iterator<Item = &'a Record>) -> Result<Needed, Error> {
        let mut needed = Needed { blobs: BTreeSet::new(), roots: BTreeSet::new() };
        for record in records {
            let parts = store.open_bundle(record)?.unverified_parts();
            let layers = parts.manifest.layers().iter().map(|layer| layer.digest);
            let small = [record.manifest, parts.manifest.config_digest()].into_iter();
            let blobs = small.chain(record.attestations.iter().copied()).chain(layers);
            needed.blobs.extend(blobs.map(|digest: Digest| digest.to_hex()));
            needed.roots.insert(root_name(record.trust_root));
        }
        Ok(needed)
    }
}
