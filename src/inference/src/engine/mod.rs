//! The engine: one thread owns the model, everybody else holds an [`EngineHandle`] and talks to it by messages.

mod drafts;
pub(crate) mod embedding;
mod generations;
mod handle;
mod monitor;
mod pace;
mod worker;

use crate::engine::pace::Pace;
use crate::scheduler::{BLOCK_TOKENS, LEAST_PIECE};

pub use handle::EngineHandle;
pub use monitor::{EngineState, EngineStats};

/// Limits of a running engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// How many requests may wait beside those that run; one more is refused at once.
    pub queue_capacity: usize,
    /// How many generations may run at once; at least 1.
    pub max_running: usize,
    /// For how many tokens there is memory, in whole blocks: those of the running generations, and as many more as were
    /// computed before and may be wanted again.
    pub token_budget: usize,
    /// How many tokens one step computes at most, those of generations among them; more than 512 count as 512.  Steps are
    /// kept smaller while others generate, so that a long prompt does not stall them, and larger only where each
    /// generation would not get its token otherwise, and some prompt a piece.
    pub step_tokens: usize,
    /// How many tokens are guessed at most and computed together with the next one.
    pub draft_tokens: usize,
    /// How many adapters may be loaded beside the model; one more is refused.
    pub max_adapters: usize,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            queue_capacity: 64,
            max_running: 8,
            token_budget: 32 * 1024,
            step_tokens: 512,
            draft_tokens: 15,
            max_adapters: 16,
        }
    }
}

impl EngineConfig {
    /// How many blocks of keys and values there are.
    pub fn blocks(&self) -> usize {
        self.token_budget.div_ceil(BLOCK_TOKENS)
    }

    /// How many tokens a step computes at most: of prompts, and for each that generates its next one and those that are
    /// guessed to follow it.
    pub(crate) fn most_rows(&self) -> usize {
        Pace::bound(self.step_tokens, self.max_running) + LEAST_PIECE
    }

    /// How many requests may be open, waiting or running, before the next is refused.
    pub fn open_requests(&self) -> usize {
        self.queue_capacity.saturating_add(self.max_running)
    }
}
