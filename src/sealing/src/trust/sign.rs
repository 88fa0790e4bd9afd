//! Signatures on roots, lists and tokens, added one after the other by keys that need never meet.

use std::path::Path;

use ampoule_bundle::limits::MAX_TRUST_ROOT_BYTES;
use ampoule_bundle::trust::{
    DowngradeDocument, DowngradePart, RevocationDocument, RevocationPart, RootRole, SignedPart, TrustDocument,
};
use ampoule_bundle::{Digest, KeyId, PublicKey, RootDocument, json};

use crate::countersign::BundleForm;
use crate::error::SealingError;
use crate::files;
use crate::keys::SigningKey;

/// A document of one of the three kinds, as read and trusted in nothing.
#[derive(Clone, Debug)]
pub enum AnyDocument {
    /// A trust root.
    Root(Box<RootDocument>),
    /// A revocation list.
    Revocations(Box<RevocationDocument>),
    /// A downgrade token.
    Downgrade(Box<DowngradeDocument>),
}

impl AnyDocument {
    /// What the file at `path` calls itself, if it is such a document. Whatever cannot be read as one is none.
    pub(crate) fn kind(path: &Path) -> Option<&'static str> {
        let bytes = files::read_capped(path, MAX_TRUST_ROOT_BYTES).ok()?;
        let tree = json::parse_value("trust document", &bytes).ok()?;
        match tree["signed"]["_type"].as_str()? {
            RootRole::TYPE => Some(RootRole::DOCUMENT),
            RevocationPart::TYPE => Some(RevocationPart::DOCUMENT),
            DowngradePart::TYPE => Some(DowngradePart::DOCUMENT),
            _ => None,
        }
    }

    /// Reads a document of whichever kind.
    ///
    /// # Errors
    /// `WrongCommand` for a bundle and `NotATrustDocument` for anything else.
    pub fn read(path: &Path) -> Result<(AnyDocument, Vec<u8>), SealingError> {
        if BundleForm::of(path)?.is_some() {
            let instead = "`ampoule-seal sign` signs it, `ampoule-seal inspect` shows it";
            return Err(SealingError::WrongCommand { path: path.to_owned(), found: "bundle", instead });
        }
        let bytes = files::read_capped(path, MAX_TRUST_ROOT_BYTES)?;
        let tree = json::parse_value("trust document", &bytes)?;
        let document = match tree["signed"]["_type"].as_str() {
            Some(RootRole::TYPE) => AnyDocument::Root(Box::new(RootDocument::read(&bytes)?)),
            Some(RevocationPart::TYPE) => AnyDocument::Revocations(Box::new(RevocationDocument::read(&bytes)?)),
            Some(DowngradePart::TYPE) => AnyDocument::Downgrade(Box::new(DowngradeDocument::read(&bytes)?)),
            _ => return Err(SealingError::NotATrustDocument { path: path.to_owned() }),
        };
        Ok((document, bytes))
    }
}

/// What a document is after it was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Who has signed it now.
    pub signers: Vec<KeyId>,
    /// The digest of the file, of which the signatures are a part.
    pub digest: Digest,
}

/// Adds a signature by `key` to the document at `path` and writes the result to `out`, which may be the same file.
///
/// # Errors
/// `AlreadySigned` when the key has, and what [`AnyDocument::read`] refuses.
pub fn sign(path: &Path, key: &SigningKey, out: &Path) -> Result<Signed, SealingError> {
    let (document, _) = AnyDocument::read(path)?;
    let (bytes, signers) = match document {
        AnyDocument::Root(document) => signed(*document, key)?,
        AnyDocument::Revocations(document) => signed(*document, key)?,
        AnyDocument::Downgrade(document) => signed(*document, key)?,
    };
    files::write_bytes(out, &bytes)?;
    Ok(Signed { signers, digest: Digest::of(&bytes) })
}

fn signed<T: SignedPart>(
    mut document: TrustDocument<T>,
    key: &SigningKey,
) -> Result<(Vec<u8>, Vec<KeyId>), SealingError> {
    add_signature(&mut document, key)?;
    let signers = document.signatures.iter().map(|signature| signature.keyid).collect();
    Ok((document.to_bytes(), signers))
}

pub(super) fn add_signature<T: SignedPart>(
    document: &mut TrustDocument<T>,
    key: &SigningKey,
) -> Result<(), SealingError> {
    let id = PublicKey::from_pem(key.public_pem())?.id();
    if document.signatures.iter().any(|signature| signature.keyid == id) {
        return Err(SealingError::AlreadySigned { what: T::DOCUMENT, key: id });
    }
    document.add_signature(id, &key.sign(&document.payload())?);
    Ok(())
}
