//! What leaves a store: the bundle's one file, the OCI layout that skopeo carries with its attestations, or the plain
//! model folder that OpenSSF's client checks.  Signatures are verified before the first byte is written, and each file is
//! held against its digest while it is.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ampoule_bundle::BundleError;
use ampoule_bundle::archive::PlacedFile;

use super::catalogue::{Record, Wanted};
use super::error::StoreError;
use super::{OpenWith, Store, steps};
use crate::error::Error;
use crate::progress::Progress;

/// Where and in which form a bundle leaves the store.
#[derive(Debug, Clone)]
pub enum Destination {
    /// One `.bundle` file.
    File(PathBuf),
    /// A folder with an OCI image layout.
    Layout(PathBuf),
    /// A folder with the model's files and `model.sig`.
    Model(PathBuf),
}

/// Writes a bundle of the store to where nothing is yet.  It appears there whole or not at all.
///
/// # Errors
/// Whatever a bundle can be refused for, or [`Error::Store`].
pub fn export(
    wanted: &Wanted,
    folder: &Path,
    with: &OpenWith,
    destination: &Destination,
) -> Result<(Store, Record), Error> {
    let store = Store::open(folder)?;
    let record = store.find(wanted)?.clone();
    let verified = steps::verify_again(&store, &record, &steps::root_for(&store, &record, with)?)?;
    // Opened anew, and all that is written is held against the manifest that was verified: the catalogue names both.
    let sealed = store.open_bundle(&record)?;
    let export = Export { name: store.describe(&record), progress: Progress::start("Exporting", record.bytes) };
    match destination {
        Destination::File(path) => export.place(path, |partial| export.file(partial, |out| sealed.copy_to(out))),
        Destination::Layout(path) => export.place(path, |partial| export.folder(partial, &sealed.layout_files())),
        Destination::Model(path) => {
            let files = sealed.model_files(verified.model_signature());
            export.place(path, |partial| export.folder(partial, &files))
        }
    }?;
    Ok((store, record))
}

struct Export {
    name: String,
    progress: Progress,
}

impl Export {
    /// Writes under another name and gives what was written its own in the end.
    fn place(&self, path: &Path, write: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
        if path.symlink_metadata().is_ok() {
            return Err(StoreError::AlreadyThere { path: path.to_owned() }.into());
        }
        let mut partial = OsString::from(path.as_os_str());
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let written = write(&partial).and_then(|()| fs::rename(&partial, path).map_err(|source| at(path, source)));
        if !matches!(written, Ok(()) | Err(Error::Store(StoreError::AlreadyThere { .. }))) {
            // The error that is told is the one that stopped the export; a leftover is only untidy.
            let _ = fs::remove_file(&partial).or_else(|_| fs::remove_dir_all(&partial));
        }
        written
    }

    fn folder(&self, folder: &Path, files: &[PlacedFile<'_>]) -> Result<(), Error> {
        // Not with its parents: what an interrupted export left there would be exported too.
        fs::create_dir(folder).map_err(|source| new(folder, source))?;
        for file in files {
            // Relative and without `..`, so this stays below the folder.
            let path = folder.join(&*file.path);
            let parent = path.parent().unwrap_or(folder);
            DirBuilder::new().recursive(true).create(parent).map_err(|source| at(parent, source))?;
            self.file(&path, |out| file.copy_to(out))?;
        }
        Ok(())
    }

    fn file(&self, path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), BundleError>) -> Result<(), Error> {
        let file = File::create_new(path).map_err(|source| new(path, source))?;
        let mut out = Counting { out: BufWriter::with_capacity(1 << 20, file), progress: &self.progress };
        write(&mut out).map_err(|error| match error {
            BundleError::Write { source } => at(path, source),
            defect => Error::Bundle { name: self.name.clone(), source: Box::new(defect) }.in_store(),
        })?;
        let file = out.out.into_inner().map_err(|error| at(path, error.into_error()))?;
        file.sync_all().map_err(|source| at(path, source))
    }
}

/// Writes, and tells how much.
struct Counting<'a> {
    out: BufWriter<File>,
    progress: &'a Progress,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.progress.advance(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn at(path: &Path, source: io::Error) -> Error {
    StoreError::Export { path: path.to_owned(), source }.into()
}

/// What an interrupted export left is named and not taken for our own.
fn new(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::AlreadyExists => StoreError::AlreadyThere { path: path.to_owned() }.into(),
        _ => at(path, source),
    }
}
