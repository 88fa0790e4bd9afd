//! Records known answers while a model is sealed: the model is taken the way of every bundle, in memory, and asked.
//!
//! ```text
//! PackedBundle ─sign, put together─► SealedBundle ─► VerifiedBundle ─► AdmittedBundle ─► ReadyModel ─record─► release statement
//! ```
//!
//! The manifest does not change by it, only what is stated about it, so that what was asked is what is sealed.

use std::sync::Arc;

use ampoule_bundle::archive::{Assembled, Parts};
use ampoule_bundle::statement::{KnownAnswers, Requirements};
use ampoule_bundle::{BundleError, HighWaterMarks, HostFacts, ReleaseStatement, RuntimePolicy, SealedBundle};
use ampoule_inference::{LoadOptions, LoadedModel, Recording, hardware};

use crate::error::SealingError;
use crate::keys::SigningKey;
use crate::progress::Progress;
use crate::seal::{self, PackedBundle};
use crate::trust;

impl PackedBundle {
    /// The same bundle, with what its model computes here in its release statement.
    ///
    /// # Errors
    /// [`SealingError::NoKnownAnswers`] when the model cannot be loaded or gives no answers worth recording.
    pub fn with_known_answers(mut self, recording: &Recording, key: &SigningKey) -> Result<PackedBundle, SealingError> {
        let stated = self.release.clone();
        // What is asked of a site and of its time is not asked of the machine that seals.
        self.release = ReleaseStatement {
            not_before: None,
            expires: None,
            requires: Requirements::runtime_from(seal::own_version()),
            trust_root_version: 1,
            revocation_min: 0,
            ..stated.clone()
        };
        let known_answers = Some(self.known_answers(recording, key)?);
        self.release = ReleaseStatement { known_answers, ..stated };
        Ok(self)
    }

    fn known_answers(&self, recording: &Recording, key: &SigningKey) -> Result<KnownAnswers, SealingError> {
        let unusable = |source: BundleError| SealingError::UnusableBundle(Box::new(source));
        let attestations = self.sign(key)?;
        let parts = Parts { manifest: self.manifest.clone(), config: self.config.clone(), attestations };
        let root = trust::of_key(key)?;
        let assembled = Assembled::new(&parts, &self.contents).map_err(unusable)?;
        let verified = SealedBundle::open(assembled).and_then(|sealed| sealed.verify(&root)).map_err(unusable)?;
        let host = HostFacts {
            now: self.release.issued_at,
            cpu_features: hardware::cpu_features(),
            memory_bytes: u64::MAX,
            accelerators: [].into(),
        };
        let admitted = verified
            .admit(&RuntimePolicy::new(seal::own_version(), []), &host, &HighWaterMarks::none())
            .map_err(|violation| SealingError::NoKnownAnswers { reason: violation.to_string() })?;
        let progress = Arc::new(Progress::of_bytes(admitted.weight_bytes(), "loading"));
        let told = Arc::clone(&progress);
        let options =
            LoadOptions { progress: Some(Arc::new(move |bytes| told.advance(bytes))), ..LoadOptions::default() };
        let ready = LoadedModel::load(admitted, &options).and_then(LoadedModel::prove);
        let recorded = ready.and_then(|mut ready| ready.record(recording));
        recorded.map_err(|error| SealingError::NoKnownAnswers { reason: error.to_string() })
    }
}
