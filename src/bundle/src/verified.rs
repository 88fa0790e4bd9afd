//! A bundle that is authentic, and which bundle it is.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::attestation::Attestation;
use crate::certificate::Validity;
use crate::digest::Digest;
use crate::key::KeyId;
use crate::names::{BundleName, BundlePath, BundleVersion, Channel, Counter, Epoch};
use crate::source::Source;
use crate::statement::{AdapterBinding, BundleKind, ReleaseStatement};
use crate::timestamp::Timestamp;
use crate::trust::{Role, TrustRoot};
use crate::unlock::{Decryption, Locked};
use crate::weights::WeightFile;

/// A bundle whose signatures, small files and weight headers have been verified. It may not run yet: that is for
/// [`VerifiedBundle::admit`] to decide.
pub struct VerifiedBundle {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) identity: BundleIdentity,
    pub(crate) release: ReleaseStatement,
    pub(crate) vouchers: Vouchers,
    pub(crate) adapter_binding: Option<AdapterBinding>,
    pub(crate) files: BTreeMap<BundlePath, Vec<u8>>,
    pub(crate) weights: Vec<WeightFile>,
    pub(crate) locked: Option<Locked>,
    pub(crate) decryption: Decryption,
    pub(crate) root: TrustRoot,
}

impl VerifiedBundle {
    /// Which bundle this is.
    #[must_use]
    pub fn identity(&self) -> &BundleIdentity {
        &self.identity
    }

    /// What its vendor states about it.
    #[must_use]
    pub fn release(&self) -> &ReleaseStatement {
        &self.release
    }

    /// The model signing attestation by a key of the role that vouches for the bundle: what is exported as `model.sig`.
    /// `None` in an encrypted bundle that nobody has opened.
    #[must_use]
    pub fn model_signature(&self) -> Option<&Attestation> {
        self.vouchers.model_signature.as_ref()
    }

    /// The weight files, with verified and checked headers.
    #[must_use]
    pub fn weights(&self) -> &[WeightFile] {
        &self.weights
    }

    /// The content of a verified small file.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// What an adapter of it is bound to; `None` when it has no tokenizer.
    #[must_use]
    pub fn adapter_binding(&self) -> Option<&AdapterBinding> {
        self.adapter_binding.as_ref()
    }

    /// The verified small files.
    pub fn files(&self) -> impl Iterator<Item = (&BundlePath, &[u8])> {
        self.files.iter().map(|(path, bytes)| (path, bytes.as_slice()))
    }
}

/// The signatures that a bundle is accepted for, all by keys of one role.
pub(crate) struct Vouchers {
    pub(crate) role: Role,
    pub(crate) release_signers: Vec<Voucher>,
    pub(crate) threshold: usize,
    pub(crate) model_signers: Vec<Voucher>,
    /// Absent as long as it is encrypted.
    pub(crate) model_signature: Option<Attestation>,
}

/// One key that signed and counts.
pub(crate) struct Voucher {
    /// What the root pins: the key itself, or the authority that certifies it.
    pub(crate) entry: KeyId,
    /// The key.
    pub(crate) key: KeyId,
    /// When it counts; `None` is always.
    pub(crate) validity: Option<Validity>,
}

/// Which bundle this is, by verified statements alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleIdentity {
    /// Its name.
    pub name: BundleName,
    /// Its version.
    pub version: BundleVersion,
    /// Its monotonic number.
    pub counter: Counter,
    /// The key epoch of the counter.
    pub epoch: Epoch,
    /// Its release channel.
    pub channel: Channel,
    /// The digest of its manifest: the same digest is the same bundle.
    pub manifest: Digest,
    /// The pinned keys that signed the release statement, and the authorities whose keys did, sorted.
    pub signers: Vec<KeyId>,
    /// Whether it is a model of its own.
    pub kind: BundleKind,
    /// When the release statement was made.
    pub issued_at: Timestamp,
    /// When it expires, if it does.
    pub expires: Option<Timestamp>,
    /// The digest of the trust root that it was verified against.
    pub root_digest: Digest,
    /// The version of that root.
    pub root_version: u64,
    /// The version of the revocation list that it was held against; 0 when there was none.
    pub revocation_version: u64,
}
