//! The straight line from a path to a serving process.  Each step is one function that consumes what the step before it
//! made, so that a step cannot be skipped or done twice:
//!
//! ```text
//! path ─open_bundle─► SealedBundle ─verify, unlock─► VerifiedBundle ─admit─► AdmittedBundle ─contract─► (settled configuration)
//!      ─load─► LoadedModel ─prove─► ReadyModel ─spawn─► EngineHandle ─► Server
//! ```
//!
//! Every file is opened once, and addresses are taken, before anything is loaded; connections are accepted after the
//! model has proven itself, so a port that answers is a model that works.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ampoule_bundle::statement::{BundleKind, Endpoint};
use ampoule_bundle::{
    AcceptedVersions, AdmittedBundle, BundleIdentity, Digest, RuntimePolicy, SealedBundle, Source, TrustRoot,
    VerifiedBundle, regular, without_waiting,
};
use ampoule_inference::{EngineConfig, EngineHandle, IfTaken, InferenceError, LoadOptions, LoadedModel};
use tokio::runtime::Runtime;

use crate::adapters::{AdapterDesk, AdmittedAdapter};
use crate::admin_socket::AdminSocket;
use crate::config::{
    BundleSource, ConfigError, ConfigErrors, Contract, Effective, Layers, Limits, ListenPlan, MetricsPlan,
    RuntimeConfig, Shutdown,
};
use crate::demo;
use crate::error::Error;
use crate::exit::Exit;
use crate::host;
use crate::http::{Admin, ENDPOINTS, Ended, HttpLimits, Listeners, SamplingDefaults, ServedModel, Server, ServerParts};
use crate::identity::DecryptionIdentities;
use crate::inherited::Inherited;
use crate::keys::KeyStore;
use crate::listen::{BoundListener, BoundSocket, PlannedListener};
use crate::metrics::Metrics;
use crate::permissions;
use crate::progress::Progress;
use crate::report;
use crate::signals::StopSignals;
use crate::state::State;
use crate::store::Store;

/// A trust root is a page of JSON with a few keys.
const TRUST_ROOT_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// Serves until it is asked to stop, then drains.
///
/// # Errors
/// The first step of the line that refuses.
pub fn serve(layers: &Layers, config: RuntimeConfig) -> Result<Exit, Error> {
    // First of all, because it changes the environment, which only a process of one thread may.
    let inherited = Inherited::take()?;
    let runtime = threads()?;
    let outcome = runtime.block_on(async {
        let mut stop = StopSignals::install()?;
        let layers = layers.clone();
        let prepared = tokio::task::spawn_blocking(move || prepare(&layers, &config, inherited));
        let prepared = tokio::select! {
            () = stop.requested() => return Ok(Exit::Ok),
            prepared = prepared => prepared.map_err(|_| Error::Defect)??,
        };
        prepared.serve(async move { stop.requested().await }, |_| {}).await
    });
    // A load that was interrupted may still be reading; nothing waits for it.
    runtime.shutdown_background();
    outcome
}

/// Goes as far along the line as is possible without reading weights, and returns the configuration that would hold:
/// what `config check` checks and `config show` shows.
///
/// # Errors
/// The first step that refuses.
pub fn check(layers: &Layers, config: &RuntimeConfig) -> Result<Effective, Error> {
    let opened = Opened::open(config, PlannedListener::prepare(&config.listen)?)?;
    let verified = verify(opened.bundle, &opened.trust_root, &opened.name).map_err(|error| explain(error, config))?;
    let verified = opened.identities.unlock(verified, &opened.name)?;
    let admitted = admit_model(verified, &opened.name)?;
    let settled = settle(layers, &admitted)?;
    let settled_config = RuntimeConfig::require(&settled)?;
    admit_adapters(&settled_config.adapters, &opened.trust_root, &opened.identities)?;
    settled_config.admin_socket.as_deref().map(AdminSocket::check).transpose()?;
    Ok(settled)
}

/// Everything that comes from files.
struct Opened {
    name: String,
    bundle: SealedBundle,
    trust_root: TrustRoot,
    identities: DecryptionIdentities,
    keys: KeyStore,
    listener: PlannedListener,
}

impl Opened {
    fn open(config: &RuntimeConfig, listener: PlannedListener) -> Result<Opened, Error> {
        let keys = KeyStore::load(&config.keys_file)?;
        if keys.is_empty() {
            return Err(Error::NoKeys { path: config.keys_file.clone() });
        }
        let trust_root = serving_root(&read_trust_root(&config.trust_root)?, &config.trust_root)?;
        let identities = DecryptionIdentities::read(config.decryption_identity.as_deref())?;
        let (name, bundle) = match &config.source {
            BundleSource::File(path) => (path.display().to_string(), open_bundle(path)?),
            BundleSource::Store(folder) => {
                let store = Store::open(folder)?;
                let active = store.active()?;
                (store.describe(active), store.open_bundle(active)?)
            }
        };
        Ok(Opened { name, bundle, trust_root, identities, keys, listener })
    }
}

fn prepare(layers: &Layers, config: &RuntimeConfig, inherited: Inherited) -> Result<Prepared, Error> {
    prepare_unexplained(layers, config, inherited).map_err(|error| explain(error, config))
}

/// What to do about a refused bundle depends on where it came from.
fn explain(error: Error, config: &RuntimeConfig) -> Error {
    match config.source {
        BundleSource::File(_) => error,
        BundleSource::Store(_) => error.in_store(),
    }
}

fn prepare_unexplained(layers: &Layers, config: &RuntimeConfig, inherited: Inherited) -> Result<Prepared, Error> {
    // Addresses and TLS files are the site's own: no bundle has a say in them.
    let of_site = layers.merge();
    let listener = match inherited.api {
        None => PlannedListener::prepare(&config.listen)?,
        Some(api) => PlannedListener::inherit(&ListenPlan::inherited(&of_site, api.address)?, api)?,
    };
    let inherited_metrics = match inherited.metrics {
        None => None,
        // The plan itself says no more than the address that the socket has.
        Some(metrics) => MetricsPlan::inherited(&of_site, metrics.address).map(|_| Some(metrics))?,
    };
    let opened = Opened::open(config, listener)?;
    let verified = verify(opened.bundle, &opened.trust_root, &opened.name)?;
    report::log(verified.identity());
    let verified = opened.identities.unlock(verified, &opened.name)?;
    let admitted = admit_model(verified, &opened.name)?;
    let settled = settle(layers, &admitted)?;
    let config = RuntimeConfig::require(&settled)?;
    let listener = opened.listener.bind()?;
    let metrics = match inherited_metrics {
        Some(listener) => Some(BoundSocket::inherited(listener)),
        None => config.metrics.as_ref().map(BoundSocket::for_metrics).transpose()?,
    };
    let admin_socket = config.admin_socket.as_deref().map(AdminSocket::bind).transpose()?;
    let adapters = admit_adapters(&config.adapters, &opened.trust_root, &opened.identities)?;
    // Everything is open that will be opened now: the secrets are wiped before the long part begins.
    drop(opened.identities);
    let running = start(admitted, &config.limits, &opened.name)?;
    let served = config.model_name.unwrap_or_else(|| running.identity.name.to_string());
    for adapter in adapters {
        adapter.bind(&running.engine, &served, IfTaken::Refuse)?;
    }
    let identity = config.decryption_identity;
    let desk = |root| AdapterDesk { root, identity, engine: running.engine.clone(), served: served.clone() };
    let admin = admin_socket.map(|socket| Admin { socket, desk: desk(opened.trust_root) });
    Ok(Prepared {
        running,
        keys: opened.keys,
        listener,
        metrics,
        admin,
        served,
        http_limits: http_limits(&config.limits, config.shutdown),
        config_digest: config.digest,
    })
}

/// Opens a bundle file, once.
///
/// # Errors
/// [`Error::OpenBundle`] when there is no such file, [`Error::NotABundleFile`] and [`Error::Bundle`] when it is no bundle.
pub fn open_bundle(path: &Path) -> Result<SealedBundle, Error> {
    let at = |source| Error::OpenBundle { path: path.to_owned(), source };
    let file = regular(without_waiting().open(path), || path.metadata()).map_err(at)?;
    let file = file.map_err(|found| Error::NotABundleFile { path: path.to_owned(), found })?;
    open_source(file, &path.display().to_string())
}

/// Reads the framing of a bundle from an open source.  Nothing in it is trusted yet.
///
/// # Errors
/// [`Error::Bundle`] when it is no bundle.
pub fn open_source(source: impl Source + 'static, name: &str) -> Result<SealedBundle, Error> {
    SealedBundle::open(source).map_err(|source| Error::Bundle { name: name.to_owned(), source: Box::new(source) })
}

/// Reads a trust root.
///
/// # Errors
/// [`Error::OpenTrustRoot`] when there is no such file, [`Error::TrustRoot`] when it is no root.
pub fn open_trust_root(path: &Path) -> Result<TrustRoot, Error> {
    parse_trust_root(&read_trust_root(path)?, path)
}

/// The trust root in `bytes`, unless it is the demo's, which serves nothing else.
///
/// # Errors
/// [`Error::TrustRoot`] when it is no root, [`Error::Configuration`] when it is the demo's.
pub fn serving_root(bytes: &[u8], path: &Path) -> Result<TrustRoot, Error> {
    let root = parse_trust_root(bytes, path)?;
    if demo::shares_a_key_with(&root) {
        let digest = root.digest().to_string();
        return Err(ConfigErrors::from(ConfigError::DemoRoot { digest }).into());
    }
    Ok(root)
}

fn parse_trust_root(bytes: &[u8], path: &Path) -> Result<TrustRoot, Error> {
    TrustRoot::parse(bytes).map_err(|source| Error::TrustRoot { path: path.to_owned(), source: Box::new(source) })
}

/// The bytes of a trust root's file, which only its owner may write.
///
/// # Errors
/// [`Error::OpenTrustRoot`] when there is no such file, [`Error::WritableTrustRoot`] and [`Error::KeyForTrustRoot`].
pub fn read_trust_root(path: &Path) -> Result<Vec<u8>, Error> {
    let at = |source| Error::OpenTrustRoot { path: path.to_owned(), source };
    let file = regular(without_waiting().open(path), || path.metadata()).map_err(at)?;
    let file = file.map_err(|found| at(io::Error::other(format!("it is {found}, not a file"))))?;
    if let Some(found) = permissions::writable_by_all(&file).map_err(at)? {
        return Err(Error::WritableTrustRoot { path: path.to_owned(), found });
    }
    let mut bytes = Vec::new();
    file.take(TRUST_ROOT_LIMIT_BYTES).read_to_end(&mut bytes).map_err(at)?;
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(Error::KeyForTrustRoot { path: path.to_owned() });
    }
    Ok(bytes)
}

/// Checks signatures and digests.
///
/// # Errors
/// [`Error::Bundle`] with the defect.
pub fn verify(sealed: SealedBundle, root: &TrustRoot, name: &str) -> Result<VerifiedBundle, Error> {
    sealed.verify(root).map_err(|source| Error::Bundle { name: name.to_owned(), source: Box::new(source) })
}

/// Holds every weight of a verified bundle against its digest, and shows how far that has come.
///
/// # Errors
/// [`Error::Bundle`] with the first file that is not what was signed.
pub fn check_every_byte(verified: &VerifiedBundle, name: &str) -> Result<(), Error> {
    let progress = Progress::start("Verifying", verified.weight_bytes());
    let outcome = verified.check_weights(&|bytes| progress.advance(bytes));
    progress.finish();
    outcome.map_err(|source| Error::Bundle { name: name.to_owned(), source: Box::new(source) })
}

/// Decides whether a verified bundle may run on this host, now.
///
/// # Errors
/// [`Error::NotAdmitted`] with the rule that it breaks.
pub fn admit(verified: VerifiedBundle, accepted: &AcceptedVersions, name: &str) -> Result<AdmittedBundle, Error> {
    let admitted = verified
        .admit(&policy(), &host::facts()?, accepted)
        .map_err(|violation| Error::NotAdmitted { name: name.to_owned(), violation: Box::new(violation) })?;
    for notice in admitted.notices() {
        tracing::warn!(%notice, "the bundle is admitted with a notice");
    }
    Ok(admitted)
}

/// Admits what is to be served by itself, which an adapter cannot be.
///
/// # Errors
/// As [`admit`], and [`Error::Model`] for an adapter.
pub fn admit_model(verified: VerifiedBundle, name: &str) -> Result<AdmittedBundle, Error> {
    let admitted = admit(verified, &State::Unkept.accepted(), name)?;
    if admitted.identity().kind != BundleKind::Model {
        return Err(Error::from_inference(
            name,
            InferenceError::AnAdapter { name: admitted.identity().name.to_string() },
        ));
    }
    Ok(admitted)
}

/// Settles the configuration under the contract of an admitted bundle.
///
/// # Errors
/// [`Error::Configuration`] when the site loosens what the bundle constrains.
pub fn settle(layers: &Layers, admitted: &AdmittedBundle) -> Result<Effective, Error> {
    let release = admitted.release();
    let schema = release.settings_schema.as_ref().and_then(|path| admitted.file(path.as_str()));
    Ok(Contract::of(release, schema)?.apply(layers)?)
}

/// All adapters before the model is loaded: a refusal costs a second then, and a minute afterwards.
fn admit_adapters(
    paths: &[PathBuf],
    root: &TrustRoot,
    identities: &DecryptionIdentities,
) -> Result<Vec<AdmittedAdapter>, Error> {
    paths.iter().map(|path| AdmittedAdapter::admit(path, root, identities)).collect()
}

/// A model that runs, and what is told about it.
pub struct Running {
    /// The engine.
    pub engine: EngineHandle,
    /// What it runs.
    pub identity: BundleIdentity,
    /// What applies where a request says nothing.
    pub defaults: SamplingDefaults,
    /// The endpoints that the bundle allows; all of them when absent.
    pub endpoints: Option<BTreeSet<Endpoint>>,
}

/// Loads an admitted bundle's weights, proves the model and starts its engine.
///
/// # Errors
/// [`Error::Model`] with the defect, [`Error::Bundle`] when a weight is not what was signed.
pub fn start(admitted: AdmittedBundle, limits: &Limits, name: &str) -> Result<Running, Error> {
    let began = Instant::now();
    let refused = |source| Error::from_inference(name, source);
    let identity = admitted.identity().clone();
    let endpoints = admitted.release().constraints.endpoints.clone();
    let defaults = sampling_defaults(&admitted, name)?;
    let progress = Arc::new(Progress::start("Loading", admitted.weight_bytes()));
    let told = Arc::clone(&progress);
    let options = LoadOptions {
        context_length: limits.context_tokens,
        progress: Some(Arc::new(move |bytes| told.advance(bytes))),
    };
    let loaded = LoadedModel::load(admitted, &options).map_err(refused)?;
    progress.finish();
    let ready = loaded.prove().map_err(refused)?;
    let profile = ready.profile();
    tracing::info!(
        architecture = profile.architecture,
        parameters = profile.parameters,
        quantisation = profile.quantisation,
        context_length = profile.context_length,
        seconds = began.elapsed().as_secs_f64(),
        "the model is loaded and proven"
    );
    let config = EngineConfig {
        queue_capacity: limits.queued_requests,
        max_running: limits.running_requests,
        token_budget: limits.token_budget,
        max_adapters: limits.adapters,
        ..EngineConfig::default()
    };
    let engine = ready.spawn(config).map_err(refused)?;
    Ok(Running { engine, identity, defaults, endpoints })
}

fn sampling_defaults(admitted: &AdmittedBundle, name: &str) -> Result<SamplingDefaults, Error> {
    match admitted.file("generation_config.json") {
        None => Ok(SamplingDefaults::default()),
        Some(json) => SamplingDefaults::from_generation_config(json)
            .map_err(|reason| Error::GenerationConfig { name: name.to_owned(), reason }),
    }
}

/// Everything that serving needs; all that is left is to accept connections.
pub struct Prepared {
    /// The model.
    pub running: Running,
    /// Who may call.
    pub keys: KeyStore,
    /// Where to listen.
    pub listener: BoundListener,
    /// Where to serve metrics.
    pub metrics: Option<BoundSocket>,
    /// Where to serve administration, and what is administered.
    pub admin: Option<Admin>,
    /// The name that clients use.
    pub served: String,
    /// The limits of the HTTP surface.
    pub http_limits: HttpLimits,
    /// The digest of the settled configuration.
    pub config_digest: Digest,
}

impl Prepared {
    /// Begins to accept connections, tells `listening` where, and serves until `shutdown` resolves and the drain is over.
    ///
    /// # Errors
    /// [`Error::Listen`] when an address was taken meanwhile, [`Error::Serve`] when the engine ended by itself.
    pub async fn serve(
        self,
        shutdown: impl Future<Output = ()> + Send + 'static,
        listening: impl FnOnce(SocketAddr),
    ) -> Result<Exit, Error> {
        let (listener, address) = self.listener.listen()?;
        let metrics_listener = self.metrics.map(BoundSocket::listen).transpose()?;
        let metrics_address = metrics_listener.as_ref().map(|(_, address)| address.to_string());
        let admin_socket = self.admin.as_ref().map(|admin| admin.socket.path().display().to_string());
        let name = self.served;
        let engine = self.running.engine.clone();
        let server = Server::new(ServerParts {
            engine: self.running.engine,
            served: ServedModel {
                name: name.clone(),
                bundle: self.running.identity,
                config_digest: self.config_digest,
                defaults: self.running.defaults,
                endpoints: self.running.endpoints,
            },
            keys: self.keys,
            limits: self.http_limits,
            metrics: Metrics::new(),
            clock: jiff::Timestamp::now,
        });
        tracing::info!(%address, metrics_address, admin_socket, model = name, config_digest = %self.config_digest, "serving");
        listening(address);
        let metrics = metrics_listener.map(|(listener, _)| listener);
        let listeners = Listeners { api: listener, metrics, admin: self.admin };
        let Ended { cut_off } = server.run(listeners, shutdown).await?;
        engine.drain();
        engine.ended().await;
        if cut_off == 0 {
            tracing::info!("drained");
        } else {
            tracing::warn!(connections = cut_off, "the drain deadline passed: open requests were cut off");
        }
        Ok(Exit::Ok)
    }
}

/// The threads that serve connections.  Few: they only move bytes, the engine computes on threads of its own.
pub fn threads() -> Result<Runtime, Error> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, 8))
        .thread_name("serving")
        .enable_all()
        .build()
        .map_err(|source| Error::Threads { source })
}

/// The limits of the HTTP surface under this configuration.
pub fn http_limits(limits: &Limits, shutdown: Shutdown) -> HttpLimits {
    HttpLimits {
        max_body_bytes: limits.body_bytes,
        max_connections: limits.connections,
        max_connections_per_client: (limits.connections - limits.connections / 4).max(1),
        max_output_tokens: limits.output_tokens.map(|most| u32::try_from(most).unwrap_or(u32::MAX)),
        readiness_grace: shutdown.readiness_grace,
        drain_deadline: shutdown.drain_deadline,
        ..HttpLimits::default()
    }
}

/// What this runtime is.  The channels and the minimum versions that a site accepts come with the store.
fn policy() -> RuntimePolicy {
    let version = env!("CARGO_PKG_VERSION").parse().expect("cargo's own version is a semantic version");
    RuntimePolicy::new(version, ENDPOINTS)
}
