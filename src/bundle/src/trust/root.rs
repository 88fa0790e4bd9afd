//! The trust root: the pinned keys, what each may sign, and how many must.
//!
//! The file has the shape of a TUF root role. Whoever installs a root vouches for it by its digest, so a pinned root
//! needs no signature of its own; a root that is to follow another needs both their keys, which `chain` counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::certificate::Authority;
use crate::digest::Digest;
use crate::error::BundleError;
use crate::key::{KeyId, PublicKey};
use crate::names::Epoch;
use crate::timestamp::Timestamp;

use super::document::{SignedPart, TrustDocument};
use super::downgrade::DowngradeToken;
use super::revocation::RevocationList;

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The next trust root.
    Root,
    /// The vendor's bundles.
    Release,
    /// The customer's adapters, and nothing else.
    Site,
    /// Revocation lists.
    Revoke,
}

impl Role {
    /// The role's name in the file and in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Release => "release",
            Self::Site => "site",
            Self::Revoke => "revoke",
        }
    }
}

/// A checked trust root. There is no default one: without it nothing verifies.
#[derive(Debug, Clone)]
pub struct TrustRoot {
    document: RootDocument,
    keys: BTreeMap<KeyId, PublicKey>,
    authorities: BTreeMap<KeyId, Authority>,
    digest: Digest,
    revocations: Option<RevocationList>,
    downgrade: Option<DowngradeToken>,
}

/// The keys of one role and how many of them must sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleKeys {
    /// The keys' ids.
    pub keyids: BTreeSet<KeyId>,
    /// How many distinct keys must sign, at least 1.
    pub threshold: usize,
}

impl TrustRoot {
    /// Takes a `root.json` as it is, on the word of whoever installed it. White space is free; repeated or unknown
    /// members and misnamed keys are not. Its own `root` keys need not have signed it, but a signature by one of them
    /// must be right.
    ///
    /// CAUTION: a root that is to follow one that is trusted already comes from [`TrustRoot::succeed`] alone.
    ///
    /// # Errors
    /// [`BundleError::MalformedJson`], [`BundleError::MalformedKey`], [`BundleError::MalformedTrustRoot`] and
    /// [`BundleError::BadDocumentSignature`].
    pub fn pin(bytes: &[u8]) -> Result<Self, BundleError> {
        let root = Self::read(bytes)?;
        root.signers()?;
        Ok(root)
    }

    /// Reads a root and checks that it does not contradict itself. Nothing of it is trusted.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, BundleError> {
        let document = RootDocument::read(bytes)?;
        let root = &document.signed;
        let refuse = |reason: String| Err(BundleError::MalformedTrustRoot { reason });
        if root.spec_version != SPEC_VERSION {
            return refuse(format!("`spec_version` is not `{SPEC_VERSION}`"));
        }
        if root.version == 0 {
            return refuse("`version` is 0, must be at least 1".to_owned());
        }
        if let (Some(minimum), Some(maximum)) = (root.minimum_epoch, root.maximum_epoch)
            && minimum > maximum
        {
            return refuse(format!(
                "`minimum_epoch` is {minimum}, above `maximum_epoch`, {maximum}: no bundle could fit"
            ));
        }
        let (mut keys, mut authorities) = (BTreeMap::new(), BTreeMap::new());
        for (&id, wire) in &root.keys {
            let (found, expected) = match &wire.keyval {
                RootKeyValue::Key { public } => {
                    let key = PublicKey::from_pem(public)?;
                    let expected = RootKey::of(&key);
                    (keys.entry(key.id()).or_insert(key).id(), expected)
                }
                RootKeyValue::Authority { certificate, identity } => {
                    let authority = Authority::new(certificate, identity.as_deref())?;
                    let expected = RootKey::of_authority(certificate, identity.as_deref());
                    (authorities.entry(authority.id()).or_insert(authority).id(), expected)
                }
            };
            if found != id {
                return refuse(format!("the key named {id} has the id {found}"));
            }
            if *wire != expected {
                let (keytype, scheme) = (expected.keytype, expected.scheme);
                return refuse(format!("key {id} must have keytype `{keytype}` and scheme `{scheme}`"));
            }
        }
        for (role, members) in &root.roles {
            check_role(*role, members, |id| keys.contains_key(&id), |id| authorities.contains_key(&id))?;
        }
        if !root.roles.contains_key(&Role::Release) {
            return refuse("role `release` is missing: no bundle could verify".to_owned());
        }
        Ok(Self { document, keys, authorities, digest: Digest::of(bytes), revocations: None, downgrade: None })
    }

    /// What an earlier token permitted goes, because a key that signed it may be revoked now.
    pub(super) fn revoking(self, revocations: RevocationList) -> Self {
        Self { revocations: Some(revocations), downgrade: None, ..self }
    }

    pub(super) fn permitting(self, downgrade: DowngradeToken) -> Self {
        Self { downgrade: Some(downgrade), ..self }
    }

    /// The SHA-256 of the file: what an administrator pins and `/v1/metadata` shows.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The root's version, counted from 1.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.document.signed.version
    }

    /// When the root expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.document.signed.expires
    }

    /// The keys and threshold of `role`, if the root has that role.
    #[must_use]
    pub fn role(&self, role: Role) -> Option<&RoleKeys> {
        self.document.signed.roles.get(&role)
    }

    /// The pinned key with this id.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&PublicKey> {
        self.keys.get(&id)
    }

    /// The pinned authorities.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = &Authority> {
        self.authorities.values()
    }

    /// The root as it is written.
    #[must_use]
    pub fn document(&self) -> &RootDocument {
        &self.document
    }

    /// The `root` keys of this root that signed it.
    ///
    /// # Errors
    /// [`BundleError::BadDocumentSignature`] when a signature by one of them is wrong.
    pub(super) fn signers(&self) -> Result<BTreeSet<KeyId>, BundleError> {
        let members = self.role(Role::Root).map(|role| &role.keyids);
        self.document.signers(|id| self.key(id).filter(|_| members.is_some_and(|members| members.contains(&id))))
    }

    /// What was revoked under this root, if a list was given to it.
    #[must_use]
    pub fn revocations(&self) -> Option<&RevocationList> {
        self.revocations.as_ref()
    }

    /// The permission to use an older bundle, if one was given to it.
    #[must_use]
    pub fn downgrade(&self) -> Option<&DowngradeToken> {
        self.downgrade.as_ref()
    }

    /// Whether signatures by this key count for nothing any more.
    #[must_use]
    pub fn has_revoked(&self, key: KeyId) -> bool {
        self.revocations.as_ref().is_some_and(|list| list.has_key(key))
    }
}

const SPEC_VERSION: &str = "1.0.31";

fn check_role(
    role: Role,
    members: &RoleKeys,
    is_key: impl Fn(KeyId) -> bool,
    is_authority: impl Fn(KeyId) -> bool,
) -> Result<(), BundleError> {
    let refuse = |reason: String| Err(BundleError::MalformedTrustRoot { reason });
    if let Some(unknown) = members.keyids.iter().find(|id| !is_key(**id) && !is_authority(**id)) {
        return refuse(format!("role `{}` names the key {unknown}, which is not there", role.name()));
    }
    // Roots and revocation lists carry no chains.
    if [Role::Root, Role::Revoke].contains(&role)
        && let Some(authority) = members.keyids.iter().find(|id| is_authority(**id))
    {
        return refuse(format!("role `{}` names the authority {authority}, and takes keys only", role.name()));
    }
    let (count, threshold) = (members.keyids.len(), members.threshold);
    if threshold == 0 || threshold > count {
        return refuse(format!("role `{}` has {count} keys and threshold {threshold}", role.name()));
    }
    Ok(())
}

/// A `root.json` as written, for tools that make one.
pub type RootDocument = TrustDocument<RootRole>;

/// The root role of TUF, with the roles that a bundle knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootRole {
    /// Always `root`.
    #[serde(rename = "_type")]
    pub kind: String,
    /// When the root expires.
    pub expires: Timestamp,
    /// The keys by id.
    pub keys: BTreeMap<KeyId, RootKey>,
    /// The highest key epoch of bundles, which only a new root raises: a stolen key cannot use up the epochs to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_epoch: Option<Epoch>,
    /// The lowest key epoch of bundles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_epoch: Option<Epoch>,
    /// What the keys may sign.
    pub roles: BTreeMap<Role, RoleKeys>,
    /// The TUF specification followed, `1.0.31`.
    pub spec_version: String,
    /// The root's version, counted from 1.
    pub version: u64,
}

/// A key or an authority as a root writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootKey {
    /// `ecdsa`, or `x509-ca` for an authority.
    pub keytype: String,
    /// The key itself.
    pub keyval: RootKeyValue,
    /// `ecdsa-sha2-nistp256` or `ecdsa-sha2-nistp384`, or `x509-chain` for an authority.
    pub scheme: String,
}

/// A key's or an authority's value as a root writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum RootKeyValue {
    /// A key.
    Key {
        /// SPKI PEM text.
        public: String,
    },
    /// An authority.
    Authority {
        /// The authority's certificate as PEM text.
        certificate: String,
        /// The one alternative name that its leaf must have; every leaf counts without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity: Option<String>,
    },
}

impl SignedPart for RootRole {
    const DOCUMENT: &'static str = "trust root";
    const TYPE: &'static str = "root";

    fn kind(&self) -> &str {
        &self.kind
    }
}

impl RootDocument {
    /// An unsigned root, version 1 upwards, with these roles.
    #[must_use]
    pub fn new(version: u64, expires: Timestamp, roles: &[(Role, &[PublicKey], usize)]) -> Self {
        let mut keys = BTreeMap::new();
        let mut role_keys = BTreeMap::new();
        for (role, members, threshold) in roles {
            let keyids = members.iter().map(PublicKey::id).collect();
            role_keys.insert(*role, RoleKeys { keyids, threshold: *threshold });
            for key in *members {
                keys.insert(key.id(), RootKey::of(key));
            }
        }
        Self::unsigned(RootRole {
            kind: RootRole::TYPE.to_owned(),
            expires,
            keys,
            maximum_epoch: None,
            minimum_epoch: None,
            roles: role_keys,
            spec_version: SPEC_VERSION.to_owned(),
            version,
        })
    }
}

impl RootKey {
    /// `key` as a root writes it.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        let scheme = key.curve().scheme().to_owned();
        Self { keytype: "ecdsa".to_owned(), keyval: RootKeyValue::Key { public: key.to_pem() }, scheme }
    }

    /// An authority as a root writes it, by its certificate and the one that it may speak for.
    #[must_use]
    pub fn of_authority(certificate: &str, identity: Option<&str>) -> Self {
        let (certificate, identity) = (certificate.to_owned(), identity.map(str::to_owned));
        let keyval = RootKeyValue::Authority { certificate, identity };
        Self { keytype: "x509-ca".to_owned(), keyval, scheme: "x509-chain".to_owned() }
    }
}
