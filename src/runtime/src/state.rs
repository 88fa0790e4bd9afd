//! What this installation remembers about the bundles that it has accepted, which is what stops a rollback.
//!
//! The store that keeps it between starts comes with `import` and `activate`.  Until then a process remembers nothing,
//! and says so: the type has its place in the straight line, so that the store changes this file and not that line.

use ampoule_bundle::AcceptedVersions;

/// Where accepted versions are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nowhere: each start is the first.
    Unkept,
}

impl State {
    /// The high-water marks to hold a bundle against.
    pub fn accepted(self) -> AcceptedVersions {
        match self {
            State::Unkept => AcceptedVersions::default(),
        }
    }
}
