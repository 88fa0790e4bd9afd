//! OpenSSF Model Signing 1.0 on plain folders, so that a pipeline can do without the Python client.
//!
//! ```text
//! sign:    Tree ─survey─► files ─hash─► Statement ─key or certificates─► signature file
//! verify:  signature file ─key or chain─► verified payload ─► Statement ─survey, hash as it says─► no Differences
//! ```
//!
//! The reference client is `model_signing` 1.1.1: its signatures hold here, ours hold there, and where the two refuse
//! different things, `conformance/model_signing/README.md` says why. `tree` holds its rules about files, `statement` and
//! `envelope` the two documents, `key` and `certificate` who may have signed. Bundles carry the same statement, but in one
//! canonical spelling, read by the bundle crate.

mod certificate;
mod compare;
mod digests;
mod envelope;
mod error;
mod key;
mod statement;
mod tree;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ampoule_bundle::{PAYLOAD_TYPE, Timestamp, pre_authentication_encoding};

pub use certificate::read_certificates;
pub use compare::Differences;
pub use error::OmsError;
pub use key::{OmsKey, OmsPublicKey};

use crate::error::SealingError;
use crate::files;
use crate::progress::Progress;
use envelope::{MAX_SIGNATURE_FILE_BYTES, Material, SignatureFile};
use statement::{HashType, Method, Serialization, Statement};
use tree::{Found, GIT_PATHS, Tree};

/// Which files of a folder are meant.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The model's folder.
    pub folder: PathBuf,
    /// The signature file; where it lies in the folder it is no part of the model.
    pub signature: PathBuf,
    /// Further paths that are no part of the model.
    pub ignore_paths: Vec<PathBuf>,
    /// Whether what belongs to git is no part of the model.
    pub ignore_git_paths: bool,
    /// Whether links are followed; they are refused otherwise.
    pub allow_symlinks: bool,
}

/// Who signs.
#[derive(Clone, Debug)]
pub enum Signer {
    /// A key that verifiers know.
    Key,
    /// A key with its certificate and those above it, in DER.
    Certificates(Vec<Vec<u8>>),
}

/// Whom a verifier trusts.
#[derive(Clone, Debug)]
pub enum Trust {
    /// One key.
    Key(OmsPublicKey),
    /// The authorities, in DER, and the time for which their certificates must hold.
    Authorities(Vec<Vec<u8>>, Timestamp),
}

/// What was signed, or verified.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The digest over all files, in hex.
    pub root: String,
    /// How many files or shards there are.
    pub resources: usize,
    /// The length of all files together.
    pub bytes: u64,
    /// The id of the key that signed.
    pub key: OmsPublicKey,
    /// Whether the signature names its key; older clients did not.
    pub names_key: bool,
}

impl Selection {
    fn ignored(&self) -> Result<BTreeSet<String>, SealingError> {
        let mut ignored = tree::within(&self.folder, self.ignore_paths.iter().chain([&self.signature]))?;
        if self.ignore_git_paths {
            ignored.extend(GIT_PATHS.map(str::to_owned));
        }
        Ok(ignored)
    }
}

/// Signs the folder and writes the signature file; `shard_size` cuts files into shards of so many bytes.
///
/// # Errors
/// What in the folder cannot be signed, by name; certificates that do not fit the key; what keys report.
pub fn sign(
    selection: &Selection,
    shard_size: Option<u64>,
    key: &OmsKey,
    signer: &Signer,
) -> Result<Signed, SealingError> {
    let material = match signer {
        Signer::Key => Material::Key { hint: Some(key.public().id().to_string()) },
        Signer::Certificates(chain) => {
            certificate::check_signing_chain(chain, key.public())?;
            Material::Certificates(chain.clone())
        }
    };
    let serialization = Serialization {
        method: shard_size.map_or(Method::Files, |size| Method::Shards { size }),
        hash: HashType::Sha256,
        allow_symlinks: selection.allow_symlinks,
        ignore_paths: selection.ignored()?,
    };
    let tree = Tree::open(&selection.folder, selection.allow_symlinks)?;
    let files = tree.survey(&serialization.ignore_paths)?;
    let bytes = length_of(&files);
    let progress = Progress::of_bytes(bytes, "hashing");
    let resources = digests::resources(&tree, &files, &serialization, &progress)?;
    if resources.is_empty() {
        return Err(OmsError::Empty { folder: selection.folder.clone() }.into());
    }
    let statement = Statement { subject: name_of(&selection.folder)?, resources, serialization };
    let payload = statement.to_payload();
    let signature = key.sign(&pre_authentication_encoding(PAYLOAD_TYPE, &payload))?;
    files::write_bytes(&selection.signature, &SignatureFile::write(&payload, &signature, &material))?;
    let (root, resources) = (statement.root(), statement.resources.len());
    Ok(Signed { root, resources, bytes, key: key.public().clone(), names_key: true })
}

/// Verifies that the signature is of somebody whom `trust` names, and that the folder is what was signed. Files that were
/// not signed are refused, unless `ignore_unsigned` says that they do not matter.
///
/// # Errors
/// [`OmsError`] by what is wrong; nothing in the folder is opened before the signature holds.
pub fn verify(selection: &Selection, trust: &Trust, ignore_unsigned: bool) -> Result<Signed, SealingError> {
    let file = read_signature(&selection.signature)?;
    let (key, signer) = trusted_key(&file.material, trust)?;
    let statement = Statement::read(file.payload_signed_by(&key, &signer)?)?;

    let mut ignored = selection.ignored()?;
    ignored.extend(statement.serialization.ignore_paths.iter().cloned());
    let tree = Tree::open(&selection.folder, selection.allow_symlinks)?;
    let files = match ignore_unsigned {
        true => tree.look_for(&statement.files(), &ignored)?,
        false => tree.survey(&ignored)?,
    };
    let bytes = length_of(&files);
    let progress = Progress::of_bytes(bytes, "verifying");
    let found = digests::resources(&tree, &files, &statement.serialization, &progress)?;
    let differences = Differences::between(&statement.resources, &found);
    if !differences.is_empty() {
        return Err(OmsError::Changed(differences).into());
    }
    let names_key = !matches!(file.material, Material::Key { hint: None });
    Ok(Signed { root: statement.root(), resources: found.len(), bytes, key, names_key })
}

fn read_signature(path: &Path) -> Result<SignatureFile, SealingError> {
    let bytes = files::read_capped(path, MAX_SIGNATURE_FILE_BYTES).map_err(|error| match error {
        SealingError::TooLarge { found_bytes, limit_bytes, .. } => {
            let reason = format!("it is {found_bytes} bytes long, at most {limit_bytes} are read");
            OmsError::Malformed { document: "signature", reason }.into()
        }
        SealingError::Read { path, source } => OmsError::Unreadable { path, source }.into(),
        other => other,
    })?;
    SignatureFile::read(&bytes)
}

/// The key that must have signed, and what it is called in messages.
fn trusted_key(material: &Material, trust: &Trust) -> Result<(OmsPublicKey, String), SealingError> {
    match (material, trust) {
        (Material::Key { hint }, Trust::Key(key)) => {
            let expected = key.id().to_string();
            match hint {
                Some(found) if *found != expected => Err(OmsError::OtherKey { found: found.clone(), expected }.into()),
                _ => Ok((key.clone(), format!("the key {expected}"))),
            }
        }
        (Material::Certificates(chain), Trust::Authorities(authorities, now)) => {
            Ok((certificate::verify_chain(chain, authorities, *now)?, "the signature's first certificate".to_owned()))
        }
        (Material::Key { .. }, Trust::Authorities(..)) => {
            Err(OmsError::OtherMethod { found: "key", wanted: "--public-key" }.into())
        }
        (Material::Certificates(_), Trust::Key(_)) => {
            Err(OmsError::OtherMethod { found: "certificate", wanted: "--certificate-chain" }.into())
        }
    }
}

fn length_of(files: &[Found]) -> u64 {
    files.iter().fold(0, |sum, file| sum.saturating_add(file.length))
}

/// The folder's name, for information; `.` is called by what it really is.
fn name_of(folder: &Path) -> Result<String, SealingError> {
    let in_context = |source| SealingError::Read { path: folder.to_owned(), source };
    let resolved = folder.canonicalize().map_err(in_context)?;
    let name = folder.file_name().or(resolved.file_name()).unwrap_or("model".as_ref());
    let name = name.to_str().ok_or_else(|| SealingError::UnreadableName { path: folder.to_owned() })?;
    Ok(name.to_owned())
}
