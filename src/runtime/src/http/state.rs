//! What the handlers share: the engine, what it serves, who may call it, and whether the server is ending.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ampoule_bundle::statement::Endpoint;
use ampoule_bundle::{BundleIdentity, Digest};
use ampoule_inference::{EngineHandle, EngineState, LoadedAdapter, ModelKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::RequestRecord;
use super::defaults::SamplingDefaults;
use super::error::ApiError;
use super::limits::HttpLimits;
use super::openai::ReplyHead;
use super::reading::ReadingRoom;
use super::request_id::random_identifier;
use crate::host;
use crate::keys::KeyStore;
use crate::metrics::Metrics;
use crate::sandbox::Report;

/// Everything that a server is made of.
#[derive(Debug)]
pub struct ServerParts {
    /// The running engine.
    pub engine: EngineHandle,
    /// What it runs.
    pub served: ServedModel,
    /// Who may call it.  With no key in it, everybody gets 401.
    pub keys: KeyStore,
    /// The limits of the HTTP surface.
    pub limits: HttpLimits,
    /// What this process has given up.
    pub sandbox: Report,
    /// Where measurements go.
    pub metrics: Metrics,
    /// Tells the time for `created` members and for chat templates: `jiff::Timestamp::now`.
    pub clock: fn() -> jiff::Timestamp,
}

/// The identity of what is served.
#[derive(Debug, Clone)]
pub struct ServedModel {
    /// The name by which clients ask for it in `model`.
    pub name: String,
    /// The bundle that was verified and admitted.
    pub bundle: BundleIdentity,
    /// Name and version of the bundle that was activated and given up for this one, because it did not become ready.
    pub reverted_from: Option<String>,
    /// The digest of the effective configuration.
    pub config_digest: Digest,
    /// The endpoints that the bundle's constraints allow; `None` for all.
    pub endpoints: Option<BTreeSet<Endpoint>>,
    /// What applies where a request says nothing.
    pub defaults: SamplingDefaults,
    /// Where what was taken into use is kept: `state`, `store`, or `off`.
    pub rollback_protection: &'static str,
}

/// What a request's `model` names: the model itself, or an adapter beside it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The adapter that has the name now, and stays that of the request whatever becomes of the name.
    pub(crate) adapter: Option<Arc<LoadedAdapter>>,
}

/// The handlers' shared state; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Appliance(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: ServerParts,
    fingerprint: String,
    started: Instant,
    ready: AtomicBool,
    draining: AtomicBool,
    body_memory: Arc<Semaphore>,
    reading: ReadingRoom,
}

/// Memory for bodies is handed out in units of this many bytes, because a permit count is 32 bits wide.
const BODY_MEMORY_UNIT: usize = 1024;

impl Appliance {
    pub(crate) fn new(parts: ServerParts) -> Appliance {
        let fingerprint = fingerprint(&parts.served, &parts.engine.fingerprint_input());
        let body_memory = parts.limits.max_buffered_body_bytes.div_ceil(BODY_MEMORY_UNIT).min(Semaphore::MAX_PERMITS);
        let reading = ReadingRoom::new(host::cores(), parts.keys.names(), parts.limits.prompt_queue_deadline);
        let started = (parts.clock)();
        parts.metrics.set_running(&parts.served.bundle, &parts.served.config_digest.to_string(), started);
        parts.metrics.set_sandbox(&parts.sandbox);
        Appliance(Arc::new(Inner {
            parts,
            fingerprint,
            started: Instant::now(),
            ready: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            body_memory: Arc::new(Semaphore::new(body_memory)),
            reading,
        }))
    }

    pub(crate) fn engine(&self) -> &EngineHandle {
        &self.0.parts.engine
    }

    pub(crate) fn served(&self) -> &ServedModel {
        &self.0.parts.served
    }

    pub(crate) fn keys(&self) -> &KeyStore {
        &self.0.parts.keys
    }

    pub(crate) fn sandbox(&self) -> &Report {
        &self.0.parts.sandbox
    }

    pub(crate) fn limits(&self) -> &HttpLimits {
        &self.0.parts.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.parts.metrics
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        (self.0.parts.clock)()
    }

    /// How long this server has been running; no change of the wall clock makes it younger.
    pub(crate) fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// A digest of all that decides an answer: runtime, bundle and configuration.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// What every part of a new reply repeats; `kind` begins its identifier.
    pub(crate) fn reply_head(&self, kind: &str, object: &'static str, target: &Target) -> ReplyHead {
        ReplyHead {
            id: format!("{kind}-{}", random_identifier()),
            object,
            created: self.now().as_second(),
            model: target.adapter.as_ref().map_or(self.served().name.as_str(), |adapter| adapter.name()).to_owned(),
            system_fingerprint: match &target.adapter {
                None => self.fingerprint().to_owned(),
                Some(adapter) => self.fingerprint_with(adapter),
            },
        }
    }

    /// As [`Appliance::fingerprint`], of answers through an adapter.
    fn fingerprint_with(&self, adapter: &LoadedAdapter) -> String {
        short_digest(&format!("{};adapter={}", self.fingerprint(), adapter.identity.manifest))
    }

    /// What a model name asks for; refuses one that is not served.
    pub(crate) fn require_model(&self, name: &str) -> Result<Target, ApiError> {
        if name == self.served().name {
            return Ok(Target { adapter: None });
        }
        match self.engine().adapters().get(name) {
            Some(adapter) => Ok(Target { adapter: Some(Arc::clone(adapter)) }),
            None => Err(ApiError::model_not_found(name)),
        }
    }

    /// The same for a request that only a model of this kind can answer; refused before anything else of it is read.
    pub(crate) fn require_model_of(&self, kind: ModelKind, name: &str) -> Result<Target, ApiError> {
        let target = self.require_model(name)?;
        let found = self.engine().profile().kind;
        if found == kind { Ok(target) } else { Err(ApiError::unsupported_model(found)) }
    }

    /// From now on readiness says no.  Requests are still served.
    pub(crate) fn withdraw_readiness(&self) {
        self.0.ready.store(false, Ordering::Release);
    }

    /// From now on no new work is taken.
    pub(crate) fn start_draining(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Loaded, proven and taking requests.  A model is proven before an engine handle exists at all.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire) && self.engine().state() == EngineState::Serving
    }

    /// Whether restarting the process would not help: false once the engine has failed.
    pub(crate) fn is_alive(&self) -> bool {
        self.engine().state() != EngineState::Failed
    }

    /// How many requests wait for the engine: in its queue, or for a core that reads their prompts.
    pub(crate) fn queued(&self) -> usize {
        self.engine().stats().queued + self.0.reading.waiting()
    }

    /// The memory of one body, none of it taken yet.
    pub(crate) fn body_memory(&self) -> BodyMemory {
        BodyMemory { all: Arc::clone(&self.0.body_memory), taken: None }
    }

    /// Runs `work`, which is heavy on the processor, off the threads that serve connections, when it is its key's turn.
    ///
    /// What waits here still counts against the memory for bodies, and work that has begun goes on when its client has
    /// left, so both `memory` and the place in the reading room are kept until the work is done.
    pub(crate) async fn off_thread<T: Send + 'static>(
        &self,
        record: &RequestRecord,
        memory: BodyMemory,
        work: impl FnOnce(&Appliance) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = self.0.reading.enter(record.key_name()).await.ok_or_else(ApiError::overloaded)?;
        let appliance = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&appliance);
            drop((memory, place));
            done
        })
        .await;
        done.unwrap_or_else(|_| Err(ApiError::internal("reading a prompt panicked")))
    }
}

/// One body's share of the memory for all bodies that are being read, given back on drop.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    all: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl BodyMemory {
    /// Takes what is missing to hold `bytes` in all.
    ///
    /// # Errors
    /// That the server is overloaded, when too many bodies are being read.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let taken = self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = u32::try_from(bytes.div_ceil(BODY_MEMORY_UNIT).saturating_sub(taken)).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.all).try_acquire_many_owned(missing).map_err(|_| ApiError::overloaded())?;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

fn fingerprint(served: &ServedModel, engine: &str) -> String {
    let (runtime, bundle, config) = (env!("CARGO_PKG_VERSION"), served.bundle.manifest, served.config_digest);
    let text = format!("runtime={runtime};bundle={bundle};config={config};{engine}");
    short_digest(&text)
}

fn short_digest(text: &str) -> String {
    format!("fp_{}", &Digest::of(text.as_bytes()).to_hex()[..16])
}
