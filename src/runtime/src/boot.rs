//! The straight line from a path to a serving process.  Each step is one function that consumes what the step before it
//! made, so that a step cannot be skipped or done twice:
//!
//! ```text
//! path ─open─► File ─(sandbox)─► SealedBundle ─verify, unlock─► VerifiedBundle ─admit─► AdmittedBundle ─contract─► (settled configuration)
//!      ─load─► LoadedModel ─prove─► ReadyModel ─spawn─► EngineHandle ─(marks raised, sandbox closes)─► Server
//! ```
//!
//! Every file is opened once, and addresses are taken, before anything that others made is read; from then on the process
//! is in its sandbox. Connections are accepted after the model has proven itself, so a port that answers is a model that
//! works.

mod opened;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ampoule_bundle::statement::{Endpoint, ReleaseStatement};
use ampoule_bundle::{
    AdmittedBundle, BundleIdentity, Digest, Footprint, SealedBundle, Source, TrustRoot, VerifiedBundle, regular,
    without_waiting,
};
use ampoule_inference::{EngineConfig, EngineHandle, IfTaken, LoadOptions, LoadedModel, ReadyModel};
use tokio::runtime::Runtime;

use crate::adapters::{AdapterDesk, AdapterFile, AdmittedAdapter};
use crate::admin_socket::AdminSocket;
use crate::admission::Admission;
use crate::config::{BundleSource, Contract, Effective, Layers, Limits, RuntimeConfig, Shutdown};
use crate::error::Error;
use crate::exit::Exit;
use crate::expiry::{self, Expiry};
use crate::host;
use crate::http::{Admin, Ended, HttpLimits, Listeners, SamplingDefaults, ServedModel, Server, ServerParts};
use crate::identity::DecryptionIdentities;
use crate::inherited::Inherited;
use crate::keys::KeyStore;
use crate::listen::{BoundListener, BoundSocket, PlannedListener};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::report;
use crate::sandbox::Loading;
use crate::signals::StopSignals;
use crate::state::Keeping;
use crate::store::Trial;

use opened::{Candidate, Doors, Opened, Site, shut_in};

/// Serves until it is asked to stop, then drains.
///
/// # Errors
/// The first step of the line that refuses.
pub fn serve(layers: &Layers, config: RuntimeConfig) -> Result<Exit, Error> {
    // First of all, because it changes the environment, which only a process of one thread may.
    let inherited = Inherited::take()?;
    let trial = match &config.source {
        BundleSource::File(_) => None,
        BundleSource::Store(folder) => Trial::begin(folder)?.map(Arc::new),
    };
    // What is refused from here on to the bundle would be so with any other: the new one has not been tried.
    let withdraw = || {
        trial.as_ref().inspect(|trial| trial.withdraw());
    };
    let (opened, doors, sandbox) = shut_in(layers, &config, inherited).inspect_err(|_| withdraw())?;
    let runtime = threads().inspect_err(|_| withdraw())?;
    let outcome = runtime.block_on(async {
        let mut stop = StopSignals::install().inspect_err(|_| withdraw())?;
        let layers = layers.clone();
        let begun = trial.clone();
        let prepared =
            tokio::task::spawn_blocking(move || prepare(&layers, &config, opened, doors, sandbox, begun.as_deref()));
        let prepared = tokio::select! {
            () = stop.requested() => {
                withdraw();
                return Ok(Exit::Ok);
            }
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
    PlannedListener::prepare(&config.listen)?;
    let Opened { site, active, .. } = Opened::open(config)?;
    let verified = (active.read)()
        .and_then(|sealed| verify(sealed, &site.trust_root, &active.name))
        .map_err(|error| explain(error, config))?;
    let identities = DecryptionIdentities::of(site.identity.as_ref())?;
    let verified = identities.unlock(verified, &active.name)?;
    let admission = site.admission.with_footprint(foresee(layers, &verified).ok());
    let admitted = admission.admit_model(verified, &active.name)?;
    let settled = settle(layers, admitted.release(), |path| admitted.file(path))?;
    let admission = admission.beside(admitted.adapter_binding());
    admit_adapters(&site.adapters, &site.trust_root, &admission, &identities)?;
    config.admin_socket.as_deref().map(AdminSocket::check).transpose()?;
    Ok(settled)
}

/// Takes what was opened to a model that is ready: the active bundle or, if that is on trial and refused, the one before
/// it.  If both are, the new one is not at fault.
fn prepare(
    layers: &Layers,
    config: &RuntimeConfig,
    opened: Opened,
    doors: Doors,
    sandbox: Loading,
    trial: Option<&Trial>,
) -> Result<Prepared, Error> {
    sandbox.let_libraries_ask();
    let Opened { site, active, previous } = opened;
    let attempt = |candidate| make_ready(layers, &site, candidate).map_err(|error| explain(error, config));
    let ready = match (attempt(active), trial, previous) {
        (Ok(ready), trial, _) => {
            trial.inspect(|trial| trial.confirm());
            ready
        }
        (Err(refusal), None, _) => return Err(refusal),
        (Err(refusal), Some(trial), Some(previous)) if trial.can_revert() => {
            tracing::error!(error = %refusal, trying = trial.previous(), "the new bundle does not become ready");
            match attempt(previous) {
                Ok(ready) => {
                    trial.revert(&refusal)?;
                    ready
                }
                Err(_) => {
                    trial.withdraw();
                    return Err(refusal);
                }
            }
        }
        (Err(refusal), Some(trial), _) => return Err(trial.explain(refusal)),
    };
    let Ready { running, admission, served, settings, reverted_from } = ready;
    let Site { trust_root, identity, keys, .. } = site;
    let keeping = admission.keeping().clone();
    let desk =
        AdapterDesk { root: trust_root, admission, identity, engine: running.engine.clone(), served: served.clone() };
    Ok(Prepared {
        running,
        keeping,
        keys,
        listener: doors.listener,
        metrics: doors.metrics,
        admin: doors.admin.map(|socket| Admin { socket, desk }),
        sandbox: Some(sandbox),
        served,
        reverted_from,
        http_limits: http_limits(&settings.limits, settings.shutdown),
        config_digest: settings.digest,
    })
}

/// What to do about a refused bundle depends on where it came from.
fn explain(error: Error, config: &RuntimeConfig) -> Error {
    match config.source {
        BundleSource::File(_) => error,
        BundleSource::Store(_) => error.in_store(),
    }
}

/// A model that has proven itself, under the name and the settings that it is served with.
struct Ready {
    running: Running,
    /// What its adapters are held against.
    admission: Admission,
    served: String,
    settings: RuntimeConfig,
    reverted_from: Option<String>,
}

fn make_ready(layers: &Layers, site: &Site, candidate: Candidate) -> Result<Ready, Error> {
    let Candidate { name, read, reverted_from } = candidate;
    let verified = verify(read()?, &site.trust_root, &name)?;
    report::log(verified.identity());
    let keeping = site.admission.keeping();
    if !keeping.protects() {
        tracing::warn!("{keeping}");
    }
    let identities = DecryptionIdentities::of(site.identity.as_ref())?;
    let verified = identities.unlock(verified, &name)?;
    let admission = site.admission.clone().with_footprint(foresee(layers, &verified).ok());
    let admitted = admission.admit_model(verified, &name)?;
    let settled = settle(layers, admitted.release(), |path| admitted.file(path))?;
    let settings = RuntimeConfig::require(&settled)?;
    let admission = admission.beside(admitted.adapter_binding());
    let adapters = admit_adapters(&site.adapters, &site.trust_root, &admission, &identities)?;
    // Everything is open that will be opened now: the secrets are wiped before the long part begins.
    drop(identities);
    let marks = admitted.marks().clone();
    let running = start(admitted, &settings.limits, &name)?;
    // The model has proven itself and nobody has been answered yet: from here on nothing older is served here.
    keeping.raise_for_model(&marks, &format!("{} {}", running.identity.name, running.identity.version))?;
    let served = settings.model_name.clone().unwrap_or_else(|| running.identity.name.to_string());
    for adapter in adapters {
        adapter.bind(&running.engine, &served, IfTaken::Refuse)?;
    }
    Ok(Ready { running, admission, served, settings, reverted_from })
}

/// Opens a bundle file, once, and reads its framing.
///
/// # Errors
/// [`Error::OpenBundle`] when there is no such file, [`Error::NotABundleFile`] and [`Error::Bundle`] when it is no bundle.
pub fn open_bundle(path: &Path) -> Result<SealedBundle, Error> {
    open_source(open_file(path)?, &path.display().to_string())
}

/// Opens a bundle file and reads nothing of it.
///
/// # Errors
/// [`Error::OpenBundle`] when there is no such file, [`Error::NotABundleFile`].
pub fn open_file(path: &Path) -> Result<File, Error> {
    require_file(without_waiting().open(path), path)
}

/// Requires of what was opened that it is a file.
///
/// # Errors
/// [`Error::OpenBundle`] when nothing was, [`Error::NotABundleFile`].
pub fn require_file(opened: io::Result<File>, path: &Path) -> Result<File, Error> {
    let file = regular(opened, || path.metadata());
    let file = file.map_err(|source| Error::OpenBundle { path: path.to_owned(), source })?;
    file.map_err(|found| Error::NotABundleFile { path: path.to_owned(), found })
}

/// Reads the framing of a bundle from an open source.  Nothing in it is trusted yet.
///
/// # Errors
/// [`Error::Bundle`] when it is no bundle.
pub fn open_source(source: impl Source + 'static, name: &str) -> Result<SealedBundle, Error> {
    SealedBundle::open(source).map_err(|source| Error::Bundle { name: name.to_owned(), source: Box::new(source) })
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

/// Settles the configuration under the contract of a verified bundle, whose small files `file` finds.
///
/// # Errors
/// [`Error::Configuration`] when the site loosens what the bundle constrains.
pub fn settle<'a>(
    layers: &Layers,
    release: &ReleaseStatement,
    file: impl Fn(&str) -> Option<&'a [u8]>,
) -> Result<Effective, Error> {
    let schema = release.settings_schema.as_ref().and_then(|path| file(path.as_str()));
    Ok(Contract::of(release, schema)?.apply(layers)?)
}

/// Foresees what the model of a verified bundle takes under the settings that would hold.  A configuration or a model that
/// is refused for itself is so later in the line, by its own error, and nothing is foreseen for it.
///
/// # Errors
/// [`Error::Configuration`] and [`Error::Model`], as the later steps refuse.
pub fn foresee(layers: &Layers, verified: &VerifiedBundle) -> Result<Footprint, Error> {
    let settled = settle(layers, verified.release(), |path| verified.file(path))?;
    let limits = RuntimeConfig::limits(&settled);
    ampoule_inference::footprint(verified, limits.context_tokens, &engine_config(&limits))
        .map_err(|source| Error::from_inference(&verified.identity().name.to_string(), source))
}

/// All adapters before the model is loaded: a refusal costs a second then, and a minute afterwards.
fn admit_adapters(
    files: &[AdapterFile],
    root: &TrustRoot,
    admission: &Admission,
    identities: &DecryptionIdentities,
) -> Result<Vec<AdmittedAdapter>, Error> {
    files.iter().map(|file| file.again()?.admit(root, admission, identities)).collect()
}

/// A model that runs, and what is told about it.
pub struct Running {
    /// The engine.
    pub engine: EngineHandle,
    /// What it runs.
    pub identity: BundleIdentity,
    /// What its date means while it runs.
    pub expiry: Expiry,
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
    let identity = admitted.identity().clone();
    let expiry = Expiry { expires: admitted.release().expires, policy: admitted.release().expiry_policy };
    let endpoints = admitted.release().constraints.endpoints.clone();
    let defaults = sampling_defaults(&admitted, name)?;
    let ready = prove(admitted, limits, name)?;
    let engine = ready.spawn(engine_config(limits)).map_err(|source| Error::from_inference(name, source))?;
    Ok(Running { engine, identity, expiry, defaults, endpoints })
}

/// Loads an admitted bundle's weights and proves the model.
///
/// # Errors
/// As [`start`].
pub fn prove(admitted: AdmittedBundle, limits: &Limits, name: &str) -> Result<ReadyModel, Error> {
    let began = Instant::now();
    let refused = |source| Error::from_inference(name, source);
    let progress = Arc::new(Progress::start("Loading", admitted.weight_bytes()));
    let told = Arc::clone(&progress);
    let options = LoadOptions {
        context_length: limits.context_tokens,
        threads: limits.threads,
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
    Ok(ready)
}

fn engine_config(limits: &Limits) -> EngineConfig {
    EngineConfig {
        queue_capacity: limits.queued_requests,
        max_running: limits.running_requests,
        token_budget: limits.token_budget,
        max_adapters: limits.adapters,
        ..EngineConfig::default()
    }
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
    /// Where what was seen is kept.
    pub keeping: Keeping,
    /// Who may call.
    pub keys: KeyStore,
    /// Where to listen.
    pub listener: BoundListener,
    /// Where to serve metrics.
    pub metrics: Option<BoundSocket>,
    /// Where to serve administration, and what is administered.
    pub admin: Option<Admin>,
    /// The sandbox that the process is in; it is closed before anything is accepted.
    pub sandbox: Option<Loading>,
    /// The name that clients use.
    pub served: String,
    /// The bundle that was activated and given up for this one.
    pub reverted_from: Option<String>,
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
        // Its parts are as many as there are processors, which it asks for.
        let metrics = Metrics::new();
        let sandbox = self.sandbox.map(Loading::close).transpose()?.unwrap_or_default();
        let engine = self.running.engine.clone();
        let server = Server::new(ServerParts {
            engine: self.running.engine,
            served: ServedModel {
                name: name.clone(),
                bundle: self.running.identity,
                reverted_from: self.reverted_from,
                config_digest: self.config_digest,
                defaults: self.running.defaults,
                endpoints: self.running.endpoints,
                rollback_protection: self.keeping.word(),
            },
            keys: self.keys,
            limits: self.http_limits,
            sandbox,
            metrics,
            clock: jiff::Timestamp::now,
        });
        tracing::info!(%address, metrics_address, admin_socket, model = name, config_digest = %self.config_digest, "serving");
        listening(address);
        let metrics_listener = metrics_listener.map(|(listener, _)| listener);
        // It ends with the runtime, as everything does that runs as long as the process.
        drop(tokio::spawn(expiry::watch(self.running.expiry, self.keeping, jiff::Timestamp::now)));
        let listeners = Listeners { api: listener, metrics: metrics_listener, admin: self.admin };
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
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(host::cores().clamp(2, 8))
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
