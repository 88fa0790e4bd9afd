//! One opened folder.  Names in it are resolved from its handle and never followed through a link, so that what was
//! checked and what is used are the same place, whatever becomes of its path meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_bundle::{Digest, Source, regular};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, open, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::error::StoreError;

/// Never through a link, and waiting for nobody who might write into a pipe.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);
/// A new file that nobody had before.
const CREATE: OFlags =
    OFlags::RDWR.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::CREATE).union(OFlags::EXCL);
/// Folders of a store are its owner's to write and everybody's to read.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);

/// A folder, and the path that it had when it was opened, for messages.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    handle: OwnedFd,
}

impl Folder {
    /// Opens the folder that the operator names; links on the way to it are the operator's own.
    pub(super) fn open(path: &Path) -> io::Result<Folder> {
        let handle = open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Folder { path: path.to_owned(), handle })
    }

    /// Opens a folder in it.
    pub(super) fn sub(&self, name: &str) -> Result<Folder, StoreError> {
        let handle = openat(&self.handle, name, READ | OFlags::DIRECTORY, Mode::empty());
        Ok(Folder { path: self.path(name), handle: handle.map_err(|error| self.at(name, error))? })
    }

    /// Opens a folder in it, which is made if there is none.
    pub(super) fn sub_or_new(&self, name: &str) -> Result<Folder, StoreError> {
        match mkdirat(&self.handle, name, FOLDER_MODE) {
            Ok(()) => self.sync()?,
            Err(error) if error == Errno::EXIST => {}
            Err(error) => return Err(self.at(name, error)),
        }
        self.sub(name)
    }

    /// Opens a file in it for reading; `None` if there is none.
    pub(super) fn file(&self, name: &str) -> Result<Option<File>, StoreError> {
        let at = |source| StoreError::Io { path: self.path(name), source };
        let handle = match openat(&self.handle, name, READ, Mode::empty()) {
            Err(error) if error == Errno::NOENT => return Ok(None),
            handle => handle.map_err(|error| self.at(name, error))?,
        };
        let file = File::from(handle);
        let metadata = file.metadata().map_err(at)?;
        let file = regular(Ok(file), || Ok(metadata)).map_err(at)?;
        file.map(Some).map_err(|found| StoreError::Misplaced { path: self.path(name), found: found.to_string() })
    }

    /// Reads a file of it whole, which was opened before.
    pub(super) fn read(&self, name: &str, file: &File, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let read = file.take(limit_bytes + 1).read_to_end(&mut bytes);
        read.map_err(|source| StoreError::Io { path: self.path(name), source })?;
        if bytes.len() as u64 > limit_bytes {
            let source = io::Error::other(format!("it has more than {limit_bytes} bytes"));
            return Err(StoreError::Io { path: self.path(name), source });
        }
        Ok(bytes)
    }

    /// A new file in place of whatever an interrupted writer left there; the store's lock says that it is nobody else's.
    pub(super) fn begin(&self, name: &str, mode: u32) -> Result<File, StoreError> {
        self.remove(name)?;
        let created = openat(&self.handle, name, CREATE, Mode::from_raw_mode(mode));
        created.map(File::from).map_err(|error| self.at(name, error))
    }

    /// Gives a file its name in `target`, in one step.
    pub(super) fn rename(&self, name: &str, target: &Folder, new_name: &str) -> Result<(), StoreError> {
        renameat(&self.handle, name, &target.handle, new_name).map_err(|error| target.at(new_name, error))
    }

    /// Removes a file; `false` if there was none.
    pub(super) fn remove(&self, name: &str) -> Result<bool, StoreError> {
        match unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(error) if error == Errno::NOENT => Ok(false),
            Err(error) => Err(self.at(name, error)),
        }
    }

    /// The names in it, sorted.
    pub(super) fn names(&self) -> Result<Vec<String>, StoreError> {
        let at = |error| self.at("", error);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle).map_err(at)? {
            let name = entry.map_err(at)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Makes the names in it durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&self.handle).map_err(|error| self.at("", error))
    }

    /// The path of a name in it, for messages.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.path.clone() } else { self.path.join(name) }
    }

    fn at(&self, name: &str, error: Errno) -> StoreError {
        let path = self.path(name);
        match error {
            Errno::LOOP => StoreError::Misplaced { path, found: "a symbolic link".to_owned() },
            Errno::NOTDIR => StoreError::Misplaced { path, found: "no folder of its own".to_owned() },
            _ => StoreError::Io { path, source: error.into() },
        }
    }
}

/// `blobs/sha256` of a store or of any other OCI layout: files that are found by their digest and by nothing else, so that
/// no text of a bundle ever becomes a path.
#[derive(Debug)]
pub(super) struct Blobs(pub(super) Folder);

impl Blobs {
    /// Those of the layout in `folder`.
    pub(super) fn of(folder: &Folder) -> Result<Blobs, StoreError> {
        Ok(Blobs(folder.sub("blobs")?.sub("sha256")?))
    }

    /// The same, made if there are none.
    pub(super) fn of_or_new(folder: &Folder) -> Result<Blobs, StoreError> {
        Ok(Blobs(folder.sub_or_new("blobs")?.sub_or_new("sha256")?))
    }

    /// Opens a blob, whose content is still to be held against its name.
    pub(super) fn open(&self, digest: Digest) -> Result<Arc<dyn Source>, StoreError> {
        match self.0.file(&digest.to_hex())? {
            Some(file) => Ok(Arc::new(file)),
            None => Err(StoreError::BlobMissing { path: self.0.path(&digest.to_hex()) }),
        }
    }
}
