//! The one form of everything that roots, revocation lists and downgrade tokens are: `{"signatures": […], "signed":
//! …}`.
//!
//! The signatures are over the canonical JSON of `signed`. Its `_type` is part of what is signed, so that a signature
//! on one kind of document is never one on another. Signatures are counted by distinct key; their own bytes identify
//! nothing, because an ECDSA signature has a twin.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::BundleError;
use crate::json;
use crate::key::{KeyId, PublicKey};
use crate::limits;
use crate::manifest::{check_limit, wrong_field};

use super::root::{Role, TrustRoot};

/// A document as written: what is signed, and the signatures. Reading one verifies nothing; tools that make one use it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDocument<T> {
    /// Signatures over the canonical JSON of `signed`.
    pub signatures: Vec<DocumentSignature>,
    /// What they sign.
    pub signed: T,
}

/// One signature over a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentSignature {
    /// Who signed.
    pub keyid: KeyId,
    /// ECDSA signature in DER, in hex.
    pub sig: String,
}

/// The signed part of one kind of document.
pub trait SignedPart: Serialize + DeserializeOwned {
    /// The document's name in messages.
    const DOCUMENT: &'static str;
    /// The value that its `_type` must have.
    const TYPE: &'static str;

    /// Its `_type`.
    fn kind(&self) -> &str;
}

impl<T: SignedPart> TrustDocument<T> {
    /// A document that nobody has signed.
    #[must_use]
    pub fn unsigned(signed: T) -> Self {
        Self { signatures: Vec::new(), signed }
    }

    /// Reads a document and verifies nothing. White space is free; what is signed has one value for one meaning.
    ///
    /// # Errors
    /// [`BundleError::TooLarge`], [`BundleError::MalformedJson`], [`BundleError::WrongField`] for another document, and
    /// [`BundleError::MalformedSignature`].
    pub fn read(bytes: &[u8]) -> Result<Self, BundleError> {
        let what = format!("the length in bytes of the {}", T::DOCUMENT);
        check_limit(&what, bytes.len() as u64, limits::MAX_TRUST_ROOT_BYTES)?;
        let tree = json::parse_value(T::DOCUMENT, bytes)?;
        let document: Self = json::parse(T::DOCUMENT, bytes)?;
        if document.signed.kind() != T::TYPE {
            return Err(wrong_field(T::DOCUMENT, "_type", document.signed.kind(), T::TYPE));
        }
        // A set out of order, or `null` for a member that is absent, would be signed as something else than it is read
        // as.
        if json::canonical(&tree["signed"]) != document.payload() {
            let reason = "a set is not sorted, or an absent member is written as null".to_owned();
            return Err(BundleError::MalformedJson { document: T::DOCUMENT.to_owned(), reason });
        }
        let what = format!("the number of signatures on the {}", T::DOCUMENT);
        check_limit(&what, document.signatures.len() as u64, limits::MAX_DOCUMENT_SIGNATURES)?;
        if let Some(signature) = document.signatures.iter().find(|signature| !is_hex(&signature.sig)) {
            return Err(BundleError::MalformedSignature { document: T::DOCUMENT, key: signature.keyid });
        }
        Ok(document)
    }

    /// The bytes that a signature covers.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        json::canonical(&self.signed)
    }

    /// The file's bytes: indented for people, sorted, LF-terminated.
    ///
    /// # Panics
    /// Never: a document has text keys and integers only.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut tree = serde_json::to_value(self).expect("a document has text keys and integers only");
        tree.sort_all_objects();
        let mut bytes = serde_json::to_vec_pretty(&tree).expect("a JSON tree always has a text");
        bytes.push(b'\n');
        bytes
    }

    /// Adds the signature (DER) that `key` made over [`TrustDocument::payload`].
    pub fn add_signature(&mut self, key: KeyId, signature: &[u8]) {
        self.signatures.push(DocumentSignature { keyid: key, sig: hex::encode(signature) });
        self.signatures.sort_by_key(|signature| signature.keyid);
    }

    /// The distinct keys that `known` has and that signed. Signatures by others count for nothing.
    pub(super) fn signers<'a>(
        &self,
        known: impl Fn(KeyId) -> Option<&'a PublicKey>,
    ) -> Result<BTreeSet<KeyId>, BundleError> {
        let payload = self.payload();
        let mut signers = BTreeSet::new();
        for signature in &self.signatures {
            let Some(key) = known(signature.keyid) else { continue };
            let der = hex::decode(&signature.sig).unwrap_or_default();
            if !key.verifies(&payload, &der) {
                return Err(BundleError::BadDocumentSignature { document: T::DOCUMENT, key: key.id() });
            }
            signers.insert(key.id());
        }
        Ok(signers)
    }

    /// Refuses unless a threshold of the keys that `root` lists for `role` signed. `whose` names the root in messages.
    pub(super) fn require(&self, role: Role, root: &TrustRoot, whose: &'static str) -> Result<(), BundleError> {
        let Some(members) = root.role(role) else {
            return Err(BundleError::MissingRole { document: T::DOCUMENT, role: role.name(), whose });
        };
        let counts = |id| members.keyids.contains(&id) && !(role == Role::Release && root.has_revoked(id));
        let found = self.signers(|id| root.key(id).filter(|_| counts(id)))?.len();
        if found >= members.threshold {
            return Ok(());
        }
        let named = self.signatures.iter().map(|signature| signature.keyid.to_string()).collect::<Vec<_>>().join(", ");
        let (document, role, required) = (T::DOCUMENT, role.name(), members.threshold);
        Err(BundleError::TooFewDocumentSignatures { document, role, whose, found, required, named })
    }
}

/// Whole bytes in lower-case hex digits, one at least.
fn is_hex(text: &str) -> bool {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    !text.is_empty() && text.len().is_multiple_of(2) && digits
}
