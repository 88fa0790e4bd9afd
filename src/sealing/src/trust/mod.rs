//! Makes what customers trust: the root that they pin, the roots that succeed it, and what takes trust away again.
//!
//! [`init`] makes the first root, `next` the ones after it, `revoke` lists and permissions, `sign` adds signatures to any of
//! them; keys that lie on different machines sign one after the other. Whatever is made here is read back as the runtime
//! reads it before it is written.

mod next;
mod revoke;
mod sign;

pub use next::{Change, next};
pub use revoke::{Revoked, permit_downgrade, revoke};
pub use sign::{AnyDocument, sign};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ampoule_bundle::trust::{SignedPart, TrustDocument};
use ampoule_bundle::{Epoch, PublicKey, Role, RootDocument, Timestamp, TrustRoot};

use crate::clock;
use crate::error::SealingError;
use crate::files;
use crate::keys::{self, SigningKey};

/// One role of a new root.
#[derive(Clone, Debug)]
pub struct RoleRequest {
    /// What its keys may sign.
    pub role: Role,
    /// The public key files.
    pub keys: Vec<PathBuf>,
    /// How many distinct keys must sign.
    pub threshold: usize,
}

/// Writes the first trust root to `out` and gives it back as the runtime will read it. `signer` signs it, if there is one.
///
/// # Errors
/// `AlreadyExists`, `ExpiryPast`, `KeyInTwoRoles`, a key file that is no public key, or a role whose threshold its keys
/// cannot meet.
pub fn init(
    roles: &[RoleRequest],
    maximum_epoch: Epoch,
    expires: Timestamp,
    signer: Option<&SigningKey>,
    out: &Path,
) -> Result<TrustRoot, SealingError> {
    refuse_to_replace(out)?;
    let mut members: Vec<(Role, Vec<PublicKey>, usize)> = Vec::new();
    for request in roles.iter().filter(|request| !request.keys.is_empty()) {
        let keys = request.keys.iter().map(|path| read_key(path)).collect::<Result<Vec<_>, _>>()?;
        check_threshold(request.role, &keys, request.threshold)?;
        members.push((request.role, keys, request.threshold));
    }
    let members: Vec<(Role, &[PublicKey], usize)> =
        members.iter().map(|(role, keys, threshold)| (*role, keys.as_slice(), *threshold)).collect();
    let mut document = RootDocument::new(1, expires, &members);
    document.signed.maximum_epoch = Some(maximum_epoch);
    finish_root(document, signer, out)
}

/// Checks what the format leaves to whoever makes a root, signs it and writes it.
fn finish_root(mut document: RootDocument, signer: Option<&SigningKey>, out: &Path) -> Result<TrustRoot, SealingError> {
    check_expiry("the root", document.signed.expires)?;
    let keys_of = |role| document.signed.roles.get(&role).map(|members| members.keyids.clone()).unwrap_or_default();
    // Whoever may sign models can sign adapters as well, so a site's key among the vendor's would only hide a mistake.
    if let Some(&key) = keys_of(Role::Release).intersection(&keys_of(Role::Site)).next() {
        return Err(SealingError::KeyInTwoRoles { key });
    }
    if let Some(signer) = signer {
        sign::add_signature(&mut document, signer)?;
    }
    let bytes = document.to_bytes();
    // Read back before it is written: a root that the runtime would refuse never leaves this machine.
    let root = TrustRoot::pin(&bytes)?;
    files::write_bytes(out, &bytes)?;
    Ok(root)
}

/// Signs a list or a token that was just made and writes it.
fn finish<T: SignedPart>(mut document: TrustDocument<T>, signer: &SigningKey, out: &Path) -> Result<(), SealingError> {
    sign::add_signature(&mut document, signer)?;
    files::write_bytes(out, &document.to_bytes())
}

fn refuse_to_replace(out: &Path) -> Result<(), SealingError> {
    if out.exists() {
        return Err(SealingError::AlreadyExists { path: out.to_owned() });
    }
    Ok(())
}

fn check_expiry(what: &'static str, expires: Timestamp) -> Result<(), SealingError> {
    let now = clock::now()?;
    if expires <= now {
        return Err(SealingError::ExpiryPast { what, expires, now });
    }
    Ok(())
}

/// A root that lets `key` alone seal, to verify what it has just sealed. It is never written.
pub(crate) fn of_key(key: &SigningKey) -> Result<TrustRoot, SealingError> {
    let keys = [PublicKey::from_pem(key.public_pem())?];
    // Verifying asks for no time, so the root may as well hold for ever.
    let expires = Timestamp::new(jiff::Timestamp::MAX);
    Ok(TrustRoot::pin(&RootDocument::new(1, expires, &[(Role::Release, &keys, 1)]).to_bytes())?)
}

/// A key that is named twice can sign only once.
fn check_threshold(role: Role, keys: &[PublicKey], threshold: usize) -> Result<(), SealingError> {
    let distinct = keys.iter().map(PublicKey::id).collect::<BTreeSet<_>>().len();
    if (1..=distinct).contains(&threshold) {
        return Ok(());
    }
    Err(SealingError::ImpossibleThreshold { role: role.name(), keys: distinct, threshold })
}

/// Reads a public key file.
pub(crate) fn read_key(path: &Path) -> Result<PublicKey, SealingError> {
    let pem = keys::read_public_pem(path)?;
    PublicKey::from_pem(&pem)
        .map_err(|source| SealingError::UnusablePublicKey { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::keys::Curve;
    use crate::password::Password;

    #[test]
    fn a_root_names_its_keys_by_role_and_refuses_a_threshold_it_cannot_meet() {
        let folder = tempfile::tempdir().unwrap();
        let key = |name: &str, curve| {
            let key = SigningKey::generate(curve).unwrap();
            key.write_pair(&folder.path().join(name), &Password::from("x")).unwrap().public
        };
        let (root_key, release_key) = (key("root", Curve::P384), key("release", Curve::P256));
        // A key file that passed through Windows is the same key.
        let text = std::fs::read_to_string(&release_key).unwrap();
        std::fs::write(&release_key, text.replace('\n', "\r\n")).unwrap();

        let request = |role, key: &PathBuf, threshold| RoleRequest { role, keys: vec![key.clone()], threshold };
        let expires = "2036-01-01T00:00:00Z".parse().unwrap();
        let out = folder.path().join("root.json");
        let roles = [request(Role::Root, &root_key, 1), request(Role::Release, &release_key, 1)];
        let epoch = Epoch(1);
        let root = init(&roles, epoch, expires, None, &out).unwrap();
        assert_eq!(TrustRoot::pin(&std::fs::read(&out).unwrap()).unwrap().digest(), root.digest());
        assert_eq!(root.role(Role::Release).unwrap().keyids, [PublicKey::from_pem(&text).unwrap().id()].into());
        assert!(root.role(Role::Site).is_none());

        assert!(matches!(init(&roles, epoch, expires, None, &out), Err(SealingError::AlreadyExists { .. })));
        let out = folder.path().join("other.json");
        for threshold in [0, 2] {
            let mut release = request(Role::Release, &release_key, threshold);
            release.keys.push(release_key.clone());
            let refused = init(&[request(Role::Root, &root_key, 1), release], epoch, expires, None, &out);
            assert!(matches!(refused, Err(SealingError::ImpossibleThreshold { keys: 1, .. })), "{refused:?}");
        }
        let both = [roles[0].clone(), roles[1].clone(), request(Role::Site, &release_key, 1)];
        let refused = init(&both, epoch, expires, None, &out);
        assert!(matches!(refused, Err(SealingError::KeyInTwoRoles { .. })), "{refused:?}");
        let past = "2026-01-01T00:00:00Z".parse().unwrap();
        let refused = init(&roles, epoch, past, None, &out);
        assert!(matches!(refused, Err(SealingError::ExpiryPast { .. })), "{refused:?}");
        assert!(!out.exists());
    }
}
