//! An adapter's way from a file to the engine, the same at start-up and while it serves:
//!
//! ```text
//! AdapterFile ─admit: verify, admit─► AdmittedAdapter ─bind: load, prove, raise the marks─► may be asked for by its name
//! ```
//!
//! At the start the file is opened by its name, later it comes open from whoever asks: a server that serves opens nothing.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ampoule_bundle::{AdmittedBundle, TrustRoot};
use ampoule_inference::{EngineHandle, IfTaken, InferenceError, LoadedAdapter};

use crate::admission::Admission;
use crate::boot;
use crate::error::Error;
use crate::identity::{DecryptionIdentities, IdentityFile};
use crate::report;
use crate::state::Keeping;

/// An open file that may hold an adapter; nothing of it has been read.
#[derive(Debug)]
pub struct AdapterFile {
    name: String,
    file: File,
}

impl AdapterFile {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Adapter`] when there is none.
    pub fn open(path: &Path) -> Result<AdapterFile, Error> {
        let file = boot::open_file(path).map_err(Error::of_adapter)?;
        Ok(AdapterFile { name: path.display().to_string(), file })
    }

    /// One that somebody else opened, and what it is called in messages.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is no file.
    pub fn passed(file: File, name: &str) -> Result<AdapterFile, Error> {
        let file = boot::require_file(Ok(file), Path::new(name)).map_err(Error::of_adapter)?;
        Ok(AdapterFile { name: name.to_owned(), file })
    }

    /// The same open file once more.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the system has no more descriptors.
    pub fn again(&self) -> Result<AdapterFile, Error> {
        let at = |source| Error::of_adapter(Error::OpenBundle { path: self.name.clone().into(), source });
        Ok(AdapterFile { name: self.name.clone(), file: self.file.try_clone().map_err(at)? })
    }

    /// The file itself, for whoever passes it on.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Verifies and admits the adapter.  What it belongs to is asked when there is a model.
    ///
    /// # Errors
    /// [`Error::Adapter`] with the first step that refuses.
    pub fn admit(
        self,
        root: &TrustRoot,
        admission: &Admission,
        identities: &DecryptionIdentities,
    ) -> Result<AdmittedAdapter, Error> {
        let AdapterFile { name, file } = self;
        let admitted = || {
            let verified = boot::verify(boot::open_source(file, &name)?, root, &name)?;
            report::log(verified.identity());
            admission.admit(identities.unlock(verified, &name)?, &name)
        };
        let bundle = admitted().map_err(Error::of_adapter)?;
        Ok(AdmittedAdapter { file: name, bundle, keeping: admission.keeping().clone() })
    }
}

/// An adapter that may be used here, if it belongs to the model.
pub struct AdmittedAdapter {
    file: String,
    bundle: AdmittedBundle,
    keeping: Keeping,
}

impl AdmittedAdapter {
    /// Loads it and lets it be asked for.  `served` is what clients call the model itself.
    ///
    /// # Errors
    /// [`Error::Adapter`] when it is no adapter of this model, cannot be computed with, or has a name that is taken; or
    /// when the state cannot be written. Then what was loaded before is what it was.
    pub fn bind(self, engine: &EngineHandle, served: &str, if_taken: IfTaken) -> Result<Arc<LoadedAdapter>, Error> {
        let bound = || {
            let adapter = engine.load_adapter(&self.bundle).map_err(|source| match source {
                InferenceError::AdapterNameTaken { name } => Error::NameOfModel { path: self.file.clone(), name },
                other => Error::from_inference(&self.file, other),
            })?;
            if adapter.name() == served {
                return Err(Error::NameOfModel { path: self.file.clone(), name: served.to_owned() });
            }
            let taken = |name| Error::NameOfAdapter { path: self.file.clone(), name };
            // Asked before anything is noted: what is not taken into use must not keep an older one out.
            if if_taken == IfTaken::Refuse && engine.adapters().get(adapter.name()).is_some() {
                return Err(taken(adapter.name().to_owned()));
            }
            // What the next start would not know of must not answer now.
            let by = format!("{} {}", adapter.identity.name, adapter.identity.version);
            self.keeping.raise(self.bundle.marks(), &by)?;
            engine.adopt(adapter, if_taken).map_err(|source| match source {
                InferenceError::AdapterNameTaken { name } => taken(name),
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
    /// What they are held against.
    pub admission: Admission,
    /// The open file of the identity that opens an encrypted one: it is read anew each time, because no secret is kept.
    pub identity: Option<IdentityFile>,
    /// The engine that takes them over.
    pub engine: EngineHandle,
    /// What clients call the model itself.
    pub served: String,
}

impl AdapterDesk {
    /// Takes an adapter through the whole line.
    ///
    /// # Errors
    /// As [`AdapterFile::admit`] and [`AdmittedAdapter::bind`].
    pub fn load(&self, file: AdapterFile, if_taken: IfTaken) -> Result<Arc<LoadedAdapter>, Error> {
        let identities = DecryptionIdentities::of(self.identity.as_ref())?;
        file.admit(&self.root, &self.admission, &identities)?.bind(&self.engine, &self.served, if_taken)
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
