//! An adapter's way from a file to the engine, the same at start-up and while it serves:
//!
//! ```text
//! path ─admit: open, verify, admit─► AdmittedAdapter ─bind: load, prove─► may be asked for by its name
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ampoule_bundle::{AdmittedBundle, TrustRoot};
use ampoule_inference::{EngineHandle, IfTaken, InferenceError, LoadedAdapter};

use crate::boot;
use crate::error::Error;
use crate::identity::DecryptionIdentities;
use crate::report;
use crate::state::State;

/// An adapter that may be used here, if it belongs to the model.
pub struct AdmittedAdapter {
    file: String,
    bundle: AdmittedBundle,
}

impl AdmittedAdapter {
    /// Opens, verifies and admits an adapter.  What it belongs to is asked when there is a model.
    ///
    /// # Errors
    /// [`Error::Adapter`] with the first step that refuses.
    pub fn admit(path: &Path, root: &TrustRoot, identities: &DecryptionIdentities) -> Result<AdmittedAdapter, Error> {
        let file = path.display().to_string();
        let admitted = || {
            let verified = boot::verify(boot::open_bundle(path)?, root, &file)?;
            report::log(verified.identity());
            boot::admit(identities.unlock(verified, &file)?, &State::Unkept.accepted(), &file)
        };
        let bundle = admitted().map_err(Error::of_adapter)?;
        Ok(AdmittedAdapter { file, bundle })
    }

    /// Loads it and lets it be asked for.  `served` is what clients call the model itself.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is no adapter of this model, cannot be computed with, or has a name that is taken.
    pub fn bind(self, engine: &EngineHandle, served: &str, if_taken: IfTaken) -> Result<Arc<LoadedAdapter>, Error> {
        let bound = || {
            let adapter = engine.load_adapter(&self.bundle).map_err(|source| match source {
                InferenceError::AdapterNameTaken { name } => Error::NameOfModel { path: self.file.clone(), name },
                other => Error::from_inference(&self.file, other),
            })?;
            if adapter.name() == served {
                return Err(Error::NameOfModel { path: self.file.clone(), name: served.to_owned() });
            }
            engine.adopt(adapter, if_taken).map_err(|source| match source {
                InferenceError::AdapterNameTaken { name } => Error::NameOfAdapter { path: self.file.clone(), name },
                other => Error::from_inference(&self.file, other),
            })
        };
        bound().map_err(Error::of_adapter)
    }
}

/// What it takes to load adapters while the model serves.
pub struct AdapterDesk {
    /// Who may have sealed them: the trust root as it was read at the start.
    pub root: TrustRoot,
    /// The identity that opens an encrypted one; its file is read anew each time, because no secret is kept.
    pub identity: Option<PathBuf>,
    /// The engine that takes them over.
    pub engine: EngineHandle,
    /// What clients call the model itself.
    pub served: String,
}

impl AdapterDesk {
    /// Takes an adapter through the whole line.
    ///
    /// # Errors
    /// As the two steps of [`AdmittedAdapter`].
    pub fn load(&self, path: &Path, if_taken: IfTaken) -> Result<Arc<LoadedAdapter>, Error> {
        let identities = DecryptionIdentities::read(self.identity.as_deref())?;
        AdmittedAdapter::admit(path, &self.root, &identities)?.bind(&self.engine, &self.served, if_taken)
    }

    /// Lets an adapter be asked for no more; requests that have it finish with it.
    ///
    /// # Errors
    /// [`Error::NoSuchAdapter`] when none of this name is loaded.
    pub fn unload(&self, name: &str) -> Result<Arc<LoadedAdapter>, Error> {
        self.engine.release(name).map_err(|source| match source {
            InferenceError::UnknownAdapter { name } => Error::NoSuchAdapter { name },
            other => Error::from_inference(name, other).of_adapter(),
        })
    }
}
