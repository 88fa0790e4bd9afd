//! The engine as its users see it: requests go in, tickets come out.  Everything that can be refused is refused here,
//! on the caller's thread and at once; what passes is certain to be answered.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use ampoule_bundle::AdmittedBundle;
use ampoule_kernels::{BLOCK_TOKENS, Isa};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::adapters::{AdapterBase, Adapters, IfTaken, LoadedAdapter, Registry};
use crate::encoder::Case;
use crate::engine::embedding::EmbeddingQueue;
use crate::engine::generations::Generations;
use crate::engine::monitor::Monitor;
use crate::engine::worker::{Channels, Work, Worker};
use crate::engine::{EngineConfig, EngineState, EngineStats};
use crate::error::{InferenceError, SubmitError};
use crate::event::{EmbeddingTicket, Embeddings, Ticket, TokenEvent};
use crate::load::Model;
use crate::profile::{ModelKind, ModelProfile};
use crate::request::{EmbeddingRequest, GenerationRequest};
use crate::text::{Affixes, ByteLimit, SpecialTokens, TextError, TextProcessor};

/// A generation on its way to the engine's thread.
#[derive(Debug)]
pub(crate) struct GenerationJob {
    pub(crate) request: GenerationRequest,
    pub(crate) events: mpsc::UnboundedSender<TokenEvent>,
    /// Given back when the job is dropped, however it ends.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// An embedding on its way to the engine's thread.
#[derive(Debug)]
pub(crate) struct EmbeddingJob {
    pub(crate) request: EmbeddingRequest,
    pub(crate) result: oneshot::Sender<Result<Embeddings, InferenceError>>,
    /// Given back when the job is dropped, however it ends.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// What becomes of an adapter that was asked to come or to go.
type Answer = oneshot::Sender<Result<Arc<LoadedAdapter>, InferenceError>>;

/// What the engine's thread can be told.
#[derive(Debug)]
pub(crate) enum Command {
    Generate(Box<GenerationJob>),
    Embed(Box<EmbeddingJob>),
    /// Prove an adapter and let it be asked for.
    Adopt(Box<LoadedAdapter>, IfTaken, Answer),
    /// Let an adapter be asked for no more; what runs with it goes on.
    Release(String, Answer),
    /// Finish what is there, then end.
    Drain,
    /// End at once; what is open is cancelled.
    Stop,
}

/// A running engine.  Clones share it; when the last one is dropped, the engine finishes its work and ends.
#[derive(Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

impl fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineHandle").field("profile", self.profile()).field("state", &self.state()).finish()
    }
}

struct Shared {
    commands: Sender<Command>,
    permits: Arc<Semaphore>,
    monitor: Arc<Monitor>,
    text: Arc<TextProcessor>,
    profile: ModelProfile,
    case: Case,
    base: AdapterBase,
    adapters: Arc<Registry>,
    config: EngineConfig,
    isa: Isa,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EngineHandle {
    /// Starts the thread that owns `model`.
    pub(crate) fn start(
        model: Model,
        text: Arc<TextProcessor>,
        profile: ModelProfile,
        case: Case,
        base: AdapterBase,
        config: EngineConfig,
    ) -> Result<EngineHandle, InferenceError> {
        let isa = match &model {
            Model::Generator(generator) => generator.workspace.processor().isa,
            Model::Encoder(encoder) => encoder.processor().isa,
        };
        let (commands, receiver) = std::sync::mpsc::channel();
        let monitor = Arc::new(Monitor::new(config.blocks() * BLOCK_TOKENS));
        let adapters = Arc::new(Registry::new(config.max_adapters));
        let channels = Channels { commands: receiver, monitor: Arc::clone(&monitor), adapters: Arc::clone(&adapters) };
        let work = match model {
            Model::Generator(generator) => {
                let (text, context_length) = (Arc::clone(&text), profile.context_length);
                Work::Generating(Box::new(Generations::new(*generator, text, context_length, &config)))
            }
            Model::Encoder(encoder) => Work::Embedding(Box::new(EmbeddingQueue::new(*encoder))),
        };
        let worker = Worker::new(work, channels);
        let thread = thread::Builder::new().name("engine".to_owned()).spawn(move || worker.run());
        let thread = thread.map_err(|source| InferenceError::ThreadNotStarted { source })?;
        let permits = Arc::new(Semaphore::new(config.open_requests().min(Semaphore::MAX_PERMITS)));
        let thread = Mutex::new(Some(thread));
        let shared = Shared { commands, permits, monitor, text, profile, case, base, adapters, config, isa, thread };
        Ok(EngineHandle { shared: Arc::new(shared) })
    }

    /// Hands a generation to the engine.  Never waits: with all places taken it refuses.
    pub fn submit(&self, request: GenerationRequest) -> Result<Ticket, SubmitError> {
        self.require(ModelKind::Generator)?;
        self.check_tokens(&request.prompt, self.prompt_limit())?;
        if request.max_tokens == 0 {
            return Err(SubmitError::NothingToGenerate);
        }
        request.sampling.check(self.profile().vocabulary_size)?;
        request.stop.check()?;
        if let Some(other) =
            request.adapter.as_ref().filter(|adapter| adapter.base != self.shared.base.identity.manifest)
        {
            return Err(SubmitError::AdapterOfOther { name: other.name().to_owned() });
        }
        let _permit = self.reserve()?;
        let (events, receiver) = mpsc::unbounded_channel();
        self.send(Command::Generate(Box::new(GenerationJob { request, events, _permit })))?;
        Ok(Ticket::new(receiver))
    }

    /// Hands texts to be embedded to the engine.  Never waits: with all places taken it refuses.
    pub fn embed(&self, request: EmbeddingRequest) -> Result<EmbeddingTicket, SubmitError> {
        self.require(ModelKind::Encoder)?;
        if request.inputs.is_empty() {
            return Err(SubmitError::NoInput);
        }
        for input in &request.inputs {
            self.check_tokens(input, self.profile().context_length)?;
        }
        let _permit = self.reserve()?;
        let (sender, result) = oneshot::channel();
        self.send(Command::Embed(Box::new(EmbeddingJob { request, result: sender, _permit })))?;
        Ok(EmbeddingTicket { result })
    }

    /// What the model is.
    pub fn profile(&self) -> &ModelProfile {
        &self.shared.profile
    }

    /// The adapters that may be asked for at this moment, by name.
    pub fn adapters(&self) -> Arc<Adapters> {
        self.shared.adapters.now()
    }

    /// How many adapters may be loaded; none beside a model that takes none.
    pub fn adapter_limit(&self) -> usize {
        self.shared.base.fit.as_ref().map_or(0, |_| self.shared.config.max_adapters)
    }

    /// The names of the adapters for which a request waits, as of the engine's last step.
    pub fn waiting_adapters(&self) -> BTreeSet<String> {
        self.shared.monitor.waiting_adapters()
    }

    /// Reads an adapter's weights while they are hashed, and holds it against the model.  Takes as long as reading does:
    /// nothing for a thread that serves connections.
    ///
    /// # Errors
    /// [`InferenceError::NotAnAdapter`] for another bundle, [`InferenceError::NoAdaptersHere`] beside a model that takes
    /// none, [`InferenceError::AdapterOfOther`] for one that is bound to another base, tokenizer or chat template,
    /// [`InferenceError::AdapterNameTaken`] for the model's own name, and what is wrong with its matrices.
    pub fn load_adapter(&self, bundle: &AdmittedBundle) -> Result<LoadedAdapter, InferenceError> {
        self.shared.base.load(bundle)
    }

    /// Hands an adapter to the engine's thread, which computes with it once; from then on it may be asked for by its name.
    /// Waits for that thread, so it panics inside an async runtime.
    ///
    /// # Errors
    /// [`InferenceError::NotANumber`] and the like for one that computes nothing, [`InferenceError::AdapterNameTaken`],
    /// [`InferenceError::TooManyAdapters`], and [`InferenceError::EngineStopped`].
    pub fn adopt(&self, adapter: LoadedAdapter, if_taken: IfTaken) -> Result<Arc<LoadedAdapter>, InferenceError> {
        self.ask(|answer| Command::Adopt(Box::new(adapter), if_taken, answer))
    }

    /// Lets an adapter be asked for no more; requests that have it finish with it.  Waits like [`EngineHandle::adopt`].
    ///
    /// # Errors
    /// [`InferenceError::UnknownAdapter`] and [`InferenceError::EngineStopped`].
    pub fn release(&self, name: &str) -> Result<Arc<LoadedAdapter>, InferenceError> {
        self.ask(|answer| Command::Release(name.to_owned(), answer))
    }

    /// The tokenizer and the chat template.
    pub fn text(&self) -> &TextProcessor {
        &self.shared.text
    }

    /// The token sequence of a text that is to be embedded: in the letter case that the model wants, and with the
    /// tokens that it expects around a text.
    pub fn embedding_tokens(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let lowered = match self.shared.case {
            Case::Kept => None,
            Case::Lowered => Some(text.to_lowercase()),
        };
        let text = lowered.as_deref().unwrap_or(text);
        let limit = ByteLimit::for_context(self.profile().context_length);
        self.text().tokenizer().encode(text, SpecialTokens::AsPlainText, Affixes::Add, limit)
    }

    /// What the engine adds to the identity of bundle and runtime when it comes to reproducing an answer to the bit:
    /// digested, with them, into `system_fingerprint`.
    pub fn fingerprint_input(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let context_length = self.profile().context_length;
        let (machine, isa) = (std::env::consts::ARCH, self.shared.isa);
        format!("inference={version};machine={machine};isa={isa};context={context_length}")
    }

    /// The vector instructions that compute, by name.
    pub fn instructions(&self) -> &'static str {
        self.shared.isa.name()
    }

    /// How many tokens one request may have, answer included: what the model takes and what there is memory for.
    pub fn context_limit(&self) -> usize {
        let context_length = self.profile().context_length;
        match self.profile().kind {
            ModelKind::Generator => context_length.min(self.shared.config.token_budget),
            ModelKind::Encoder => context_length,
        }
    }

    /// The longest prompt in tokens that a generation may have: one place must be left for an answer.
    pub fn prompt_limit(&self) -> usize {
        self.context_limit().saturating_sub(1)
    }

    /// The engine's counters, as of its last step.
    pub fn stats(&self) -> EngineStats {
        self.shared.monitor.stats()
    }

    /// Where the engine is in its life; `Failed` means that the process is unhealthy.
    pub fn state(&self) -> EngineState {
        self.shared.monitor.state()
    }

    /// Takes no new requests from now on; those that are open are finished, then the engine ends.
    pub fn drain(&self) {
        self.shared.monitor.advance(EngineState::Draining);
        // An engine that ended already has nothing to drain.
        let _ = self.shared.commands.send(Command::Drain);
    }

    /// Ends the engine after its current step; open requests are told that they were cancelled.
    pub fn stop(&self) {
        self.shared.monitor.advance(EngineState::Draining);
        // An engine that ended already has nothing to stop.
        let _ = self.shared.commands.send(Command::Stop);
    }

    /// Waits until the engine has ended, and says how.
    pub async fn ended(&self) -> EngineState {
        let mut state = self.shared.monitor.watch();
        let ended = |state: &EngineState| matches!(state, EngineState::Stopped | EngineState::Failed);
        let found = state.wait_for(ended).await.map(|state| *state);
        found.unwrap_or_else(|_| self.state())
    }

    /// As [`EngineHandle::ended`], for threads outside an async runtime: waits for the engine's thread itself.
    pub fn join(&self) -> EngineState {
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread catches its own panics and reports them as `EngineState::Failed`.
            let _ = thread.join();
        }
        self.state()
    }

    fn require(&self, required: ModelKind) -> Result<(), SubmitError> {
        let found = self.profile().kind;
        if found == required { Ok(()) } else { Err(SubmitError::WrongKind { required, found }) }
    }

    fn check_tokens(&self, tokens: &[u32], limit: usize) -> Result<(), SubmitError> {
        if tokens.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if tokens.len() > limit {
            return Err(SubmitError::PromptTooLong { found: tokens.len(), limit });
        }
        let vocabulary_size = self.profile().vocabulary_size;
        match tokens.iter().find(|&&token| token as usize >= vocabulary_size) {
            Some(&token) => Err(SubmitError::TokenOutOfRange { token, vocabulary_size }),
            None => Ok(()),
        }
    }

    fn reserve(&self) -> Result<OwnedSemaphorePermit, SubmitError> {
        if self.state() != EngineState::Serving {
            return Err(SubmitError::Stopped);
        }
        let limit = self.shared.config.open_requests();
        let permits = Arc::clone(&self.shared.permits);
        permits.try_acquire_owned().map_err(|_| SubmitError::Overloaded { limit })
    }

    fn ask(&self, command: impl FnOnce(Answer) -> Command) -> Result<Arc<LoadedAdapter>, InferenceError> {
        let (answer, answered) = oneshot::channel();
        // Either failure means that the thread, with the other end, is gone.
        self.send(command(answer)).map_err(|_| InferenceError::EngineStopped)?;
        answered.blocking_recv().unwrap_or(Err(InferenceError::EngineStopped))
    }

    fn send(&self, command: Command) -> Result<(), SubmitError> {
        self.shared.commands.send(command).map_err(|_| SubmitError::Stopped)
    }
}
