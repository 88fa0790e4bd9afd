//! The file of the admin socket: who may connect to it is a matter of its permissions, so it comes into being with
//! them, in a folder where nobody else could put another one in its place.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::permissions;
use crate::replace::folder_of;

/// The owner may connect, nobody else.
const SOCKET_MODE: u32 = 0o600;
/// A folder into which nobody else can look.
const SCRATCH_MODE: u32 = 0o700;

/// Why there can be no admin socket at a path.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    /// Its folder cannot be used.
    #[error("cannot use {}, the folder of the admin socket: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Everybody could put another socket in its place.
    #[error(
        "the folder {} of the admin socket may be written by everybody (mode {found:o}): name a folder of its own, or \
         take that away with `chmod o-w`", path.display()
    )]
    WritableByAll {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        found: u32,
    },
    /// Something else has the path.
    #[error("{} is there and is no socket: name another path for the admin socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A server that runs has the path.
    #[error("a server listens on the admin socket {} already: stop it, or name another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot make the admin socket {}: {source}", path.display())]
    NotMade {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl AdminSocketError {
    /// Whether another configuration is what helps.
    pub fn is_configuration(&self) -> bool {
        use AdminSocketError::{Folder, NotASocket, WritableByAll};
        matches!(self, Folder { .. } | WritableByAll { .. } | NotASocket { .. })
    }
}

/// A socket that is listened on; its file goes with it.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that we made.
    made: (u64, u64),
}

impl AdminSocket {
    /// Whether a socket may be at `path`; that a server listens there already is no matter.
    ///
    /// # Errors
    /// What is wrong with the folder or the path.
    pub fn check(path: &Path) -> Result<(), AdminSocketError> {
        place(path).map(|_| ())
    }

    /// Makes the socket and listens on it.  The file that a dead server left is replaced.
    ///
    /// # Errors
    /// What is wrong with the folder or the path, or that a live server listens there.
    pub fn bind(path: &Path) -> Result<AdminSocket, AdminSocketError> {
        let Place { folder, is_taken } = place(path)?;
        let at = |source| AdminSocketError::NotMade { path: path.to_owned(), source };
        if is_taken {
            match UnixStream::connect(path) {
                Ok(_) => return Err(AdminSocketError::InUse { path: path.to_owned() }),
                // Nobody listens: a server that was killed left its file behind.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => {}
                Err(source) => return Err(at(source)),
            }
        }
        // It is made and gets its mode where nobody else can reach it, and only then its name.
        let scratch = folder.join(format!(".ampoule-{}", std::process::id()));
        DirBuilder::new().mode(SCRATCH_MODE).create(&scratch).map_err(at)?;
        let inside = scratch.join("s");
        let made = (|| {
            let listener = UnixListener::bind(&inside)?;
            listener.set_nonblocking(true)?;
            fs::set_permissions(&inside, Permissions::from_mode(SOCKET_MODE))?;
            let found = fs::symlink_metadata(&inside)?;
            fs::rename(&inside, path)?;
            Ok(AdminSocket { listener, path: path.to_owned(), made: (found.dev(), found.ino()) })
        })();
        // What is left of a failure is no more use, and neither is a reason to fail.
        let _ = fs::remove_file(&inside);
        let _ = fs::remove_dir(&scratch);
        made.map_err(at)
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that it is in.
    pub fn folder(&self) -> &Path {
        folder_of(&self.path)
    }

    /// The listener, for an async runtime.
    pub(crate) fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.made;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // If it cannot be removed, the next start finds that nobody listens.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where a socket may be.
struct Place {
    folder: PathBuf,
    /// Whether there is a socket of this name.
    is_taken: bool,
}

fn place(path: &Path) -> Result<Place, AdminSocketError> {
    let folder = folder_of(path).to_owned();
    let at = |source| AdminSocketError::Folder { path: folder.clone(), source };
    let opened = File::open(&folder).map_err(at)?;
    if !opened.metadata().map_err(at)?.is_dir() {
        return Err(at(ErrorKind::NotADirectory.into()));
    }
    if let Some(found) = permissions::writable_by_all(&opened).map_err(at)? {
        return Err(AdminSocketError::WritableByAll { path: folder, found });
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Place { folder, is_taken: false }),
        Err(source) => Err(AdminSocketError::NotMade { path: path.to_owned(), source }),
        Ok(found) if found.file_type().is_socket() => Ok(Place { folder, is_taken: true }),
        Ok(_) => Err(AdminSocketError::NotASocket { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_the_owner_may_connect_and_the_file_goes_with_the_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left in the folder");
        assert!(matches!(AdminSocket::bind(&path), Err(AdminSocketError::InUse { .. })));
        AdminSocket::check(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn the_file_of_a_dead_server_is_replaced_and_another_servers_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        // The standard library leaves the file behind, as a killed server does.
        drop(UnixListener::bind(&path).unwrap());
        let old = AdminSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let new = AdminSocket::bind(&path).unwrap();
        drop(old);
        assert!(path.exists(), "the file of another server was removed");
        drop(new);
    }

    #[test]
    fn what_others_could_exchange_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        fs::write(&path, "no socket").unwrap();
        assert!(matches!(AdminSocket::bind(&path), Err(AdminSocketError::NotASocket { .. })));
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        let refused = AdminSocket::bind(&path).unwrap_err();
        assert!(matches!(refused, AdminSocketError::WritableByAll { found: 0o1777, .. }), "{refused}");
        let missing = AdminSocket::check(&folder.path().join("none/admin.sock")).unwrap_err();
        assert!(matches!(missing, AdminSocketError::Folder { .. }) && missing.is_configuration(), "{missing}");
    }
}
