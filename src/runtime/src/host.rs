//! What this host offers, as facts that admission compares with what a bundle requires.
//!
//! What stands in the system's files is looked up once: in the sandbox there is nothing to look into.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use ampoule_bundle::{HostFacts, Timestamp};
use ampoule_inference::hardware;
use sysinfo::System;

use crate::error::Error;

/// When this release was made, to be moved with its version: a clock that says less than this is wrong.
const MADE: &str = "2026-11-01T00:00:00Z";

/// When this runtime was made.
pub fn made() -> Timestamp {
    MADE.parse().expect("the date of this release is written as dates are written")
}

/// The processors that this process may use.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| available_parallelism().map_or(2, usize::from))
}

/// Looks at memory, processor and clock.
///
/// # Errors
/// [`Error::Host`] when the system does not tell its memory.
pub fn facts() -> Result<HostFacts, Error> {
    Ok(HostFacts {
        memory_bytes: memory_bytes()?,
        cpu_features: hardware::cpu_features(),
        accelerators: BTreeSet::new(),
        now: Timestamp::new(jiff::Timestamp::now()),
    })
}

/// The memory that this process may use: the host's, or less where a control group says so.
///
/// # Errors
/// [`Error::Host`] when the system does not tell it.
pub fn memory_bytes() -> Result<u64, Error> {
    static MEMORY: OnceLock<u64> = OnceLock::new();
    if let Some(bytes) = MEMORY.get() {
        return Ok(*bytes);
    }
    let mut system = System::new().map_err(|error| Error::Host { reason: error.to_string() })?;
    system.refresh_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    Ok(*MEMORY.get_or_init(|| system.total_memory().min(limit)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_host_has_memory_and_a_clock_that_was_set() {
        let facts = facts().unwrap();
        assert!(facts.memory_bytes > 256 * 1024 * 1024, "{}", facts.memory_bytes);
        assert!(facts.now > made());
    }
}
