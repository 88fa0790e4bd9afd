//! The engine: one thread owns the model, everybody else holds an [`EngineHandle`] and talks to it by messages.

mod drafts;
mod embedding;
mod generations;
mod handle;
mod monitor;
mod pace;
mod worker;

use crate::scheduler::BLOCK_TOKENS;

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
    /// How many tokens one step computes at most, beside one per running generation; steps are kept smaller than that
    /// while others generate, so that a long prompt does not stall them.
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

    /// How many requests may be open, waiting or running, before the next is refused.
    pub fn open_requests(&self) -> usize {
        self.queue_capacity.saturating_add(self.max_running)
    }
}
