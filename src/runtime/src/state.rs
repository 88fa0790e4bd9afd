//! What this installation remembers about the bundles that it has accepted, which is what stops a rollback.
//!
//! Today that is nothing: the store knows which bundles are there and which one is active, and keeps no high-water marks
//! yet.  The type says so and has its place in every straight line, so that the marks will change this file and not those.

use ampoule_bundle::HighWaterMarks;

/// Where accepted versions are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nowhere: each start is the first.
    Unkept,
}

impl State {
    /// The high-water marks to hold a bundle against.
    pub fn accepted(self) -> HighWaterMarks {
        match self {
            State::Unkept => HighWaterMarks::default(),
        }
    }
}
