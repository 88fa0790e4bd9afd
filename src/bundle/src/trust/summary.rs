//! A trust root in plain words and as JSON: for `trust show`, which the vendor's tool and the appliance both have.

use std::fmt;

use serde::Serialize;

use crate::digest::Digest;
use crate::key::KeyId;
use crate::names::Epoch;
use crate::timestamp::Timestamp;

use super::root::{Role, TrustRoot};

/// What a root says: who signs what, how many must, and until when.
#[derive(Debug, Serialize)]
pub struct RootSummary {
    version: u64,
    expires: Timestamp,
    digest: Digest,
    minimum_epoch: Option<Epoch>,
    maximum_epoch: Option<Epoch>,
    /// The root's own `root` keys whose signatures on it are right.
    signed_by: Vec<KeyId>,
    roles: Vec<RoleSummary>,
    revocations: Option<RevocationSummary>,
}

#[derive(Debug, Serialize)]
struct RoleSummary {
    role: &'static str,
    signs: &'static str,
    threshold: usize,
    keys: Vec<KeySummary>,
}

#[derive(Debug, Serialize)]
struct KeySummary {
    id: KeyId,
    scheme: String,
    revoked: bool,
}

#[derive(Debug, Serialize)]
struct RevocationSummary {
    version: u64,
    issued: Timestamp,
    digest: Digest,
    keys: usize,
    manifests: usize,
    minimum_counters: usize,
}

/// All roles, in the order in which they are shown.
const ROLES: [(Role, &str); 4] = [
    (Role::Root, "the next trust root"),
    (Role::Release, "any bundle, and downgrade tokens"),
    (Role::Site, "adapters, and nothing else"),
    (Role::Revoke, "revocation lists"),
];

impl RootSummary {
    /// What `root` says.
    #[must_use]
    pub fn of(root: &TrustRoot) -> Self {
        let signed = &root.document().signed;
        let role = |(role, signs): (Role, &'static str)| {
            let members = root.role(role)?;
            let key = |id: &KeyId| KeySummary {
                id: *id,
                scheme: signed.keys.get(id).map_or_else(String::new, |key| key.scheme.clone()),
                revoked: root.has_revoked(*id),
            };
            let keys = members.keyids.iter().map(key).collect();
            Some(RoleSummary { role: role.name(), signs, threshold: members.threshold, keys })
        };
        Self {
            version: root.version(),
            expires: root.expires(),
            digest: root.digest(),
            minimum_epoch: signed.minimum_epoch,
            maximum_epoch: signed.maximum_epoch,
            signed_by: root.signers().unwrap_or_default().into_iter().collect(),
            roles: ROLES.into_iter().filter_map(role).collect(),
            revocations: root.revocations().map(|list| RevocationSummary {
                version: list.version(),
                issued: list.issued(),
                digest: list.digest(),
                keys: list.part().keys.len(),
                manifests: list.part().manifests.len(),
                minimum_counters: list.part().minimum_counters.len(),
            }),
        }
    }
}

/// Labelled lines, each with its line end.
impl fmt::Display for RootSummary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "trust root  version {}, expires {}", self.version, self.expires)?;
        writeln!(out, "digest      {}", self.digest)?;
        match (self.minimum_epoch, self.maximum_epoch) {
            (None, None) => writeln!(out, "epochs      any")?,
            (minimum, Some(maximum)) => writeln!(out, "epochs      {} to {maximum}", minimum.unwrap_or(Epoch(0)))?,
            (Some(minimum), None) => writeln!(out, "epochs      {minimum} and higher")?,
        }
        for role in &self.roles {
            writeln!(out, "{:11} {} of {} must sign {}", role.role, role.threshold, role.keys.len(), role.signs)?;
            for key in &role.keys {
                let signed = role.role == Role::Root.name() && self.signed_by.contains(&key.id);
                let signed = if signed { ", signed this root" } else { "" };
                let revoked = if key.revoked { ", REVOKED" } else { "" };
                writeln!(out, "            {} ({}{signed}{revoked})", key.id, key.scheme)?;
            }
        }
        match &self.revocations {
            None => Ok(()),
            Some(list) => writeln!(
                out,
                "revoked     list version {} of {}: {} keys, {} manifests, minimum counters of {} names",
                list.version, list.issued, list.keys, list.manifests, list.minimum_counters
            ),
        }
    }
}
