//! The engine's thread.  It owns the model and everything about open requests; nothing is shared, so nothing is locked.
//! One turn of the loop takes what was sent, forgets what nobody waits for, and computes one step of bounded size.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::adapters::{IfTaken, LoadedAdapter, Registry};
use crate::engine::embedding::EmbeddingQueue;
use crate::engine::handle::{Command, GenerationJob};
use crate::engine::monitor::Monitor;
use crate::engine::{EngineConfig, EngineState};
use crate::error::InferenceError;
use crate::event::{FinishReason, TokenEvent};
use crate::generation::{Generation, Progress};
use crate::load::Model;
use crate::model::{Decoder, KvCache, ModelError, SequenceStep};
use crate::proof;
use crate::scheduler::{Part, Scheduler, SchedulerLimits, SequenceId, Work};
use crate::text::{SpecialTokensInOutput, TextProcessor};

/// Everything that the engine's thread owns.
pub(crate) struct Worker {
    model: Model,
    text: Arc<TextProcessor>,
    context_length: usize,
    channels: Channels,
    scheduler: Scheduler,
    sequences: BTreeMap<SequenceId, Sequence>,
    embeddings: EmbeddingQueue,
    next_id: u64,
    token_budget: usize,
}

/// How the thread and everybody else reach each other.
pub(crate) struct Channels {
    pub(crate) commands: Receiver<Command>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) adapters: Arc<Registry>,
}

/// An open generation.
struct Sequence {
    prompt: Vec<u32>,
    /// The token that was chosen last.
    last: u32,
    cache: KvCache,
    adapter: Option<Arc<LoadedAdapter>>,
    /// Whether it was told that its wait is over.
    started: bool,
    generation: Generation,
    events: UnboundedSender<TokenEvent>,
    _permit: OwnedSemaphorePermit,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    Next,
    Last,
}

impl Worker {
    pub(crate) fn new(
        model: Model,
        text: Arc<TextProcessor>,
        context_length: usize,
        config: EngineConfig,
        channels: Channels,
    ) -> Worker {
        let EngineConfig { max_running, token_budget, prefill_chunk, step_tokens, .. } = config;
        let limits = SchedulerLimits { max_running, token_budget, prefill_chunk, step_tokens };
        Worker {
            model,
            text,
            context_length,
            channels,
            scheduler: Scheduler::new(limits),
            sequences: BTreeMap::new(),
            embeddings: EmbeddingQueue::default(),
            next_id: 0,
            token_budget,
        }
    }

    /// The thread's body: serves until it is told to end or nobody is left to tell it.
    pub(crate) fn run(mut self) {
        // After a panic the worker is used for one thing only: telling everybody, which reads no state of the model.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        match outcome {
            Ok(()) => self.channels.monitor.advance(EngineState::Stopped),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let message = text.or_else(|| panic.downcast_ref::<String>().cloned());
                self.channels.monitor.advance(EngineState::Failed);
                self.fail_all(&message.unwrap_or_else(|| "a panic without a message".to_owned()));
            }
        }
    }

    fn serve(&mut self) {
        let mut draining = false;
        loop {
            if self.receive(&mut draining) == Turn::Last {
                return self.cancel_all();
            }
            self.forget_abandoned();
            self.step();
            let generated = self.embeddings.step(&self.model);
            self.channels.monitor.update(|stats| stats.prompt_tokens += generated);
            self.publish();
            if draining && self.is_idle() {
                return;
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.sequences.is_empty() && self.embeddings.is_empty()
    }

    /// Takes what was sent; waits only if there is nothing else to do.
    fn receive(&mut self, draining: &mut bool) -> Turn {
        loop {
            let command = if self.is_idle() && !*draining {
                self.channels.commands.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                self.channels.commands.try_recv()
            };
            match command {
                Ok(Command::Generate(job)) => self.open(*job),
                Ok(Command::Embed(job)) => self.embeddings.push(*job),
                // Whoever asked may be gone, which is fine.
                Ok(Command::Adopt(adapter, if_taken, answer)) => drop(answer.send(self.adopt(*adapter, if_taken))),
                Ok(Command::Release(name, answer)) => drop(answer.send(self.channels.adapters.remove(&name))),
                Ok(Command::Drain) | Err(TryRecvError::Disconnected) => {
                    *draining = true;
                    if command.is_err() {
                        return Turn::Next;
                    }
                }
                Ok(Command::Stop) => return Turn::Last,
                Err(TryRecvError::Empty) => return Turn::Next,
            }
        }
    }

    /// An adapter that computes nothing would fail each of its requests alone; it is refused before the first.
    fn adopt(&self, adapter: LoadedAdapter, if_taken: IfTaken) -> Result<Arc<LoadedAdapter>, InferenceError> {
        if let Model::Generator(decoder) = &self.model {
            proof::compute_with(decoder, Some(&adapter.adapter))?;
        }
        self.channels.adapters.insert(adapter, if_taken)
    }

    fn open(&mut self, mut job: GenerationJob) {
        let Model::Generator(decoder) = &self.model else {
            let refused = job.events.send(TokenEvent::Failed(InferenceError::EngineStopped));
            return drop(refused);
        };
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let length = job.request.prompt.len();
        let room = self.context_length.min(self.token_budget).saturating_sub(length).max(1);
        let completion = room.min(job.request.max_tokens as usize);
        let detokenizer = self.text.tokenizer().detokenizer(SpecialTokensInOutput::Skip);
        let end = self.text.end_of_sequence();
        let adapter = job.request.adapter.take();
        let (prompt, generation) = Generation::new(job.request, completion as u64, end, detokenizer);
        self.scheduler.enqueue(id, length, completion);
        let cache = KvCache::reaching(decoder.config(), length);
        let (events, _permit) = (job.events, job._permit);
        let sequence = Sequence { prompt, last: 0, cache, adapter, started: false, generation, events, _permit };
        self.sequences.insert(id, sequence);
    }

    /// A dropped ticket closes its channel: what it was for is work for nobody.
    fn forget_abandoned(&mut self) {
        let mut cancelled = self.embeddings.forget_abandoned();
        let (sequences, scheduler) = (&mut self.sequences, &mut self.scheduler);
        sequences.retain(|&id, sequence| {
            let waited_for = !sequence.events.is_closed();
            if !waited_for {
                scheduler.remove(id);
                cancelled += 1;
            }
            waited_for
        });
        if cancelled > 0 {
            self.channels.monitor.update(|stats| stats.cancelled += cancelled);
        }
    }

    /// Computes one forward step and hands out what it gives.
    fn step(&mut self) {
        let plan = self.scheduler.plan();
        let Model::Generator(decoder) = &self.model else { return };
        if plan.is_empty() {
            return;
        }
        let parts: BTreeMap<SequenceId, Part> = plan.into_iter().map(|Work { id, part }| (id, part)).collect();
        let prompt_tokens: usize = parts.values().map(Part::prompt_tokens).sum();
        announce_starts(&mut self.sequences, &parts);
        let outcome = forward(decoder, &mut self.sequences, &parts);
        self.channels.monitor.update(|stats| {
            stats.steps += 1;
            stats.prompt_tokens += prompt_tokens as u64;
        });
        match outcome {
            Ok(logits) => {
                for ((&id, part), logits) in parts.iter().zip(logits) {
                    if !matches!(part, Part::Prompt(_)) {
                        self.advance(id, logits);
                    }
                }
            }
            Err(error) => {
                let source = Arc::new(InferenceError::from(error));
                for &id in parts.keys() {
                    self.close(id, TokenEvent::Failed(InferenceError::StepFailed { source: Arc::clone(&source) }));
                }
            }
        }
    }

    fn advance(&mut self, id: SequenceId, logits: Vec<f32>) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let mut events = Vec::new();
        let progress = sequence.generation.advance(logits, &mut events);
        for event in events {
            // Whoever dropped the ticket is noticed at the next turn.
            let _ = sequence.events.send(event);
        }
        match progress {
            Ok(Progress::Next(token)) => {
                sequence.last = token;
                self.channels.monitor.update(|stats| stats.completion_tokens += 1);
            }
            Ok(Progress::Ended(_)) => {
                self.channels.monitor.update(|stats| stats.completion_tokens += 1);
                self.scheduler.remove(id);
                self.sequences.remove(&id);
            }
            Err(error) => self.close(id, TokenEvent::Failed(error)),
        }
    }

    fn close(&mut self, id: SequenceId, last: TokenEvent) {
        self.scheduler.remove(id);
        if let Some(sequence) = self.sequences.remove(&id) {
            // The ticket may be gone, which is fine.
            let _ = sequence.events.send(last);
        }
    }

    fn cancel_all(&mut self) {
        for (id, sequence) in std::mem::take(&mut self.sequences) {
            self.scheduler.remove(id);
            let usage = sequence.generation.usage();
            let _ = sequence.events.send(TokenEvent::Finished { reason: FinishReason::Cancelled, usage });
        }
        self.embeddings.fail_all(|| InferenceError::EngineStopped);
        self.publish();
    }

    fn fail_all(&mut self, message: &str) {
        let error = || InferenceError::EnginePanicked { message: message.to_owned() };
        for (_, sequence) in std::mem::take(&mut self.sequences) {
            let _ = sequence.events.send(TokenEvent::Failed(error()));
        }
        self.embeddings.fail_all(error);
        while let Ok(command) = self.channels.commands.try_recv() {
            match command {
                Command::Generate(job) => drop(job.events.send(TokenEvent::Failed(error()))),
                Command::Embed(job) => drop(job.result.send(Err(error()))),
                // A dropped answer says that the engine has ended.
                Command::Adopt(..) | Command::Release(..) | Command::Drain | Command::Stop => {}
            }
        }
    }

    fn publish(&self) {
        let (embedding, embeddings_waiting) = self.embeddings.counts();
        let scheduler = &self.scheduler;
        self.channels.monitor.update(|stats| {
            stats.queued = scheduler.waiting() + embeddings_waiting;
            stats.running = scheduler.running() + embedding;
            stats.tokens_held = scheduler.tokens_held();
        });
        let waiting = scheduler.waiting_ids().filter_map(|id| self.sequences.get(&id)?.adapter.as_ref());
        let names: BTreeSet<String> = waiting.map(|adapter| adapter.name().to_owned()).collect();
        self.channels.monitor.set_waiting_adapters(names);
    }
}

/// Tells each sequence that is in a step for the first time that its wait is over.  Whoever wants to know how long it
/// took reads a clock; the engine has none.
fn announce_starts(sequences: &mut BTreeMap<SequenceId, Sequence>, parts: &BTreeMap<SequenceId, Part>) {
    for id in parts.keys() {
        if let Some(sequence) = sequences.get_mut(id)
            && !sequence.started
        {
            sequence.started = true;
            // The ticket may be gone, which is fine.
            let _ = sequence.events.send(TokenEvent::Started);
        }
    }
}

/// Runs the parts of a step through the model; one row of logits per part, in ascending order of the sequences.
fn forward(
    decoder: &Decoder,
    sequences: &mut BTreeMap<SequenceId, Sequence>,
    parts: &BTreeMap<SequenceId, Part>,
) -> Result<Vec<Vec<f32>>, ModelError> {
    let mut batch = Vec::with_capacity(parts.len());
    for (id, sequence) in sequences.iter_mut() {
        let Sequence { prompt, last, cache, adapter, .. } = sequence;
        let tokens = match parts.get(id) {
            Some(Part::Prompt(range) | Part::LastOfPrompt(range)) => &prompt[range.clone()],
            Some(Part::Generated) => std::slice::from_ref(last),
            None => continue,
        };
        batch.push(SequenceStep { tokens, cache, adapter: adapter.as_ref().map(|loaded| &loaded.adapter) });
    }
    let logits = decoder.forward(&mut batch)?;
    logits.iter().map(|logits| Ok(logits.to_vec1::<f32>()?)).collect()
}
