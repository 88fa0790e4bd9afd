//! What can be seen of the engine from outside its thread: its state and its counters.  The engine writes, everybody
//! reads; nothing here is ever waited for by the engine.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Where an engine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// It takes requests.
    Serving,
    /// It takes no new requests and finishes those it has.
    Draining,
    /// It ended as it was asked to.
    Stopped,
    /// It panicked: the process is unhealthy and should end.
    Failed,
}

/// Counters of an engine at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Requests that wait for a place.
    pub queued: usize,
    /// Generations that run.
    pub running: usize,
    /// Tokens for which the running generations hold memory.
    pub tokens_held: usize,
    /// For how many tokens there is memory.
    pub token_budget: usize,
    /// Forward steps computed since the start.
    pub steps: u64,
    /// Prompt tokens computed since the start, those of embeddings included.
    pub prompt_tokens: u64,
    /// Tokens that were found computed, since the start.
    pub prompt_tokens_found: u64,
    /// Tokens generated since the start.
    pub completion_tokens: u64,
    /// Tokens that were guessed and computed together with the one before, since the start.
    pub draft_tokens: u64,
    /// How many of them were right.
    pub draft_tokens_right: u64,
    /// How often a generation had to wait again for lack of memory, since the start.
    pub preemptions: u64,
    /// Requests that ended because nobody waited for them any more.
    pub cancelled: u64,
}

/// The shared cell behind [`EngineState`] and [`EngineStats`].
#[derive(Debug)]
pub(crate) struct Monitor {
    state: watch::Sender<EngineState>,
    stats: Mutex<EngineStats>,
    waiting_adapters: Mutex<BTreeSet<String>>,
}

impl Monitor {
    pub(crate) fn new(token_budget: usize) -> Monitor {
        let stats = EngineStats { token_budget, ..EngineStats::default() };
        let state = watch::Sender::new(EngineState::Serving);
        Monitor { state, stats: Mutex::new(stats), waiting_adapters: Mutex::default() }
    }

    pub(crate) fn state(&self) -> EngineState {
        *self.state.borrow()
    }

    /// Moves forward in life; an engine that ended does not come back.
    pub(crate) fn advance(&self, next: EngineState) {
        self.state.send_if_modified(|state| {
            let ended = matches!(state, EngineState::Stopped | EngineState::Failed);
            let changes = !ended && *state != next;
            if changes {
                *state = next;
            }
            changes
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }

    pub(crate) fn stats(&self) -> EngineStats {
        // The counters are plain numbers: they are valid even if a writer panicked.
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn waiting_adapters(&self) -> BTreeSet<String> {
        self.waiting_adapters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_waiting_adapters(&self, names: BTreeSet<String>) {
        *self.waiting_adapters.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut EngineStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
