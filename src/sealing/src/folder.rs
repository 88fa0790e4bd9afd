//! A folder that is held open, and what lies below it, opened from there: a path that is changed between two looks at it
//! leads to another file below the same folder, or to an error, and never out of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

/// What an entry of a folder is, links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    Link,
    /// A pipe, a socket or a device.
    Special,
}

/// An open folder.
#[derive(Clone, Debug)]
pub(crate) struct Folder(Arc<OwnedFd>);

impl Folder {
    /// Opens `path`, whose links are followed: this is the folder that somebody named.
    pub(crate) fn open(path: &Path) -> io::Result<Folder> {
        Ok(Folder(Arc::new(openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)))
    }

    /// The folder `relative` below this one, reached without any link.
    pub(crate) fn below(&self, relative: &Path) -> io::Result<Folder> {
        let mut folder = self.clone();
        for name in names(relative)? {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            folder = Folder(Arc::new(openat(&folder.0, name, flags, Mode::empty())?));
        }
        Ok(folder)
    }

    /// The names in this folder, each with what it is.
    pub(crate) fn entries(&self) -> io::Result<Vec<(OsString, Kind)>> {
        let mut entries = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.kind(Path::new(name))?,
                known => kind_of(known),
            };
            entries.push((name.to_owned(), kind));
        }
        entries.sort_by(|left, right| left.0.cmp(&right.0));
        Ok(entries)
    }

    /// What the entry `relative` is, reached without any link.
    pub(crate) fn kind(&self, relative: &Path) -> io::Result<Kind> {
        let (folder, name) = self.parent_of(relative)?;
        let found = statat(&folder.0, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(kind_of(FileType::from_raw_mode(found.st_mode)))
    }

    /// What the entry `relative` is once all links are followed, wherever they lead, and its length.
    pub(crate) fn followed(&self, relative: &Path) -> io::Result<(Kind, u64)> {
        names(relative)?;
        let found = statat(&self.0, relative, AtFlags::empty())?;
        Ok((kind_of(FileType::from_raw_mode(found.st_mode)), u64::try_from(found.st_size).unwrap_or(0)))
    }

    /// Opens the regular file `relative` for reading, reached without any link.
    ///
    /// # Errors
    /// What the system said; a link and anything else that is no regular file are errors too.
    pub(crate) fn open_file(&self, relative: &Path) -> io::Result<File> {
        let (folder, name) = self.parent_of(relative)?;
        regular(openat(&folder.0, name, READ | OFlags::NOFOLLOW, Mode::empty())?.into())
    }

    /// Opens the regular file `relative` for reading and follows links, wherever they lead.
    ///
    /// # Errors
    /// As [`Folder::open_file`], but for links.
    pub(crate) fn open_followed(&self, relative: &Path) -> io::Result<File> {
        names(relative)?;
        regular(openat(&self.0, relative, READ, Mode::empty())?.into())
    }

    fn parent_of<'a>(&self, relative: &'a Path) -> io::Result<(Folder, &'a OsStr)> {
        let name = relative.file_name().ok_or_else(not_below)?;
        Ok((self.below(relative.parent().unwrap_or(Path::new("")))?, name))
    }
}

/// Opening a pipe would wait for a writer, and a terminal could become ours.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Judges what was opened, and not the name that it had a moment ago.
fn regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

fn names(relative: &Path) -> io::Result<Vec<&OsStr>> {
    let name = |component| match component {
        Component::Normal(name) => Ok(name),
        _ => Err(not_below()),
    };
    relative.components().map(name).collect()
}

fn not_below() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the path is absolute, empty or has `..` in it")
}

fn kind_of(found: FileType) -> Kind {
    match found {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => Kind::Special,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn c19_what_became_a_link_is_not_followed_and_a_renamed_folder_stays_the_one_that_was_opened() {
        let place = tempfile::tempdir().unwrap();
        let (inside, outside) = (place.path().join("inside"), place.path().join("outside"));
        for folder in [&inside, &outside] {
            fs::create_dir_all(folder.join("deep")).unwrap();
            fs::write(folder.join("deep/file"), folder.file_name().unwrap().as_bytes()).unwrap();
        }
        let opened = Folder::open(&inside).unwrap();
        let read = |path: &str| opened.open_file(Path::new(path)).and_then(io::read_to_string);
        assert_eq!(read("deep/file").unwrap(), "inside");

        // A folder on the way becomes a link, then the file itself.
        fs::rename(inside.join("deep"), inside.join("other")).unwrap();
        symlink("../outside/deep", inside.join("deep")).unwrap();
        assert!(read("deep/file").is_err());
        symlink("../../outside/deep/file", inside.join("other/link")).unwrap();
        assert!(read("other/link").is_err());
        assert_eq!(opened.kind(Path::new("other/link")).unwrap(), Kind::Link);

        // The whole folder is replaced: what is read is what was opened.
        fs::rename(&inside, place.path().join("moved")).unwrap();
        symlink("outside", &inside).unwrap();
        assert_eq!(read("other/file").unwrap(), "inside");
    }

    #[test]
    fn c01_no_path_leads_out_and_what_is_no_file_is_not_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::write(place.path().join("secret"), "secret").unwrap();
        assert!(Command::new("mkfifo").arg(folder.join("pipe")).status().unwrap().success());
        let opened = Folder::open(&folder).unwrap();
        for path in ["../secret", "/etc/passwd", "", ".", "..", "a/../../secret", "pipe"] {
            assert!(opened.open_file(Path::new(path)).is_err(), "{path}");
            assert!(opened.open_followed(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(opened.entries().unwrap(), [(OsString::from("pipe"), Kind::Special)]);
    }
}
