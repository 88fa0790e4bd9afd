//! The root that succeeds another: version N+1, changed in one way, to be signed by the keys of both.

use std::path::Path;

use ampoule_bundle::trust::{RootKey, RootRole};
use ampoule_bundle::{Epoch, KeyId, PublicKey, Role, RootDocument, Timestamp, TrustRoot};

use super::{finish_root, refuse_to_replace};
use crate::error::SealingError;
use crate::keys::SigningKey;

/// What the next root has otherwise.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Keys that come in, each into one role.
    pub add: Vec<(Role, PublicKey)>,
    /// Keys that go, from every role.
    pub remove: Vec<KeyId>,
    /// New thresholds.
    pub thresholds: Vec<(Role, usize)>,
    /// The highest epoch from now on.
    pub maximum_epoch: Option<Epoch>,
    /// The lowest epoch from now on.
    pub minimum_epoch: Option<Epoch>,
    /// When the next root expires.
    pub expires: Option<Timestamp>,
}

impl Change {
    /// `new` in the place of `old`, in every role of `root` that has it.
    ///
    /// # Errors
    /// `NotInRoot` when none has it.
    pub fn replace(root: &TrustRoot, old: KeyId, new: &PublicKey) -> Result<Change, SealingError> {
        let roles = root.document().signed.roles.iter();
        let add: Vec<_> =
            roles.filter(|(_, keys)| keys.keyids.contains(&old)).map(|(role, _)| (*role, new.clone())).collect();
        if add.is_empty() {
            return Err(SealingError::NotInRoot { key: old });
        }
        // Whoever had a release key may have used up the counters of the epoch, so the next one begins.
        let releases = add.iter().any(|(role, _)| *role == Role::Release);
        let highest = root.document().signed.maximum_epoch.filter(|_| releases);
        let maximum_epoch = highest.map(|epoch| Epoch(epoch.0.saturating_add(1)));
        Ok(Change { add, remove: vec![old], maximum_epoch, ..Change::default() })
    }
}

/// Writes the root that follows `root` to `out`. It succeeds only with the signatures of both; `signer` makes one of
/// them.
///
/// # Errors
/// `AlreadyInRole`, `NotInRoot`, `NothingToChange` and what [`super::init`] refuses.
pub fn next(
    root: &TrustRoot,
    change: &Change,
    signer: Option<&SigningKey>,
    out: &Path,
) -> Result<TrustRoot, SealingError> {
    refuse_to_replace(out)?;
    let mut document = RootDocument::unsigned(root.document().signed.clone());
    let signed = &mut document.signed;
    signed.version = signed.version.saturating_add(1);
    for (role, key) in &change.add {
        add(signed, *role, key)?;
    }
    for &key in &change.remove {
        remove(signed, key)?;
    }
    for &(role, threshold) in &change.thresholds {
        let keys = signed.roles.get(&role).map_or(0, |members| members.keyids.len());
        if !(1..=keys).contains(&threshold) {
            return Err(SealingError::ImpossibleThreshold { role: role.name(), keys, threshold });
        }
        signed.roles.entry(role).and_modify(|members| members.threshold = threshold);
    }
    signed.maximum_epoch = change.maximum_epoch.or(signed.maximum_epoch);
    signed.minimum_epoch = change.minimum_epoch.or(signed.minimum_epoch);
    signed.expires = change.expires.unwrap_or(signed.expires);
    let same = RootRole { version: signed.version, ..root.document().signed.clone() };
    if *signed == same {
        return Err(SealingError::NothingToChange);
    }
    finish_root(document, signer, out)
}

fn add(signed: &mut RootRole, role: Role, key: &PublicKey) -> Result<(), SealingError> {
    let members = signed
        .roles
        .entry(role)
        .or_insert_with(|| ampoule_bundle::trust::RoleKeys { keyids: std::collections::BTreeSet::new(), threshold: 1 });
    if !members.keyids.insert(key.id()) {
        return Err(SealingError::AlreadyInRole { key: key.id(), role: role.name() });
    }
    signed.keys.insert(key.id(), RootKey::of(key));
    Ok(())
}

/// A role that loses its last key goes too.
fn remove(signed: &mut RootRole, key: KeyId) -> Result<(), SealingError> {
    if signed.keys.remove(&key).is_none() {
        return Err(SealingError::NotInRoot { key });
    }
    for (role, members) in &mut signed.roles {
        members.keyids.remove(&key);
        let (keys, threshold) = (members.keyids.len(), members.threshold);
        if keys > 0 && keys < threshold {
            return Err(SealingError::ImpossibleThreshold { role: role.name(), keys, threshold });
        }
    }
    signed.roles.retain(|_, members| !members.keyids.is_empty());
    Ok(())
}
