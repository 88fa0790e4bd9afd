//! What this host offers, as facts that admission compares with what a bundle requires.
//!
//! What stands in the system's files is looked up once: in the sandbox there is nothing to look into.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::thread::available_parallelism;

use ampoule_bundle::{HostFacts, Timestamp};
use ampoule_inference::hardware;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

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

/// The memory that this process may use: the host's, or less where a control group or a limit of the process says so.
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
    // The group of the process may lie below the one that a container sees as its root.
    let own = sysinfo::get_current_pid().ok().and_then(|pid| {
        let kind = ProcessRefreshKind::nothing();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
        system.process(pid)?.cgroup_limits()
    });
    let groups = [system.cgroup_limits(), own].into_iter().flatten().map(|limits| limits.total_memory);
    let least = groups.chain(address_space()).fold(system.total_memory(), u64::min);
    Ok(*MEMORY.get_or_init(|| least))
}

/// The most address space that the process may have, where that is limited and there is a /proc that tells.
fn address_space() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
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
