//! The password of a key: from a file or typed in, never from an argument, where every user of the machine could read it.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::error::SealingError;
use crate::files;

/// Far beyond any password; a larger file was named by mistake.
const PASSWORD_FILE_LIMIT_BYTES: u64 = 4096;

/// A password, wiped from memory when dropped and never printed.
pub struct Password(Zeroizing<Vec<u8>>);

/// Whether a typed password is asked for once (to open a key) or twice (to make one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Opening: a typing error shows at once.
    Once,
    /// Making: a typing error would lock the key for good.
    Twice,
}

impl Password {
    /// Takes the password from `file` if one is named, and from the terminal otherwise.
    pub fn obtain(file: Option<&Path>, prompt: Prompt) -> Result<Password, SealingError> {
        match file {
            Some(path) => {
                warn_if_readable_by_all(path);
                Password::from_file(path)
            }
            None => Password::from_terminal(prompt),
        }
    }

    /// Reads the password from a file; one line end after it does not belong to it.
    pub fn from_file(path: &Path) -> Result<Password, SealingError> {
        let mut bytes = Zeroizing::new(files::read_capped(path, PASSWORD_FILE_LIMIT_BYTES)?);
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Password::checked(bytes)
    }

    fn from_terminal(prompt: Prompt) -> Result<Password, SealingError> {
        let ask = |text: &str| rpassword::prompt_password(text).map(Zeroizing::new).map_err(SealingError::NoTerminal);
        let typed = ask("Password of the key: ")?;
        if prompt == Prompt::Twice && *ask("The same again: ")? != *typed {
            return Err(SealingError::PasswordsDiffer);
        }
        Password::checked(Zeroizing::new(typed.as_bytes().to_vec()))
    }

    fn checked(bytes: Zeroizing<Vec<u8>>) -> Result<Password, SealingError> {
        if bytes.is_empty() {
            return Err(SealingError::EmptyPassword);
        }
        Ok(Password(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A warning and no refusal, because test keys lie in checkouts, where every file may be read by all.
pub(crate) fn warn_if_readable_by_all(path: &Path) {
    const READABLE_BY_OTHERS: u32 = 0o004;
    // A file that cannot be examined cannot be read either, and reading it says so.
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.permissions().mode() & READABLE_BY_OTHERS != 0
    {
        let name = path.display();
        eprintln!("warning: every user of this machine may read the secret in {name}: run `chmod 600 {name}`");
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Password {
        Password(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Password(hidden)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_line_end_after_the_password_is_dropped_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        for (written, expected) in
            [("secret", "secret"), ("secret\n", "secret"), ("secret\r\n", "secret"), (" a b \n\n", " a b \n")]
        {
            std::fs::write(&path, written).unwrap();
            assert_eq!(Password::from_file(&path).unwrap().as_bytes(), expected.as_bytes());
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Password::from_file(&path), Err(SealingError::EmptyPassword)));
    }

    #[test]
    fn a_password_is_never_printed() {
        assert_eq!(format!("{:?}", Password::from("secret")), "Password(hidden)");
    }
}
