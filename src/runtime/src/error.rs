//! Everything that can end a command, one variant per cause, and the exit code of each.  This is one of the two edges
//! where inner errors are translated; the other is `http::error`, which speaks to clients.

use std::borrow::Cow;
use std::path::PathBuf;

use ampoule_bundle::{BundleError, ErrorClass, NotAFile, PolicyViolation, ViolationClass};
use ampoule_inference::InferenceError;

use crate::admin_socket::AdminSocketError;
use crate::client::ClientError;
use crate::config::ConfigErrors;
use crate::exit::Exit;
use crate::http::ServeError;
use crate::identity::IdentityFileError;
use crate::inherited::InheritedError;
use crate::installation::InstallationError;
use crate::keys::KeyStoreError;
use crate::sandbox::SandboxError;
use crate::state::StateError;
use crate::store::StoreError;
use crate::tls::TlsError;
use crate::trust::TrustFile;

/// Why a command ended without doing what it was asked for.  The large causes are boxed: success should not pay for them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A bundle file cannot be opened.
    #[error("cannot open the bundle {}: {source}", path.display())]
    OpenBundle {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// With --store a bundle is named, and this is no name.
    #[error("with --store the bundle is NAME or NAME@VERSION: {reason}")]
    NotAName {
        /// What is wrong with it.
        reason: BundleError,
    },
    /// Something else than a file where a bundle is wanted.
    #[error("{} is {found}, not a .bundle file: {}", path.display(), cure_of(*found))]
    NotABundleFile {
        /// What was named.
        path: PathBuf,
        /// What it is.
        found: NotAFile,
    },
    /// A bundle is refused before it is admitted.
    #[error("the bundle {name} is refused: {source}")]
    Bundle {
        /// The file, or the bundle's name where there is none.
        name: String,
        /// The defect.
        source: Box<BundleError>,
    },
    /// An authentic bundle may not run here.
    #[error("the bundle {name} may not run here: {violation}")]
    NotAdmitted {
        /// The file.
        name: String,
        /// The rule that it breaks.
        violation: Box<PolicyViolation>,
    },
    /// A bundle that was verified when it was imported is not what it was.
    #[error(
        "{source}; it was verified when it was imported, so its file has changed since: import the bundle again as it was \
         delivered"
    )]
    StoredBundle {
        /// The refusal.
        source: Box<Error>,
    },
    /// The store cannot be read or changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was taken into use before cannot be read or noted.
    #[error(transparent)]
    State(#[from] StateError),
    /// A trust root, a revocation list or a downgrade token cannot be opened.
    #[error("cannot open the {what} {}: {source}", path.display())]
    OpenTrustFile {
        /// The file.
        path: PathBuf,
        /// Which of them it should be.
        what: TrustFile,
        /// What the system says.
        source: std::io::Error,
    },
    /// A key was named where a trust root is wanted.
    #[error("{} is PEM text, such as a key; the trust root is the root.json that your vendor gave you", path.display())]
    KeyForTrustRoot {
        /// The file.
        path: PathBuf,
    },
    /// Every user of this host may exchange a file that says who is trusted.
    #[error("the {what} {} may be written by everybody (mode {found:o}): take that away with `chmod o-w`", path.display())]
    WritableTrustFile {
        /// The file.
        path: PathBuf,
        /// Which of them it is.
        what: TrustFile,
        /// Its mode.
        found: u32,
    },
    /// A trust root, a revocation list or a downgrade token is refused.
    #[error("the {what} {} is refused: {source}", path.display())]
    TrustFile {
        /// The file.
        path: PathBuf,
        /// Which of them it is.
        what: TrustFile,
        /// The defect.
        source: Box<BundleError>,
    },
    /// The trust root cannot be replaced by its successor.
    #[error("cannot replace the trust root {}: {source}; it is what it was", path.display())]
    ReplaceTrustRoot {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// An adapter that the configuration names is refused.
    #[error("an adapter: {source}")]
    Adapter {
        /// Why.
        source: Box<Error>,
    },
    /// An adapter has the name of the model itself, which nothing can take the place of.
    #[error("{path}: the name {name} is taken by the model itself: seal the adapter under another name")]
    NameOfModel {
        /// The adapter's file.
        path: String,
        /// The name.
        name: String,
    },
    /// An adapter has the name of one that is loaded.
    #[error(
        "{path}: the name {name} is taken by an adapter that is loaded: let this one take its place with \
         `ampoule adapters load --replace` (or, at the start, name only one of the two), or seal it under another name"
    )]
    NameOfAdapter {
        /// The adapter's file.
        path: String,
        /// The name.
        name: String,
    },
    /// An adapter that is to be unloaded is not loaded.
    #[error("no adapter {name} is loaded; `ampoule adapters list` names those that are")]
    NoSuchAdapter {
        /// The name.
        name: String,
    },
    /// There can be no admin socket.
    #[error(transparent)]
    AdminSocket(#[from] AdminSocketError),
    /// The running server cannot be reached over its admin socket.
    #[error("no server answers on the admin socket: {0}; `admin_socket` of the running server says where it is")]
    NoAdmin(#[source] ClientError),
    /// The running server refuses what it was asked to do.
    #[error("the server refuses: {message}")]
    Refused {
        /// Its words.
        message: String,
        /// The exit code that goes with them.
        exit: Exit,
    },
    /// The installed release is not what was signed, or there is none.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// The configuration is wrong.
    #[error(transparent)]
    Configuration(#[from] ConfigErrors),
    /// The model cannot be loaded or does not prove itself.
    #[error("the model of {name} cannot be served: {source}")]
    Model {
        /// The bundle.
        name: String,
        /// The defect.
        source: Box<InferenceError>,
    },
    /// The bundle's generation_config.json has no meaning.
    #[error("the generation_config.json of {name} cannot be used: {reason}")]
    GenerationConfig {
        /// The bundle.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The decryption identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityFileError),
    /// The key store cannot be used or changed.
    #[error(transparent)]
    Keys(#[from] KeyStoreError),
    /// The key store lets nobody in.
    #[error("the key file {} holds no key, so nobody could use the server; add one with `ampoule keys add NAME`", path.display())]
    NoKeys {
        /// The file.
        path: PathBuf,
    },
    /// TLS cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener that was inherited cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A layer of the sandbox is missing that must be there.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The server ended by itself.
    #[error("the server ended: {0}")]
    Serve(#[from] ServeError),
    /// A thread of this process panicked; the log names the place.
    #[error("a defect of ampoule: a thread panicked")]
    Defect,
    /// The demo could not talk to its own server.
    #[error("the demo's question got no answer: {0}")]
    Demo(#[from] ClientError),
    /// The demo's own server refused the demo's question.
    #[error("the demo's question was refused with {status}: {body}")]
    DemoRefused {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The process cannot start its threads or its signal handlers.
    #[error("cannot start the runtime's threads: {source}")]
    Threads {
        /// What the system says.
        source: std::io::Error,
    },
    /// The host cannot be examined.
    #[error("cannot find out what this host offers: {reason}")]
    Host {
        /// What the system says.
        reason: String,
    },
    /// Standard output does not take the answer.
    #[error("cannot write to standard output: {source}")]
    Output {
        /// What the system says.
        source: std::io::Error,
    },
}

impl Error {
    /// A refusal of the engine.  A weight that is not what was signed is the bundle's defect, not the model's.
    pub fn from_inference(name: &str, source: InferenceError) -> Error {
        let name = name.to_owned();
        match source {
            InferenceError::Bundle(source) => Error::Bundle { name, source: Box::new(source) },
            source => Error::Model { name, source: Box::new(source) },
        }
    }

    /// The same cause for an adapter, which comes from a file also where the bundle comes from a store.
    pub fn of_adapter(self) -> Error {
        Error::Adapter { source: Box::new(self) }
    }

    /// The same cause for a bundle of the store, where another content means that a file has changed since the import. That
    /// somebody who signed it is trusted no more is no such change.
    pub fn in_store(self) -> Error {
        match self {
            Error::Bundle { name, source } if source.is_about_trust() => Error::Bundle { name, source },
            refusal @ Error::Bundle { .. } => Error::StoredBundle { source: Box::new(refusal) },
            other => other,
        }
    }

    /// The name of this cause for programs, the same in each release: a defect of a bundle has the name that FORMAT.md
    /// gives it, a rule that is broken its own.
    pub fn id(&self) -> Cow<'static, str> {
        let id = match self {
            Error::NotAdmitted { violation, .. } => return violation.rule.id().into(),
            Error::StoredBundle { source } | Error::Adapter { source } => return source.id(),
            Error::Store(StoreError::Unconfirmed { source, .. }) => return source.id(),
            Error::Bundle { source, .. } | Error::TrustFile { source, .. } => source.id(),
            Error::Installation(InstallationError::Refused { source, .. }) => source.id(),
            Error::Installation(InstallationError::OtherKey { .. }) => "other_key",
            Error::Installation(InstallationError::Differs { .. }) => "installation_differs",
            Error::Installation(_) => "unreadable_installation",
            Error::OpenBundle { .. } | Error::NotABundleFile { .. } => "unreadable_file",
            Error::OpenTrustFile { .. } | Error::KeyForTrustRoot { .. } => "unreadable_trust_file",
            Error::WritableTrustFile { .. } => "writable_trust_file",
            Error::Configuration(_) => "configuration",
            Error::Identity(_) => "decryption_identity",
            Error::State(_) | Error::Store(StoreError::HighWater(_)) => "state",
            Error::Store(_) => "store",
            Error::Model { .. } | Error::GenerationConfig { .. } => "model",
            Error::Sandbox(_) => "sandbox",
            _ => "failure",
        };
        id.into()
    }

    /// The exit code of this cause.
    pub fn exit(&self) -> Exit {
        match self {
            Error::OpenBundle { .. }
            | Error::NotABundleFile { .. }
            | Error::OpenTrustFile { .. }
            | Error::KeyForTrustRoot { .. } => Exit::Unreadable,
            Error::Bundle { source, .. } | Error::TrustFile { source, .. } => match source.class() {
                ErrorClass::Unreadable => Exit::Unreadable,
                ErrorClass::Signature => Exit::Signature,
            },
            Error::NotAdmitted { violation, .. } => match violation.class() {
                ViolationClass::NotAdmitted => Exit::NotAdmitted,
                ViolationClass::State => Exit::State,
            },
            Error::StoredBundle { source } | Error::Adapter { source } => source.exit(),
            Error::Installation(InstallationError::Refused { source, .. }) => match source.class() {
                ErrorClass::Unreadable => Exit::Unreadable,
                ErrorClass::Signature => Exit::Signature,
            },
            Error::Installation(InstallationError::OtherKey { .. } | InstallationError::Differs { .. }) => {
                Exit::Signature
            }
            Error::Installation(_) => Exit::Unreadable,
            Error::State(source) | Error::Store(StoreError::HighWater(source)) => match source {
                StateError::Io { .. } | StateError::Busy { .. } => Exit::Failure,
                StateError::WritableByAll { .. } => Exit::Configuration,
                StateError::Reason { .. } => Exit::Usage,
                _ => Exit::State,
            },
            Error::Store(
                StoreError::Io { .. }
                | StoreError::Busy { .. }
                | StoreError::AlreadyThere { .. }
                | StoreError::Export { .. }
                | StoreError::SelfTestNotStarted { .. },
            ) => Exit::Failure,
            Error::Store(StoreError::SelfTest { exit, .. }) => exit.unwrap_or(Exit::Model),
            Error::Store(StoreError::Unconfirmed { source, .. }) => source.exit(),
            Error::Store(StoreError::WritableByAll { .. }) => Exit::Configuration,
            Error::Store(_) => Exit::State,
            // Another host or another configuration is what helps; a second try here is not.
            Error::Sandbox(SandboxError::Missing { .. })
            | Error::Configuration(_)
            | Error::Identity(_)
            | Error::NoKeys { .. }
            | Error::WritableTrustFile { .. } => Exit::Configuration,
            Error::NotAName { .. } => Exit::Usage,
            Error::Keys(source) if source.is_unusable_file() => Exit::Configuration,
            Error::Model { .. }
            | Error::GenerationConfig { .. }
            | Error::NameOfModel { .. }
            | Error::NameOfAdapter { .. } => Exit::Model,
            Error::Defect | Error::Serve(ServeError::EngineEnded) => Exit::Internal,
            Error::Refused { exit, .. } => *exit,
            Error::AdminSocket(source) if source.is_configuration() => Exit::Configuration,
            Error::Tls(_) | Error::AdminSocket(_) | Error::Inherited(_) | Error::Listen { .. } | Error::Serve(_) => {
                Exit::Listener
            }
            Error::Keys(_)
            | Error::ReplaceTrustRoot { .. }
            | Error::NoSuchAdapter { .. }
            | Error::NoAdmin(_)
            | Error::Demo(_)
            | Error::DemoRefused { .. }
            | Error::Threads { .. }
            | Error::Host { .. }
            | Error::Output { .. } => Exit::Failure,
        }
    }
}

fn cure_of(found: NotAFile) -> &'static str {
    match found {
        NotAFile::Folder => {
            "name the file in it; a store is named with --store, an OCI layout is imported as oci:DIR, and a folder with a model \
             is sealed with `ampoule-seal seal`"
        }
        NotAFile::Pipe | NotAFile::Socket | NotAFile::Device => "copy the bundle to a file, and name that",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The codes that no test of the binary can bring about, because they need a defect of ours or of a signed model.
    #[test]
    fn defects_and_unusable_models_have_their_exit_codes() {
        let check = |error: Error, code: u8| assert_eq!(error.exit().code(), code, "{error}");
        let name = "a.bundle".to_owned();
        check(Error::Defect, 70);
        check(Error::Serve(ServeError::EngineEnded), 70);
        check(Error::from_inference(&name, InferenceError::ContextTooShort { found: 1 }), 20);
        check(Error::GenerationConfig { name: name.clone(), reason: "no JSON".to_owned() }, 20);
        check(Error::from_inference(&name, InferenceError::Bundle(BundleError::NotABundle)), 10);
    }
}
