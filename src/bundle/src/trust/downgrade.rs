//! The downgrade token: the vendor's word that one named bundle may be used although a newer one was accepted.
//!
//! It names the bundle by everything that identifies it and ends at a date, so that it cannot be used for another
//! bundle or for ever. It lifts the rule on rollback and no other: what is revoked or has expired stays so. FORMAT.md
//! §7.3.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::BundleError;
use crate::names::{BundleName, Counter, Epoch};
use crate::timestamp::Timestamp;
use crate::verified::BundleIdentity;

use super::document::{SignedPart, TrustDocument};
use super::root::{Role, TrustRoot};

/// A downgrade token as written, for tools that make one.
pub type DowngradeDocument = TrustDocument<DowngradePart>;

/// What a downgrade token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DowngradePart {
    /// Always `downgrade`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// The bundle's counter.
    pub counter: Counter,
    /// The bundle's epoch.
    pub epoch: Epoch,
    /// From then on the token permits nothing.
    pub expires: Timestamp,
    /// The bundle's manifest.
    pub manifest: Digest,
    /// The bundle's name.
    pub name: BundleName,
}

impl SignedPart for DowngradePart {
    const DOCUMENT: &'static str = "downgrade token";
    const TYPE: &'static str = "downgrade";

    fn kind(&self) -> &str {
        &self.kind
    }
}

impl DowngradePart {
    /// The permission for this bundle until `expires`.
    #[must_use]
    pub fn new(name: BundleName, epoch: Epoch, counter: Counter, manifest: Digest, expires: Timestamp) -> Self {
        Self { kind: Self::TYPE.to_owned(), counter, epoch, expires, manifest, name }
    }
}

/// A downgrade token that a threshold of a trust root's `release` keys signed. It lives in that root:
/// [`TrustRoot::with_downgrade`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DowngradeToken {
    part: DowngradePart,
}

impl TrustRoot {
    /// This root with the permission in `bytes`, for [`crate::VerifiedBundle::admit`]. Give the revocation list first:
    /// the keys that it revokes may not sign a token.
    ///
    /// # Errors
    /// [`BundleError::TooFewDocumentSignatures`] and [`BundleError::BadDocumentSignature`] when the `release` keys of
    /// this root did not sign it, and what [`TrustDocument::read`] refuses.
    pub fn with_downgrade(self, bytes: &[u8]) -> Result<TrustRoot, BundleError> {
        let document = DowngradeDocument::read(bytes)?;
        document.require(Role::Release, &self, "the trust root")?;
        Ok(self.permitting(DowngradeToken { part: document.signed }))
    }
}

impl DowngradeToken {
    /// Whether it names exactly this bundle.
    #[must_use]
    pub fn names(&self, bundle: &BundleIdentity) -> bool {
        let part = &self.part;
        (&part.name, part.epoch, part.counter, part.manifest)
            == (&bundle.name, bundle.epoch, bundle.counter, bundle.manifest)
    }

    /// From then on it permits nothing.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.part.expires
    }
}
