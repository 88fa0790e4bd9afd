//! The engine: one thread owns the model, everybody else holds an [`EngineHandle`] and talks to it by messages.

mod embedding;
mod handle;
mod monitor;
mod worker;

pub use handle::EngineHandle;
pub use monitor::{EngineState, EngineStats};

/// Limits of a running engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// How many requests may wait beside those that run; one more is refused at once.
    pub queue_capacity: usize,
    /// How many generations may run at once; at least 1.
    pub max_running: usize,
    /// How many tokens (prompt and completion, reserved at admission) all running generations may hold together.
    pub token_budget: usize,
    /// A prompt is computed in pieces of this many tokens.  The pieces depend on nothing else, so that a request's
    /// numbers do not depend on what runs beside it; at least 1.
    pub prefill_chunk: usize,
    /// How many tokens one step computes at most, beyond one per running generation.  At least one piece of a prompt
    /// is computed per step, so this bounds how long a long prompt may stall the others.
    pub step_tokens: usize,
    /// How many adapters may be loaded beside the model; one more is refused.
    pub max_adapters: usize,
}

impl Default for EngineConfig {
    fn default() -> EngineConfig {
        EngineConfig {
            queue_capacity: 64,
            max_running: 8,
            token_budget: 32 * 1024,
            prefill_chunk: 128,
            step_tokens: 128,
            max_adapters: 16,
        }
    }
}

impl EngineConfig {
    /// How many requests may be open, waiting or running, before the next is refused.
    pub fn open_requests(&self) -> usize {
        self.queue_capacity.saturating_add(self.max_running)
    }
}
