//! The release that this binary was installed from: its folder is walked and every file is held against the signed list
//! that lies at its top.
//!
//! No link is followed, a folder that belongs to no listed file is named and not entered, and a file that is not listed
//! or of another length is not read: what somebody put there costs nothing but its line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ampoule_bundle::release::{
    Difference, Found, MAX_RELEASE_BYTES, MAX_SIGNATURE_BYTES, RELEASE_FILE, RELEASE_SIGNATURE_FILE, VENDOR_KEY_FILE,
};
use ampoule_bundle::{BundleError, Hasher, KeyId, PublicKey, ReleaseManifest};

/// Longest public key file: one of P-256 has 178 bytes.
const MAX_KEY_BYTES: u64 = 4 << 10;

/// Why an installation is not the release that its vendor signed.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The binary does not lie in the folder of a release.
    #[error(
        "{} is not the folder of a release: it has no {RELEASE_FILE}; name the folder with --root, as in \
         --root /usr/local/lib/ampoule/current",
        root.display()
    )]
    NoRelease {
        /// Where it was looked for.
        root: PathBuf,
    },
    /// The system does not say where this binary lies.
    #[error("cannot find out where this binary lies ({source}): name the folder of its release with --root")]
    NoPlace {
        /// What the system says.
        source: io::Error,
    },
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is longer than what stands there can be.
    #[error("{} is longer than {limit} bytes, so it is not what its name says", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The cap.
        limit: u64,
    },
    /// The public key is not the one whose fingerprint was told.
    #[error(
        "the release's public key has the fingerprint {found}, which is not {expected}: this is another vendor's \
         release, or a forged one"
    )]
    OtherKey {
        /// The fingerprint of the key.
        found: KeyId,
        /// The one given.
        expected: KeyId,
    },
    /// The key, the signature or the list is refused.
    #[error("the release in {} is refused: {source}", root.display())]
    Refused {
        /// The release's folder.
        root: PathBuf,
        /// The defect.
        source: Box<BundleError>,
    },
    /// Files differ from the signed list.
    #[error("{} is not the release that was signed:{}", root.display(), listed(differences))]
    Differs {
        /// The release's folder.
        root: PathBuf,
        /// Every difference.
        differences: Vec<Difference>,
    },
}

/// A release whose every file is what its vendor signed.
#[derive(Debug)]
pub struct VerifiedRelease {
    /// Where it lies.
    pub root: PathBuf,
    /// The signed list.
    pub manifest: ReleaseManifest,
    /// The fingerprint of the key that signed.
    pub signer: KeyId,
}

/// The folder of the release that the running binary belongs to: the one above its `bin`.
///
/// # Errors
/// [`InstallationError::NoPlace`].
pub fn own_root() -> Result<PathBuf, InstallationError> {
    let binary = std::env::current_exe().map_err(|source| InstallationError::NoPlace { source })?;
    Ok(binary.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned())
}

/// Holds the release in `root` against its signed list: first the key, then the signature, then every file.
///
/// # Errors
/// The first of these that is not as it must be; of files, all.
pub fn verify(
    root: &Path,
    public_key: Option<&Path>,
    fingerprint: Option<KeyId>,
) -> Result<VerifiedRelease, InstallationError> {
    let refused = |source| InstallationError::Refused { root: root.to_owned(), source: Box::new(source) };
    let list = root.join(RELEASE_FILE);
    if !list.is_file() {
        return Err(InstallationError::NoRelease { root: root.to_owned() });
    }
    let key_file = public_key.map_or_else(|| root.join(VENDOR_KEY_FILE), Path::to_owned);
    let pem = String::from_utf8_lossy(&read_capped(&key_file, MAX_KEY_BYTES)?).into_owned();
    let key = PublicKey::from_pem(&pem).map_err(refused)?;
    if let Some(expected) = fingerprint.filter(|expected| *expected != key.id()) {
        return Err(InstallationError::OtherKey { found: key.id(), expected });
    }
    let signature = read_capped(&root.join(RELEASE_SIGNATURE_FILE), MAX_SIGNATURE_BYTES)?;
    let manifest =
        ReleaseManifest::verify(&read_capped(&list, MAX_RELEASE_BYTES)?, &signature, &key).map_err(refused)?;

    let mut found = BTreeMap::new();
    walk(root, "", &manifest, &mut found)?;
    let differences = manifest.compare(&found);
    if !differences.is_empty() {
        return Err(InstallationError::Differs { root: root.to_owned(), differences });
    }
    Ok(VerifiedRelease { root: root.to_owned(), manifest, signer: key.id() })
}

/// Adds what lies in `folder`, whose names begin with `prefix`.
fn walk(
    folder: &Path,
    prefix: &str,
    manifest: &ReleaseManifest,
    found: &mut BTreeMap<String, Found>,
) -> Result<(), InstallationError> {
    let in_context = |source| InstallationError::Read { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(in_context)? {
        let entry = entry.map_err(in_context)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if [RELEASE_FILE, RELEASE_SIGNATURE_FILE].contains(&name.as_str()) {
            continue;
        }
        let kind = entry.file_type().map_err(in_context)?;
        let what = if kind.is_symlink() {
            Found::Other("a link")
        } else if kind.is_dir() && manifest.has_folder(&name) {
            walk(&entry.path(), &format!("{name}/"), manifest, found)?;
            continue;
        } else if kind.is_dir() {
            Found::Other("a folder")
        } else if !kind.is_file() {
            Found::Other("neither a file nor a folder")
        } else if let Some(listed) = manifest.file(&name) {
            read(&entry.path(), listed.length)?
        } else {
            Found::Other("a file")
        };
        found.insert(name, what);
    }
    Ok(())
}

/// Reads the file `path`, if it is as long as it must be, and no further where it grows meanwhile.
fn read(path: &Path, length: u64) -> Result<Found, InstallationError> {
    let in_context = |source| InstallationError::Read { path: path.to_owned(), source };
    let file = open(path)?;
    if file.metadata().map_err(in_context)?.len() != length {
        return Ok(Found::OtherLength);
    }
    let (mut file, mut hasher) = (file.take(length), Hasher::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece).map_err(in_context)? {
            0 => return Ok(Found::File(hasher.finish())),
            read => hasher.update(&piece[..read]),
        }
    }
}

fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, InstallationError> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(limit + 1).read_to_end(&mut bytes);
    let read = read.map_err(|source| InstallationError::Read { path: path.to_owned(), source })?;
    if read as u64 > limit {
        return Err(InstallationError::TooLong { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Opens a regular file, and no other one that takes its place in the meantime.
fn open(path: &Path) -> Result<File, InstallationError> {
    let in_context = |source| InstallationError::Read { path: path.to_owned(), source };
    let seen = fs::symlink_metadata(path).map_err(in_context)?;
    if !seen.is_file() {
        return Err(in_context(io::Error::other("it is no regular file")));
    }
    let file = File::open(path).map_err(in_context)?;
    let opened = file.metadata().map_err(in_context)?;
    if (opened.dev(), opened.ino()) != (seen.dev(), seen.ino()) {
        return Err(in_context(io::Error::other("it was exchanged while it was opened")));
    }
    Ok(file)
}

fn listed(differences: &[Difference]) -> String {
    differences.iter().map(|difference| format!("\n  {difference}")).collect()
}
