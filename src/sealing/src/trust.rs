//! Makes the trust root that a customer pins: which keys may sign what, and how many must.
//!
//! The root is not signed yet: whoever installs it pins it by its digest, and the chain from one root to the next comes
//! with key rotation.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ampoule_bundle::{PublicKey, Role, RootDocument, Timestamp, TrustRoot};

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

/// Writes the first trust root to `out` and gives it back as the runtime will read it.
///
/// # Errors
/// `AlreadyExists`, a key file that is no public key, or a role whose threshold its keys cannot meet.
pub fn init(roles: &[RoleRequest], expires: Timestamp, out: &Path) -> Result<TrustRoot, SealingError> {
    if out.exists() {
        return Err(SealingError::AlreadyExists { path: out.to_owned() });
    }
    let mut members: Vec<(Role, Vec<PublicKey>, usize)> = Vec::new();
    for request in roles.iter().filter(|request| !request.keys.is_empty()) {
        let keys = request.keys.iter().map(|path| read_key(path)).collect::<Result<Vec<_>, _>>()?;
        check_threshold(request.role, &keys, request.threshold)?;
        members.push((request.role, keys, request.threshold));
    }
    let members: Vec<(Role, &[PublicKey], usize)> =
        members.iter().map(|(role, keys, threshold)| (*role, keys.as_slice(), *threshold)).collect();
    let bytes = RootDocument::new(1, expires, &members).to_bytes();
    // Read back before it is written: a root that the runtime would refuse never leaves this machine.
    let root = TrustRoot::parse(&bytes)?;
    files::write_bytes(out, &bytes)?;
    Ok(root)
}

/// A root that lets `key` alone seal, to verify what it has just sealed. It is never written.
pub fn of_key(key: &SigningKey) -> Result<TrustRoot, SealingError> {
    let keys = [PublicKey::from_pem(key.public_pem())?];
    // Verifying asks for no time, so the root may as well hold for ever.
    let expires = Timestamp::new(jiff::Timestamp::MAX);
    Ok(TrustRoot::parse(&RootDocument::new(1, expires, &[(Role::Release, &keys, 1)]).to_bytes())?)
}

/// A key that is named twice can sign only once.
fn check_threshold(role: Role, keys: &[PublicKey], threshold: usize) -> Result<(), SealingError> {
    let distinct = keys.iter().map(PublicKey::id).collect::<BTreeSet<_>>().len();
    if (1..=distinct).contains(&threshold) {
        return Ok(());
    }
    Err(SealingError::ImpossibleThreshold { role: role.name(), keys: distinct, threshold })
}

fn read_key(path: &Path) -> Result<PublicKey, SealingError> {
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
        let root = init(&roles, expires, &out).unwrap();
        assert_eq!(TrustRoot::parse(&std::fs::read(&out).unwrap()).unwrap().digest(), root.digest());
        assert_eq!(root.role(Role::Release).unwrap().keyids, [PublicKey::from_pem(&text).unwrap().id()].into());
        assert!(root.role(Role::Site).is_none());

        assert!(matches!(init(&roles, expires, &out), Err(SealingError::AlreadyExists { .. })));
        let out = folder.path().join("other.json");
        for threshold in [0, 2] {
            let mut release = request(Role::Release, &release_key, threshold);
            release.keys.push(release_key.clone());
            let refused = init(&[request(Role::Root, &root_key, 1), release], expires, &out);
            assert!(matches!(refused, Err(SealingError::ImpossibleThreshold { keys: 1, .. })), "{refused:?}");
        }
        assert!(!out.exists());
    }
}
