//! What bundles are held against here: this runtime, this host, what the site accepts, and what was taken into use before.
//! The decision itself is pure and belongs to the bundle; this module gathers what it depends on.

use ampoule_bundle::statement::{AdapterBinding, BundleKind};
use ampoule_bundle::{AdmittedBundle, Examination, Footprint, HighWaterMarks, RuntimePolicy, VerifiedBundle};
use ampoule_inference::InferenceError;

use crate::config::{AcceptedBundles, AdmissionConfig};
use crate::error::Error;
use crate::host;
use crate::http::ENDPOINTS;
use crate::state::Keeping;
use crate::store::Store;

/// What bundles are held against.
#[derive(Debug, Clone)]
pub struct Admission {
    policy: RuntimePolicy,
    keeping: Keeping,
    /// What somebody else remembers, beside what is kept.
    remembered: HighWaterMarks,
}

impl Admission {
    /// This runtime and this host alone: nothing is configured and nothing kept.
    pub fn of_host() -> Admission {
        Admission::new(AcceptedBundles::default(), Keeping::Nowhere)
    }

    /// What a configuration accepts, and the state that it names.
    ///
    /// # Errors
    /// [`Error::Store`] when the configured store cannot be used, [`Error::State`] when the state cannot.
    pub fn of_site(config: &AdmissionConfig) -> Result<Admission, Error> {
        let keeping = match (&config.store, &config.state) {
            (Some(folder), _) => Store::open(folder)?.keeping(),
            (None, Some(folder)) => Keeping::Folder(folder.clone()),
            (None, None) => Keeping::Nowhere,
        };
        // A state that cannot be used is told before anything is read for nothing.
        keeping.marks()?;
        Ok(Admission::new(config.accepted.clone(), keeping))
    }

    /// What a store keeps, and no configuration.
    pub fn of_store(store: &Store) -> Admission {
        Admission::new(AcceptedBundles::default(), store.keeping())
    }

    fn new(accepted: AcceptedBundles, keeping: Keeping) -> Admission {
        let version = env!("CARGO_PKG_VERSION").parse().expect("cargo's own version is a semantic version");
        let policy = RuntimePolicy {
            made: Some(host::made()),
            channels: accepted.channels,
            minimum_versions: accepted.minimum_versions,
            settings: accepted.origins,
            ..RuntimePolicy::new(version, ENDPOINTS)
        };
        Admission { policy, keeping, remembered: HighWaterMarks::none() }
    }

    /// The same for a model of which it is foreseen what it takes.
    #[must_use]
    pub fn with_footprint(mut self, footprint: Option<Footprint>) -> Admission {
        self.policy.footprint = footprint;
        self
    }

    /// The same for adapters that are to be served beside a model with this binding.
    #[must_use]
    pub fn beside(mut self, base: Option<&AdapterBinding>) -> Admission {
        self.policy.base = base.cloned();
        self
    }

    /// The same, held against these marks too.
    #[must_use]
    pub fn remembering(mut self, marks: HighWaterMarks) -> Admission {
        self.remembered = marks;
        self
    }

    /// Where what was seen is kept.
    pub fn keeping(&self) -> &Keeping {
        &self.keeping
    }

    /// Decides whether a verified bundle may run on this host, now.
    ///
    /// # Errors
    /// [`Error::NotAdmitted`] with the rule that it breaks, [`Error::State`] when the state cannot be used.
    pub fn admit(&self, verified: VerifiedBundle, name: &str) -> Result<AdmittedBundle, Error> {
        let admitted = verified
            .admit(&self.policy, &host::facts()?, &self.marks()?)
            .map_err(|violation| Error::NotAdmitted { name: name.to_owned(), violation: Box::new(violation) })?;
        for notice in admitted.notices() {
            tracing::warn!(%notice, "the bundle is admitted with a notice");
        }
        Ok(admitted)
    }

    /// Admits what is to be served by itself, which an adapter cannot be.
    ///
    /// # Errors
    /// As [`Admission::admit`], and [`Error::Model`] for an adapter.
    pub fn admit_model(&self, verified: VerifiedBundle, name: &str) -> Result<AdmittedBundle, Error> {
        let admitted = self.admit(verified, name)?;
        if admitted.identity().kind != BundleKind::Model {
            let of_adapter = InferenceError::AnAdapter { name: admitted.identity().name.to_string() };
            return Err(Error::from_inference(name, of_adapter));
        }
        Ok(admitted)
    }

    /// Holds a verified bundle against every rule.
    ///
    /// # Errors
    /// [`Error::State`] when the state cannot be used, [`Error::Host`] when the system does not tell its memory.
    pub fn examine(&self, verified: &VerifiedBundle) -> Result<Examination, Error> {
        Ok(verified.examine(&self.policy, &host::facts()?, &self.marks()?))
    }

    fn marks(&self) -> Result<HighWaterMarks, Error> {
        let mut marks = self.keeping.marks()?;
        marks.raise(&self.remembered);
        Ok(marks)
    }
}
