//! What takes trust away, and what gives a little of it back: revocation lists and downgrade tokens.

use std::path::Path;

use ampoule_bundle::trust::{DowngradeDocument, DowngradePart, MinimumCounter, RevocationDocument, RevocationPart};
use ampoule_bundle::{BundleName, BundleVersion, Digest, KeyId, ReleaseStatement, Timestamp};

use super::{check_expiry, finish, refuse_to_replace};
use crate::error::SealingError;
use crate::keys::SigningKey;

/// What a list revokes beyond the one before it.
#[derive(Clone, Debug, Default)]
pub struct Revoked {
    /// Keys.
    pub keys: Vec<KeyId>,
    /// Manifests of bundles.
    pub manifests: Vec<Digest>,
    /// The lowest epoch and counter of a name.
    pub minimum_counters: Vec<(BundleName, MinimumCounter)>,
    /// The lowest version of the runtime.
    pub minimum_runtime: Option<BundleVersion>,
}

/// Writes the revocation list that follows `earlier`, or the first one, signed by `signer`.
///
/// # Errors
/// `NothingToRevoke`, `LowerMinimum` for a minimum that would go back, and `AlreadyExists`.
pub fn revoke(
    earlier: Option<RevocationPart>,
    revoked: &Revoked,
    issued: Timestamp,
    signer: &SigningKey,
    out: &Path,
) -> Result<RevocationPart, SealingError> {
    refuse_to_replace(out)?;
    let first = || RevocationPart::new(0, issued);
    let before = earlier.unwrap_or_else(first);
    let mut list = before.clone();
    list.keys.extend(&revoked.keys);
    list.manifests.extend(&revoked.manifests);
    for (name, minimum) in &revoked.minimum_counters {
        let known = list.minimum_counters.entry(name.clone()).or_insert(*minimum);
        if *minimum < *known {
            return Err(SealingError::LowerMinimum { name: name.clone(), found: *minimum, known: *known });
        }
        *known = *minimum;
    }
    list.minimum_runtime = revoked.minimum_runtime.clone().or(list.minimum_runtime);
    if list == before {
        return Err(SealingError::NothingToRevoke);
    }
    list.issued = issued.max(before.issued);
    list.version = before.version.saturating_add(1);
    finish(RevocationDocument::unsigned(list.clone()), signer, out)?;
    Ok(list)
}

/// Writes the permission to use this bundle below what was accepted before, until `expires`, signed by `signer`.
///
/// # Errors
/// `ExpiryPast` and `AlreadyExists`.
pub fn permit_downgrade(
    release: &ReleaseStatement,
    manifest: Digest,
    expires: Timestamp,
    signer: &SigningKey,
    out: &Path,
) -> Result<(), SealingError> {
    refuse_to_replace(out)?;
    check_expiry("the token", expires)?;
    let part = DowngradePart::new(release.name.clone(), release.epoch, release.counter, manifest, expires);
    finish(DowngradeDocument::unsigned(part), signer, out)
}
