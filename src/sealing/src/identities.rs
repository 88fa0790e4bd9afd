//! The age identities that open a bundle which is to be rewrapped: read from a file, wiped when they are dropped.

use std::fmt;
use std::path::Path;

use ampoule_bundle::age::{SECRET_BYTES, read_identities};
use zeroize::Zeroizing;

use crate::error::SealingError;
use crate::files;
use crate::password::warn_if_readable_by_all;

/// A line is 74 characters; comments take some more.
const FILE_LIMIT_BYTES: u64 = 16 << 10;
/// More than anybody has.
const MOST: usize = 32;

/// Secrets of identities.
pub struct Identities {
    secrets: Zeroizing<[[u8; SECRET_BYTES]; MOST]>,
    count: usize,
}

impl Identities {
    /// Reads a file as `age-keygen` writes it.
    ///
    /// # Errors
    /// When it cannot be read, or holds anything but identities and comments.
    pub fn read(path: &Path) -> Result<Identities, SealingError> {
        warn_if_readable_by_all(path);
        let text = Zeroizing::new(files::read_capped(path, FILE_LIMIT_BYTES)?);
        let mut secrets = Zeroizing::new([[0; SECRET_BYTES]; MOST]);
        let count = read_identities(&text, secrets.as_mut_slice());
        let count = count.map_err(|source| SealingError::NotAnIdentityFile { path: path.to_owned(), source })?;
        Ok(Identities { secrets, count })
    }

    /// All that were read.
    pub fn secrets(&self) -> &[[u8; SECRET_BYTES]] {
        &self.secrets[..self.count]
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Identities(hidden)")
    }
}
