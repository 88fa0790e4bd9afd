//! Adds another key's signatures to a bundle: the same statements, byte for byte, attested once more.
//!
//! Keys that must sign together lie on different machines, so a bundle goes from one to the next. Manifest, config and
//! layers stay what they are, and with them the bundle's identity; only attestations are added.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::Path;

use ampoule_bundle::statement::Predicate;
use ampoule_bundle::{Attestation, BundleError, PublicKey, SealedBundle, Source, archive};

use crate::error::SealingError;
use crate::files;
use crate::keys::SigningKey;
use crate::progress::Progress;
use crate::seal::{attest, check_written};
use crate::trust;

/// What every bundle begins with: the name of its first entry.
const FIRST_BYTES: &[u8] = b"oci-layout\0";
/// The same of a thin bundle.
const THIN_FIRST_BYTES: &[u8] = b"thin-bundle.json\0";

/// Which kind of bundle a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleForm {
    /// One that carries all its files.
    Whole,
    /// One that lacks what an older one has.
    Thin,
}

impl BundleForm {
    /// How the file at `path` begins; none where it is no bundle.
    ///
    /// # Errors
    /// `Read` when it cannot be.
    pub fn of(path: &Path) -> Result<Option<BundleForm>, SealingError> {
        let in_context = |source| SealingError::Read { path: path.to_owned(), source };
        let mut first = Vec::new();
        let file = File::open(path).map_err(in_context)?;
        file.take(THIN_FIRST_BYTES.len() as u64).read_to_end(&mut first).map_err(in_context)?;
        Ok(match first {
            first if first.starts_with(FIRST_BYTES) => Some(BundleForm::Whole),
            first if first.starts_with(THIN_FIRST_BYTES) => Some(BundleForm::Thin),
            _ => None,
        })
    }
}

/// Writes `out`, which may be the file at `path`: the same bundle with every statement of it signed by `key` too.
///
/// # Errors
/// `AlreadySigned`; a bundle whose statements differ, or that lacks one; what is refused when the result is read back.
pub fn countersign(path: &Path, key: &SigningKey, out: &Path) -> Result<SealedBundle, SealingError> {
    let sealed = files::open_bundle(path)?;
    let added = attest_again(sealed.unverified_attestations(), key)?;
    let attestations = [sealed.unverified_attestations(), &added].concat();
    let manifest = sealed.unverified_manifest();
    let config = sealed.unverified_config().to_bytes();
    let write = |writer: &mut BufWriter<File>| {
        let progress = Progress::of_bytes(manifest.layers().iter().map(|layer| layer.size).sum(), "writing");
        let layers: Vec<_> = (0..manifest.layers().len()).map(|index| sealed.layer(index)).collect();
        let metered: Vec<_> = layers.iter().map(|layer| progress.metering(layer)).collect();
        let layers: Vec<&dyn Source> = metered.iter().map(|layer| layer as &dyn Source).collect();
        let contents = archive::Contents { manifest, config: &config, attestations: &attestations, layers: &layers };
        archive::write(&contents, writer).map_err(|error| SealingError::while_writing(out, error))
    };
    // Under a root of this key alone, so that what it has just signed is held against the manifest.
    let root = trust::of_key(key)?;
    files::write_checked(out, write, |file| check_written(file, &root))?;
    Ok(sealed)
}

/// Attests each statement that is there, once.
fn attest_again(attestations: &[Attestation], key: &SigningKey) -> Result<Vec<Attestation>, SealingError> {
    let public = PublicKey::from_pem(key.public_pem())?;
    let mut payloads: BTreeMap<Predicate, &[u8]> = BTreeMap::new();
    for attestation in attestations {
        let (statement, key) = (attestation.predicate().name(), public.id());
        if attestation.key() == key {
            let error = match attestation.is_signed_by(&public) {
                true => SealingError::AlreadySigned { what: "bundle", key },
                false => BundleError::BadSignature { key, statement }.into(),
            };
            return Err(error);
        }
        let first = *payloads.entry(attestation.predicate()).or_insert(attestation.payload());
        if first != attestation.payload() {
            return Err(BundleError::DifferingStatements { statement }.into());
        }
    }
    payloads.values().map(|payload| attest(payload, key)).collect()
}
