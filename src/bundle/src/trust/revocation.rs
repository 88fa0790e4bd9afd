//! The revocation list: what must not be used any more although it is signed. FORMAT.md §7.2.
//!
//! It travels as a small file, also where there is no network. Each list holds all that was revoked so far, so the
//! newest one suffices; that no older one takes its place is for whoever keeps the highest version seen.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::BundleError;
use crate::key::KeyId;
use crate::manifest::wrong_field;
use crate::names::{BundleName, BundleVersion, Counter, Epoch};
use crate::timestamp::Timestamp;

use super::document::{SignedPart, TrustDocument};
use super::root::{Role, TrustRoot};

/// A revocation list as written, for tools that make one.
pub type RevocationDocument = TrustDocument<RevocationPart>;

/// What a revocation list says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevocationPart {
    /// Always `revocations`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// When the list was made. Time never lies before it.
    pub issued: Timestamp,
    /// Keys whose signatures on bundles and downgrade tokens count for nothing.
    pub keys: BTreeSet<KeyId>,
    /// Manifests of bundles that are refused.
    pub manifests: BTreeSet<Digest>,
    /// For each of these names, the lowest epoch and counter that are accepted.
    pub minimum_counters: BTreeMap<BundleName, MinimumCounter>,
    /// The lowest version of the runtime that may run anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_runtime: Option<BundleVersion>,
    /// The list's version, counted from 1.
    pub version: u64,
}

/// The lowest epoch and counter of a name. They are ordered as everywhere: by epoch, then by counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MinimumCounter {
    /// The epoch.
    pub epoch: Epoch,
    /// The counter within that epoch.
    pub counter: Counter,
}

impl SignedPart for RevocationPart {
    const DOCUMENT: &'static str = "revocation list";
    const TYPE: &'static str = "revocations";

    fn kind(&self) -> &str {
        &self.kind
    }
}

impl RevocationPart {
    /// A list that revokes nothing yet.
    #[must_use]
    pub fn new(version: u64, issued: Timestamp) -> Self {
        Self {
            kind: Self::TYPE.to_owned(),
            issued,
            keys: BTreeSet::new(),
            manifests: BTreeSet::new(),
            minimum_counters: BTreeMap::new(),
            minimum_runtime: None,
            version,
        }
    }
}

/// A revocation list that a trust root's `revoke` keys signed. It lives in that root: [`TrustRoot::with_revocations`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    part: RevocationPart,
    digest: Digest,
}

impl TrustRoot {
    /// This root with what the list in `bytes` revokes.
    ///
    /// # Errors
    /// [`BundleError::TooFewDocumentSignatures`], [`BundleError::BadDocumentSignature`] or [`BundleError::MissingRole`]
    /// when the `revoke` keys of this root did not sign it, and what [`TrustDocument::read`] refuses.
    pub fn with_revocations(self, bytes: &[u8]) -> Result<TrustRoot, BundleError> {
        let document = RevocationDocument::read(bytes)?;
        document.require(Role::Revoke, &self, "the trust root")?;
        if document.signed.version == 0 {
            return Err(wrong_field("revocation list", "version", "0", "at least 1"));
        }
        Ok(self.revoking(RevocationList { part: document.signed, digest: Digest::of(bytes) }))
    }
}

impl RevocationList {
    /// The list's version, counted from 1: a list older than one that was seen must be refused.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.part.version
    }

    /// When the list was made.
    #[must_use]
    pub fn issued(&self) -> Timestamp {
        self.part.issued
    }

    /// The SHA-256 of the file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether signatures by this key count for nothing.
    #[must_use]
    pub fn has_key(&self, key: KeyId) -> bool {
        self.part.keys.contains(&key)
    }

    /// Whether the bundle with this manifest is refused.
    #[must_use]
    pub fn has_manifest(&self, manifest: Digest) -> bool {
        self.part.manifests.contains(&manifest)
    }

    /// The lowest epoch and counter of bundles of this name, if the list says one.
    #[must_use]
    pub fn minimum_counter(&self, name: &BundleName) -> Option<MinimumCounter> {
        self.part.minimum_counters.get(name).copied()
    }

    /// The lowest version of the runtime, if the list says one.
    #[must_use]
    pub fn minimum_runtime(&self) -> Option<&BundleVersion> {
        self.part.minimum_runtime.as_ref()
    }

    /// Everything that it says, for whoever shows it.
    #[must_use]
    pub fn part(&self) -> &RevocationPart {
        &self.part
    }
}
