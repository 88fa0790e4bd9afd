//! Makes what customers trust: the root that they pin, the roots that succeed it, and what takes trust away again.
//!
//! [`init`] makes the first root, `next` the ones after it, `revoke` lists and permissions, `sign` adds signatures to
//! any of them; keys that lie on different machines sign one after the other. Whatever is made here is read back as the
//! runtime reads it before it is written.

mod next;
mod revoke;
mod sign;

pub use next::{Change, next};
pub use revoke::{Revoked, permit_downgrade, revoke};
pub use sign::{AnyDocument, Signed, sign};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ampoule_bundle::certificate::{chain_from_pem, to_pem};
use ampoule_bundle::limits::MAX_TRUST_ROOT_BYTES;
use ampoule_bundle::trust::{RoleKeys, RootKey, SignedPart, TrustDocument};
use ampoule_bundle::{Authority, Epoch, KeyId, PublicKey, Role, RootDocument, Timestamp, TrustRoot};

use crate::clock;
use crate::error::SealingError;
use crate::files;
use crate::keys::{self, SigningKey};

/// A root that follows none.
#[derive(Clone, Debug)]
pub struct RootRequest {
    /// Its version: 1, or above that of a root whose place it takes.
    pub version: u64,
    /// Its roles; one without a key is left out.
    pub roles: Vec<RoleRequest>,
    /// The highest key epoch of bundles.
    pub maximum_epoch: Epoch,
    /// When it expires.
    pub expires: Timestamp,
}

/// One role of a new root.
#[derive(Clone, Debug)]
pub struct RoleRequest {
    /// What its keys may sign.
    pub role: Role,
    /// The public key files.
    pub keys: Vec<PathBuf>,
    /// Authorities whose certified keys sign too.
    pub authorities: Vec<AuthorityRequest>,
    /// How many distinct keys must sign.
    pub threshold: usize,
}

/// An authority of a new root.
#[derive(Clone, Debug)]
pub struct AuthorityRequest {
    /// The file of its certificate.
    pub certificate: PathBuf,
    /// The one alternative name that its leaf must have; every leaf counts without it.
    pub identity: Option<String>,
}

/// Writes a trust root that follows none to `out` and gives it back as the runtime will read it. `signer` signs it, if
/// there is one.
///
/// # Errors
/// `AlreadyExists`, `ExpiryPast`, `KeyInTwoRoles`, a key file that is no public key, or a role whose threshold its keys
/// cannot meet.
pub fn init(request: &RootRequest, signer: Option<&SigningKey>, out: &Path) -> Result<TrustRoot, SealingError> {
    refuse_to_replace(out)?;
    let mut document = RootDocument::new(request.version, request.expires, &[]);
    document.signed.maximum_epoch = Some(request.maximum_epoch);
    for request in request.roles.iter().filter(|request| !request.keys.is_empty() || !request.authorities.is_empty()) {
        let keys = request.keys.iter().map(|path| Ok(entry_of_key(&read_key(path)?)));
        let authorities = request.authorities.iter().map(entry_of_authority);
        let entries = keys.chain(authorities).collect::<Result<BTreeMap<_, _>, SealingError>>()?;
        check_threshold(request.role, entries.len(), request.threshold)?;
        let keyids = entries.keys().copied().collect();
        document.signed.roles.insert(request.role, RoleKeys { keyids, threshold: request.threshold });
        document.signed.keys.extend(entries);
    }
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

pub(crate) fn refuse_to_replace(out: &Path) -> Result<(), SealingError> {
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
pub fn of_key(key: &SigningKey) -> Result<TrustRoot, SealingError> {
    let keys = [PublicKey::from_pem(key.public_pem())?];
    // Verifying asks for no time, so the root may as well hold for ever.
    let expires = Timestamp::new(jiff::Timestamp::MAX);
    Ok(TrustRoot::pin(&RootDocument::new(1, expires, &[(Role::Release, &keys, 1)]).to_bytes())?)
}

/// A key that is named twice can sign only once, so `keys` counts distinct ones.
fn check_threshold(role: Role, keys: usize, threshold: usize) -> Result<(), SealingError> {
    if (1..=keys).contains(&threshold) {
        return Ok(());
    }
    Err(SealingError::ImpossibleThreshold { role: role.name(), keys, threshold })
}

fn entry_of_key(key: &PublicKey) -> (KeyId, RootKey) {
    (key.id(), RootKey::of(key))
}

fn entry_of_authority(request: &AuthorityRequest) -> Result<(KeyId, RootKey), SealingError> {
    let path = &request.certificate;
    let unusable = |source| SealingError::UnusableChain { path: path.clone(), source: Box::new(source) };
    let text = files::read_capped(path, MAX_TRUST_ROOT_BYTES)?;
    let certificates = chain_from_pem(&String::from_utf8_lossy(&text)).map_err(unusable)?;
    // Whatever spelling the file has, the root has the one that the id is made of.
    let pem: String = certificates.iter().map(to_pem).collect();
    let identity = request.identity.as_deref();
    let authority = Authority::new(&pem, identity).map_err(unusable)?;
    Ok((authority.id(), RootKey::of_authority(&pem, identity)))
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

        let request = |role, key: &PathBuf, threshold| RoleRequest {
            role,
            keys: vec![key.clone()],
            authorities: Vec::new(),
            threshold,
        };
        let expires = "2036-01-01T00:00:00Z".parse().unwrap();
        let out = folder.path().join("root.json");
        let roles = vec![request(Role::Root, &root_key, 1), request(Role::Release, &release_key, 1)];
        let asked = RootRequest { version: 3, roles: roles.clone(), maximum_epoch: Epoch(1), expires };
        let root = init(&asked, None, &out).unwrap();
        assert_eq!(root.version(), 3);
        assert_eq!(TrustRoot::pin(&std::fs::read(&out).unwrap()).unwrap().digest(), root.digest());
        assert_eq!(root.role(Role::Release).unwrap().keyids, [PublicKey::from_pem(&text).unwrap().id()].into());
        assert!(root.role(Role::Site).is_none());

        assert!(matches!(init(&asked, None, &out), Err(SealingError::AlreadyExists { .. })));
        let out = folder.path().join("other.json");
        for threshold in [0, 2] {
            let mut release = request(Role::Release, &release_key, threshold);
            release.keys.push(release_key.clone());
            let roles = vec![request(Role::Root, &root_key, 1), release];
            let refused = init(&RootRequest { roles, ..asked.clone() }, None, &out);
            assert!(matches!(refused, Err(SealingError::ImpossibleThreshold { keys: 1, .. })), "{refused:?}");
        }
        let both = [roles, vec![request(Role::Site, &release_key, 1)]].concat();
        let refused = init(&RootRequest { roles: both, ..asked.clone() }, None, &out);
        assert!(matches!(refused, Err(SealingError::KeyInTwoRoles { .. })), "{refused:?}");
        let past = "2026-01-01T00:00:00Z".parse().unwrap();
        let refused = init(&RootRequest { expires: past, ..asked }, None, &out);
        assert!(matches!(refused, Err(SealingError::ExpiryPast { .. })), "{refused:?}");
        assert!(!out.exists());
    }
}
