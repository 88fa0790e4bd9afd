//! The age identities that open an encrypted bundle: a few secrets in one piece of memory that is never swapped, never in
//! a dump, and wiped as soon as the bundle is open.
//!
//! They come from the file that `decryption_identity_file` names, or from the systemd credential `decryption-identity`.
//! Nothing of that file is ever anywhere but in this memory; only the cipher's own registers and stack see a secret.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use ampoule_bundle::age::{IdentityError, SECRET_BYTES, read_identities};
use ampoule_bundle::{VerifiedBundle, regular, without_waiting};
use memmap2::{Advice, MmapMut};
use zeroize::Zeroize;

use crate::error::Error;

/// The name of the systemd credential, for `LoadCredential=` and `LoadCredentialEncrypted=`.
pub const CREDENTIAL: &str = "decryption-identity";

/// The longest file of identities, in bytes: some dozens of them with their comments.
const FILE_LIMIT_BYTES: usize = 12 << 10;
/// The most identities that one file holds.
const MOST: usize = 64;

/// Why the decryption identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    /// The file cannot be read.
    #[error("cannot read the decryption identity {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is longer than any file of identities.
    #[error("the decryption identity {} has more than {FILE_LIMIT_BYTES} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Everybody on the machine may read or exchange the secret.
    #[error(
        "the decryption identity {} has mode {found:04o}: nobody but its owner and its group may read it; run `chmod 600` \
         on it (for a Kubernetes secret, `defaultMode: 0440`)",
        path.display()
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
    },
    /// The file holds something else than identities.
    #[error("the decryption identity {}: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
    /// The memory for the secrets cannot be kept from being swapped.
    #[error(
        "the memory for the decryption identity cannot be locked: {source}; allow at least 64 KiB (`ulimit -l 64`, \
         `LimitMEMLOCK=`)"
    )]
    Memory {
        /// What the system says.
        source: io::Error,
    },
}

/// The open file of identities. It is kept open where its secrets are not kept: a server opens nothing later.
#[derive(Debug)]
pub struct IdentityFile {
    path: PathBuf,
    file: File,
}

impl IdentityFile {
    /// Opens `file`, or the credential that systemd passed where no file is named; none where there is neither.
    ///
    /// # Errors
    /// [`IdentityFileError`].
    pub fn open(file: Option<&Path>) -> Result<Option<IdentityFile>, IdentityFileError> {
        let credential = || credential(&PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?));
        let Some(path) = file.map(Path::to_owned).or_else(credential) else { return Ok(None) };
        let unreadable = |source| IdentityFileError::Unreadable { path: path.clone(), source };
        let opened = regular(without_waiting().open(&path), || path.metadata()).map_err(unreadable)?;
        let file = opened.map_err(|found| unreadable(io::Error::other(format!("it is {found}, not a file"))))?;
        check_mode(&file, &path)?;
        Ok(Some(IdentityFile { path, file }))
    }
}

/// The secrets that were found; none where no identity is configured.
#[derive(Default)]
pub struct DecryptionIdentities {
    memory: Option<LockedMemory>,
    count: usize,
}

impl DecryptionIdentities {
    /// Reads the identities of `file`, or of the credential that systemd passed where no file is named.
    ///
    /// # Errors
    /// [`IdentityFileError`].
    pub fn read(file: Option<&Path>) -> Result<DecryptionIdentities, IdentityFileError> {
        DecryptionIdentities::of(IdentityFile::open(file)?.as_ref())
    }

    /// Reads the identities of a file that is open.
    ///
    /// # Errors
    /// [`IdentityFileError`].
    pub fn of(file: Option<&IdentityFile>) -> Result<DecryptionIdentities, IdentityFileError> {
        let Some(IdentityFile { path, file }) = file else { return Ok(DecryptionIdentities::default()) };
        let unreadable = |source| IdentityFileError::Unreadable { path: path.clone(), source };
        let mut memory = LockedMemory::new()?;
        let (text, secrets) = memory.parts();
        let length = fill(file, text).map_err(unreadable)?;
        let count = match text.get(..length) {
            Some(read) if length < text.len() => read_identities(read, secrets),
            _ => return Err(IdentityFileError::TooLarge { path: path.clone() }),
        };
        text.zeroize();
        let count = count.map_err(|source| IdentityFileError::Malformed { path: path.clone(), source })?;
        Ok(DecryptionIdentities { memory: Some(memory), count })
    }

    /// Opens a verified bundle with them. One that is not encrypted, or not to them, stays as it is for admission to judge.
    ///
    /// # Errors
    /// [`Error::Bundle`] when what is inside is not what was signed.
    pub fn unlock(&self, verified: VerifiedBundle, name: &str) -> Result<VerifiedBundle, Error> {
        let secrets = self.memory.as_ref().map_or(&[][..], |memory| &memory.secrets()[..self.count]);
        verified.unlock(secrets).map_err(|source| Error::Bundle { name: name.to_owned(), source: Box::new(source) })
    }
}

/// Shows no secret.
impl fmt::Debug for DecryptionIdentities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DecryptionIdentities").field("count", &self.count).finish_non_exhaustive()
    }
}

fn credential(folder: &Path) -> Option<PathBuf> {
    let path = folder.join(CREDENTIAL);
    path.exists().then_some(path)
}

fn check_mode(file: &File, path: &Path) -> Result<(), IdentityFileError> {
    /// The group may read it, because a service account often reaches it so; writing is the owner's alone.
    const FORBIDDEN: u32 = 0o027;
    let mode =
        file.metadata().map_err(|source| IdentityFileError::Unreadable { path: path.to_owned(), source })?.mode();
    if mode & FORBIDDEN == 0 {
        return Ok(());
    }
    Err(IdentityFileError::OpenToOthers { path: path.to_owned(), found: mode & 0o7777 })
}

/// Reads from the file's beginning as much as there is room for.
fn fill(file: &File, room: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < room.len() {
        match file.read_at(&mut room[length..], length as u64)? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}

/// Memory that stays in memory: room for the text of a file, and behind it for the secrets in it.
struct LockedMemory(MmapMut);

impl LockedMemory {
    fn new() -> Result<LockedMemory, IdentityFileError> {
        let failed = |source| IdentityFileError::Memory { source };
        let memory = MmapMut::map_anon(FILE_LIMIT_BYTES + MOST * SECRET_BYTES).map_err(failed)?;
        memory.lock().map_err(failed)?;
        memory.advise(Advice::DontDump).map_err(failed)?;
        Ok(LockedMemory(memory))
    }

    fn parts(&mut self) -> (&mut [u8], &mut [[u8; SECRET_BYTES]]) {
        let (text, secrets) = self.0.split_at_mut(FILE_LIMIT_BYTES);
        (text, secrets.as_chunks_mut().0)
    }

    fn secrets(&self) -> &[[u8; SECRET_BYTES]] {
        self.0[FILE_LIMIT_BYTES..].as_chunks().0
    }
}

impl Drop for LockedMemory {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const SECRET: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";

    #[test]
    fn a_file_of_identities_is_read_if_others_cannot_and_holds_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("identity");
        let read = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            DecryptionIdentities::read(Some(&path))
        };
        for mode in [0o600, 0o400, 0o440] {
            let identities = read(&format!("# mine\n{SECRET}\n"), mode).unwrap();
            assert_eq!(identities.memory.as_ref().unwrap().secrets()[..2], [[0x42; 32], [0; 32]]);
            assert_eq!(format!("{identities:?}"), "DecryptionIdentities { count: 1, .. }");
        }
        for mode in [0o604, 0o644, 0o620] {
            assert!(matches!(read(SECRET, mode), Err(IdentityFileError::OpenToOthers { .. })), "{mode:o}");
        }
        let malformed = read("AGE-SECRET-KEY-1NO", 0o600).unwrap_err();
        assert!(matches!(malformed, IdentityFileError::Malformed { .. }), "{malformed}");
        let long = read(&"#".repeat(FILE_LIMIT_BYTES), 0o600).unwrap_err();
        assert!(matches!(long, IdentityFileError::TooLarge { .. }), "{long}");
        let missing = DecryptionIdentities::read(Some(&folder.path().join("missing"))).unwrap_err();
        assert!(matches!(missing, IdentityFileError::Unreadable { .. }), "{missing}");
        let no_file = DecryptionIdentities::read(Some(folder.path())).unwrap_err();
        assert!(no_file.to_string().contains("a folder"), "{no_file}");
    }

    #[test]
    fn the_credential_of_systemd_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(credential(folder.path()), None);
        std::fs::write(folder.path().join("decryption-identity"), SECRET).unwrap();
        assert_eq!(credential(folder.path()), Some(folder.path().join("decryption-identity")));
    }
}
