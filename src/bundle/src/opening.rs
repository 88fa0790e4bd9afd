//! How a file that somebody named is to be opened, and what was opened if it is none. Where a bundle is wanted, a pipe may
//! be named, and opening it would wait for whoever writes to it; a device may have no end. Who opens is the caller.

use std::fmt;
use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

/// Linux's `O_NONBLOCK`: opening a pipe would wait for a writer, and hold a thread for as long.
const DO_NOT_WAIT: i32 = 0o4000;

/// What a name may lead to instead of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAFile {
    /// A folder.
    Folder,
    /// A pipe.
    Pipe,
    /// A socket.
    Socket,
    /// A device.
    Device,
}

impl NotAFile {
    fn of(found: FileType) -> Option<Self> {
        match found {
            _ if found.is_file() => None,
            _ if found.is_dir() => Some(NotAFile::Folder),
            _ if found.is_fifo() => Some(NotAFile::Pipe),
            _ if found.is_socket() => Some(NotAFile::Socket),
            _ => Some(NotAFile::Device),
        }
    }
}

/// As part of a sentence.
impl fmt::Display for NotAFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            NotAFile::Folder => "a folder",
            NotAFile::Pipe => "a pipe",
            NotAFile::Socket => "a socket",
            NotAFile::Device => "a device",
        })
    }
}

/// Opens for reading, and waits for nobody.
#[must_use]
pub fn without_waiting() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(DO_NOT_WAIT);
    options
}

/// A file that was opened so, if it is one. `Ok(Err(_))` is what was opened instead; nothing was read from it. A socket
/// cannot be opened at all, so of what could not be, `by_name` tells what it is.
///
/// # Errors
/// What the system said.
pub fn regular(
    opened: io::Result<File>,
    by_name: impl FnOnce() -> io::Result<Metadata>,
) -> io::Result<Result<File, NotAFile>> {
    let found = opened.as_ref().map_or_else(|_| by_name(), File::metadata);
    match found.ok().and_then(|found| NotAFile::of(found.file_type())) {
        Some(other) => Ok(Err(other)),
        None => opened.map(Ok),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_no_file_is_named_and_waited_for_by_nobody() {
        let open = |path: &Path| regular(without_waiting().open(path), || path.metadata());
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        // Nobody writes into this pipe, so whoever opened it without care would wait.
        assert!(Command::new("mkfifo").arg(path("pipe")).status().expect("mkfifo").success());
        let _listener = UnixListener::bind(path("socket")).expect("a socket");
        std::fs::write(path("file"), "content").expect("a file");
        for (path, expected, words) in [
            (path("pipe"), NotAFile::Pipe, "a pipe"),
            (path("socket"), NotAFile::Socket, "a socket"),
            (path("."), NotAFile::Folder, "a folder"),
            ("/dev/zero".into(), NotAFile::Device, "a device"),
        ] {
            let found = open(&path).expect("it is there").expect_err(words);
            assert_eq!((found, found.to_string().as_str()), (expected, words), "{}", path.display());
        }
        let file = open(&path("file")).expect("it is there").expect("a file");
        assert_eq!(io::read_to_string(file).expect("text"), "content");
        assert_eq!(open(&path("missing")).expect_err("missing").kind(), io::ErrorKind::NotFound);
    }
}
