//! API keys: who may call this appliance.
//!
//! The store is a small JSON Lines file, one key per line: its name, the SHA-256 of the key and when it was issued.  The
//! key itself is printed once, at `ampoule keys add`, and is never written down here: a copy of the file lets nobody in.
//! A key is 32 bytes from the system's generator, so a plain SHA-256 is enough; there is nothing to guess slowly.
//!
//! The server reads the file at start.  Adding or revoking a key takes effect at the next start.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ampoule_bundle::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::replace::{folder_of, lock_folder_of, replace};

/// What every key begins with, so that a leaked one is recognised by secret scanners.
pub const KEY_PREFIX: &str = "amp-";

/// The largest key file that is read, in bytes.  A line is about 150 bytes: room for thousands of keys.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The longest name of a key, in characters.  Names appear in logs, hence the small alphabet too.
const MAX_NAME_LENGTH: usize = 64;

/// Why the key store cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyStoreError {
    /// The name is already taken.
    #[error("a key named {name:?} exists already: revoke it first, or choose another name")]
    DuplicateName {
        /// The name that was asked for.
        name: String,
    },
    /// The file is larger than any honest key store.
    #[error("the key file {path} is {found} bytes long, more than the {limit} that are read")]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The file could not be read or written.
    #[error("cannot use the key file {path}: {source}; `ampoule keys add NAME --keys-file FILE` makes one")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder of the file cannot be used.
    #[error("cannot use the folder {path} for a key file: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the file is not an entry.
    #[error("the key file {path}, line {line}: {reason}")]
    MalformedLine {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A name outside the alphabet.
    #[error("{name:?} is no key name: use 1 to {MAX_NAME_LENGTH} of the characters A-Z a-z 0-9 . _ -")]
    MalformedName {
        /// The name that was asked for.
        name: String,
    },
    /// The system's random generator failed.
    #[error("the system's random number generator gave no bytes")]
    NoRandomness,
    /// There is no such key.
    #[error("there is no key named {name:?}")]
    UnknownName {
        /// The name that was asked for.
        name: String,
    },
    /// Somebody else than the owner may write the file, so anybody could have added a key.
    #[error("the key file {path} has mode {found:04o}: take away the write permission of group and others")]
    WritableByOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
    },
}

impl KeyStoreError {
    /// Whether the file as a whole cannot be used, rather than what was asked of it.
    pub fn is_unusable_file(&self) -> bool {
        match self {
            KeyStoreError::FileTooLarge { .. }
            | KeyStoreError::Io { .. }
            | KeyStoreError::Folder { .. }
            | KeyStoreError::MalformedLine { .. }
            | KeyStoreError::WritableByOthers { .. } => true,
            KeyStoreError::DuplicateName { .. }
            | KeyStoreError::MalformedName { .. }
            | KeyStoreError::NoRandomness
            | KeyStoreError::UnknownName { .. } => false,
        }
    }
}

/// Adds a key to the store at `path` (made if absent) and returns it: the only moment at which it exists in clear.
pub fn add(path: &Path, name: &str, now: jiff::Timestamp) -> Result<IssuedKey, KeyStoreError> {
    change(path, |store| store.issue(name, now))
}

/// The keys of the store at `path`, in the order in which they were issued.
pub fn list(path: &Path) -> Result<Vec<KeyEntry>, KeyStoreError> {
    KeyStore::load(path).map(|store| store.entries)
}

/// Removes the key named `name` from the store at `path`.
pub fn revoke(path: &Path, name: &str) -> Result<(), KeyStoreError> {
    // Without the file there is nobody to take a key from, and its name is probably wrong.
    KeyStore::load(path)?;
    change(path, |store| store.remove(name))
}

/// The hashes of the keys that are accepted.
#[derive(Debug, Clone, Default)]
pub struct KeyStore {
    entries: Vec<KeyEntry>,
}

impl KeyStore {
    /// Reads the store.  An absent file is an error here: a server whose keys went missing must not start.
    pub fn load(path: &Path) -> Result<KeyStore, KeyStoreError> {
        let at = |source| KeyStoreError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(at)?;
        let facts = file.metadata().map_err(at)?;
        if facts.is_dir() {
            return Err(at(io::ErrorKind::IsADirectory.into()));
        }
        if facts.mode() & 0o022 != 0 {
            return Err(KeyStoreError::WritableByOthers { path: path.to_owned(), found: facts.mode() & 0o7777 });
        }
        let mut text = String::new();
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(at)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(KeyStoreError::FileTooLarge {
                path: path.to_owned(),
                found: facts.len().max(text.len() as u64),
                limit: MAX_FILE_BYTES,
            });
        }
        KeyStore::parse(&text, path)
    }

    /// A store with one key that lives only as long as this process, for the loopback demo.
    pub fn for_this_run(name: &str, now: jiff::Timestamp) -> Result<(KeyStore, IssuedKey), KeyStoreError> {
        let mut store = KeyStore::default();
        let key = store.issue(name, now)?;
        Ok((store, key))
    }

    /// Who presents this key, if anybody, and the number of the entry, which is its own as long as this process lives.
    ///
    /// Every entry is compared, each in constant time over the hashes, so that the answer's timing tells neither
    /// which entry came close nor how many there are before it (THREATS C42).
    pub fn authenticate(&self, presented: &[u8]) -> Option<(u64, &KeyEntry)> {
        let hash = KeyHash::of(presented);
        let mut found = None;
        for (number, entry) in (0..).zip(&self.entries) {
            if entry.sha256.equals(&hash) {
                found = Some((number, entry));
            }
        }
        found
    }

    /// Whose keys there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.name.as_str())
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody can be let in.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn issue(&mut self, name: &str, now: jiff::Timestamp) -> Result<IssuedKey, KeyStoreError> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > MAX_NAME_LENGTH || !name.chars().all(is_word) {
            return Err(KeyStoreError::MalformedName { name: name.to_owned() });
        }
        if self.entries.iter().any(|entry| entry.name == name) {
            return Err(KeyStoreError::DuplicateName { name: name.to_owned() });
        }
        let key = IssuedKey::generate()?;
        let sha256 = KeyHash::of(key.reveal().as_bytes());
        self.entries.push(KeyEntry { name: name.to_owned(), sha256, created: Timestamp::new(now) });
        Ok(key)
    }

    fn remove(&mut self, name: &str) -> Result<(), KeyStoreError> {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.name != name);
        if self.entries.len() == before {
            return Err(KeyStoreError::UnknownName { name: name.to_owned() });
        }
        Ok(())
    }

    fn parse(text: &str, path: &Path) -> Result<KeyStore, KeyStoreError> {
        let mut store = KeyStore::default();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let malformed = |reason| KeyStoreError::MalformedLine { path: path.to_owned(), line: index + 1, reason };
            let entry: KeyEntry = serde_json::from_str(line).map_err(|error| malformed(error.to_string()))?;
            if store.entries.iter().any(|other| other.name == entry.name) {
                return Err(malformed(format!("the name {:?} stands here twice", entry.name)));
            }
            store.entries.push(entry);
        }
        Ok(store)
    }

    fn save(&self, path: &Path) -> io::Result<()> {
        let mut bytes = Vec::new();
        for entry in &self.entries {
            serde_json::to_writer(&mut bytes, entry)?;
            bytes.push(b'\n');
        }
        replace(path, &bytes)
    }
}

/// One accepted key, as it is stored: everything but the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with name, sha256 and created, as `ampoule keys add` writes it")]
pub struct KeyEntry {
    /// Whose key it is; the identity of quotas and logs.
    pub name: String,
    /// The SHA-256 of the whole key.
    pub sha256: KeyHash,
    /// When it was issued.
    pub created: Timestamp,
}

/// The SHA-256 of a key, written as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    fn of(key: &[u8]) -> KeyHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, key).as_ref());
        KeyHash(hash)
    }

    fn equals(&self, other: &KeyHash) -> bool {
        let difference = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        // Hidden from the optimiser, which could otherwise stop at the first difference.
        std::hint::black_box(difference) == 0
    }
}

impl TryFrom<String> for KeyHash {
    type Error = String;

    fn try_from(text: String) -> Result<KeyHash, String> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&text, &mut hash).map_err(|_| "sha256 must be 64 hexadecimal digits".to_owned())?;
        Ok(KeyHash(hash))
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> String {
        hex::encode(hash.0)
    }
}

/// A key in clear.  It prints as nothing but its prefix unless asked with [`IssuedKey::reveal`].
pub struct IssuedKey(String);

impl IssuedKey {
    /// The key itself, to be shown to its owner once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn generate() -> Result<IssuedKey, KeyStoreError> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| KeyStoreError::NoRandomness)?;
        Ok(IssuedKey(format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuedKey({KEY_PREFIX}…)")
    }
}

/// Reads the store, lets `act` change it and writes it back, while no other process does the same.
fn change<T>(path: &Path, act: impl FnOnce(&mut KeyStore) -> Result<T, KeyStoreError>) -> Result<T, KeyStoreError> {
    let at = |source| KeyStoreError::Io { path: path.to_owned(), source };
    let of_folder = |source| KeyStoreError::Folder { path: folder_of(path).to_owned(), source };
    let _lock = lock_folder_of(path).map_err(of_folder)?;
    let mut store = match KeyStore::load(path) {
        Err(KeyStoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => KeyStore::default(),
        other => other?,
    };
    let outcome = act(&mut store)?;
    store.save(path).map_err(at)?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn noon() -> jiff::Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_key_is_accepted_until_it_is_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        let alice = add(&path, "alice", noon()).unwrap();
        let bob = add(&path, "bob", noon()).unwrap();
        assert!(alice.reveal().starts_with(KEY_PREFIX));
        assert_ne!(alice.reveal(), bob.reveal());

        let store = KeyStore::load(&path).unwrap();
        assert_eq!(store.authenticate(alice.reveal().as_bytes()).unwrap().1.name, "alice");
        assert!(store.authenticate(&alice.reveal().as_bytes()[1..]).is_none());

        revoke(&path, "alice").unwrap();
        let store = KeyStore::load(&path).unwrap();
        assert!(store.authenticate(alice.reveal().as_bytes()).is_none());
        assert_eq!(store.authenticate(bob.reveal().as_bytes()).unwrap().1.name, "bob");
    }

    #[test]
    fn the_file_holds_no_key_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        let key = add(&path, "alice", noon()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(key.reveal()) && !text.contains(&key.reveal()[KEY_PREFIX.len()..]));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing staged is left behind");
        assert!(!format!("{key:?}").contains(&key.reveal()[KEY_PREFIX.len()..]));
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        add(&path, "alice", noon()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(KeyStore::load(&path), Err(KeyStoreError::WritableByOthers { found: 0o620, .. })));
    }

    #[test]
    fn who_may_read_the_file_stays_so_when_a_key_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        add(&path, "alice", noon()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        add(&path, "bob", noon()).unwrap();
        revoke(&path, "alice").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn names_are_unique_short_and_plain() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        add(&path, "alice", noon()).unwrap();
        assert!(matches!(add(&path, "alice", noon()), Err(KeyStoreError::DuplicateName { .. })));
        assert!(matches!(revoke(&path, "bob"), Err(KeyStoreError::UnknownName { .. })));
        for name in ["", "a b", "a\nb", "\u{202e}a", &"a".repeat(65)] {
            assert!(matches!(add(&path, name, noon()), Err(KeyStoreError::MalformedName { .. })), "{name:?}");
        }
        assert_eq!(list(&path).unwrap().len(), 1);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        add(&path, "alice", noon()).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        for bad in ["{}", "not json", r#"{"name":"a","sha256":"00","created":"2026-11-23T12:00:00Z"}"#, good.trim()] {
            fs::write(&path, format!("{good}{bad}\n")).unwrap();
            assert!(matches!(KeyStore::load(&path), Err(KeyStoreError::MalformedLine { line: 2, .. })), "{bad}");
        }
    }

    #[test]
    fn a_folder_is_no_key_file_and_one_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = KeyStore::load(folder.path()).unwrap_err().to_string();
        assert!(said.contains("is a directory") && !said.contains("permission"), "{said}");
        let missing = folder.path().join("missing/keys.jsonl");
        let said = add(&missing, "alice", noon()).unwrap_err().to_string();
        assert!(said.contains("/missing for a key file: No such file") && !said.contains("makes one"), "{said}");
    }
}
