//! The trust root: the pinned keys, what each may sign, and how many must.
//!
//! The file has the shape of a TUF root role. Its own signatures are carried and not yet required: a root is pinned by
//! whoever installs it, and the chain from one root to the next comes with key rotation.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::BundleError;
use crate::json;
use crate::key::{KeyId, PublicKey};
use crate::limits;
use crate::manifest::check_limit;
use crate::timestamp::Timestamp;

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
    version: u64,
    expires: Timestamp,
    keys: BTreeMap<KeyId, PublicKey>,
    roles: BTreeMap<Role, RoleKeys>,
    digest: Digest,
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
    /// Reads a `root.json`. White space is free; repeated or unknown members and misnamed keys are not.
    ///
    /// # Errors
    /// [`BundleError::MalformedJson`], [`BundleError::MalformedKey`] or [`BundleError::MalformedTrustRoot`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BundleError> {
        check_limit("the trust root's length in bytes", bytes.len() as u64, limits::MAX_TRUST_ROOT_BYTES)?;
        let document: RootDocument = json::parse("trust root", bytes)?;
        let root = document.signed;
        let refuse = |reason: String| Err(BundleError::MalformedTrustRoot { reason });
        if let Some(signature) = document.signatures.iter().find(|signature| !is_hex(&signature.sig)) {
            return refuse(format!("the signature by {} is not lower-case hex", signature.keyid));
        }
        if root.kind != "root" {
            return refuse(format!("`_type` is `{}`, must be `root`", crate::digest::shorten(&root.kind)));
        }
        if root.spec_version != SPEC_VERSION {
            return refuse(format!("`spec_version` is not `{SPEC_VERSION}`"));
        }
        if root.version == 0 {
            return refuse("`version` is 0, must be at least 1".to_owned());
        }
        let mut keys = BTreeMap::new();
        for (id, wire) in root.keys {
            let key = PublicKey::from_pem(&wire.keyval.public)?;
            if key.id() != id {
                return refuse(format!("the key named {id} has the id {}", key.id()));
            }
            if wire.keytype != "ecdsa" || wire.scheme != key.curve().scheme() {
                return refuse(format!("key {id} must have keytype `ecdsa` and scheme `{}`", key.curve().scheme()));
            }
            keys.insert(id, key);
        }
        for (role, role_keys) in &root.roles {
            if let Some(unknown) = role_keys.keyids.iter().find(|id| !keys.contains_key(id)) {
                return refuse(format!("role `{}` names the key {unknown}, which is not there", role.name()));
            }
            if role_keys.threshold == 0 || role_keys.threshold > role_keys.keyids.len() {
                return refuse(format!(
                    "role `{}` has {} keys and threshold {}",
                    role.name(),
                    role_keys.keyids.len(),
                    role_keys.threshold
                ));
            }
        }
        if !root.roles.contains_key(&Role::Release) {
            return refuse("role `release` is missing: no bundle could verify".to_owned());
        }
        Ok(Self { version: root.version, expires: root.expires, keys, roles: root.roles, digest: Digest::of(bytes) })
    }

    /// The SHA-256 of the file: what an administrator pins and `/v1/metadata` shows.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The root's version, counted from 1.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When the root expires.
    #[must_use]
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// The keys and threshold of `role`, if the root has that role.
    #[must_use]
    pub fn role(&self, role: Role) -> Option<&RoleKeys> {
        self.roles.get(&role)
    }

    /// The pinned key with this id.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&PublicKey> {
        self.keys.get(&id)
    }
}

const SPEC_VERSION: &str = "1.0.31";

/// Whole bytes in lower-case hex digits, one at least.
fn is_hex(text: &str) -> bool {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    !text.is_empty() && text.len().is_multiple_of(2) && digits
}

/// A `root.json` as written, for tools that make one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootDocument {
    /// Signatures over the canonical JSON of `signed`; empty today.
    pub signatures: Vec<RootSignature>,
    /// The root itself.
    pub signed: RootRole,
}

/// One signature over a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootSignature {
    /// Who signed.
    pub keyid: KeyId,
    /// ECDSA signature in DER, in hex.
    pub sig: String,
}

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
    /// What the keys may sign.
    pub roles: BTreeMap<Role, RoleKeys>,
    /// The TUF specification followed, `1.0.31`.
    pub spec_version: String,
    /// The root's version, counted from 1.
    pub version: u64,
}

/// A key as a root writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootKey {
    /// Always `ecdsa`.
    pub keytype: String,
    /// The key itself.
    pub keyval: RootKeyValue,
    /// `ecdsa-sha2-nistp256` or `ecdsa-sha2-nistp384`.
    pub scheme: String,
}

/// A key's value as a root writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootKeyValue {
    /// SPKI PEM text.
    pub public: String,
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
        let (kind, spec_version) = ("root".to_owned(), SPEC_VERSION.to_owned());
        Self {
            signatures: Vec::new(),
            signed: RootRole { kind, expires, keys, roles: role_keys, spec_version, version },
        }
    }

    /// The file's bytes: indented for people, sorted, LF-terminated.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut tree = serde_json::to_value(self).expect("a root has text keys and integers only");
        tree.sort_all_objects();
        let mut bytes = serde_json::to_vec_pretty(&tree).expect("a JSON tree always has a text");
        bytes.push(b'\n');
        bytes
    }
}

impl RootKey {
    /// `key` as a root writes it.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        let scheme = key.curve().scheme().to_owned();
        Self { keytype: "ecdsa".to_owned(), keyval: RootKeyValue { public: key.to_pem() }, scheme }
    }
}
