//! Puts a new content in the place of a small file that a site keeps, such as its trust root or its keys.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::time::{Duration, Instant};

/// A change takes some milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Replaces the file in one step: a reader sees the old content or the new one, also after a power cut.  The new file has
/// the old one's permissions and owner, because who may read it was decided when it was made; one that was not there is
/// its owner's alone.  A link stays a link: what it leads to is replaced.
///
/// # Errors
/// Whatever the system reports; then the file is what it was.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (path, before) = match fs::canonicalize(path) {
        Ok(path) => (path.clone(), Some(fs::metadata(&path)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (path.to_owned(), None),
        Err(error) => return Err(error),
    };
    let staged = path.with_extension(format!("staged-{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        file.write_all(bytes)?;
        if let Some(before) = &before {
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (before.uid(), before.gid()) {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
        }
        file.sync_all()?;
        fs::rename(&staged, &path)?;
        File::open(folder_of(&path))?.sync_all()
    };
    write().inspect_err(|_| {
        // The staged file may not exist; the first error is the one to tell.
        let _ = fs::remove_file(&staged);
    })
}

/// Locks the folder of a file that is to be replaced: a lock on the file itself would go with it.  Everybody who may read
/// the folder may lock it, so nobody is waited for long.
///
/// # Errors
/// Whatever the system reports, and that somebody else holds the lock.
pub(crate) fn lock_folder_of(path: &Path) -> io::Result<File> {
    let folder = File::open(folder_of(path))?;
    let begun = Instant::now();
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(folder),
            Err(TryLockError::Error(source)) => return Err(source),
            Err(TryLockError::WouldBlock) if begun.elapsed() > LOCK_PATIENCE => {
                return Err(io::Error::other("somebody else holds a lock on its folder"));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
