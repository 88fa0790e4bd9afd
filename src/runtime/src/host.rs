//! What this host offers, as facts that admission compares with what a bundle requires.

use std::collections::BTreeSet;

use ampoule_bundle::{HostFacts, Timestamp};
use sysinfo::System;

use crate::error::Error;

/// Looks at memory, processor and clock, once.
///
/// # Errors
/// [`Error::Host`] when the system does not tell its memory.
pub fn facts() -> Result<HostFacts, Error> {
    Ok(HostFacts {
        memory_bytes: memory_bytes()?,
        cpu_features: cpu_features(),
        accelerators: BTreeSet::new(),
        now: Timestamp::new(jiff::Timestamp::now()),
    })
}

/// The memory that this process may use: the host's, or less where a control group says so.
fn memory_bytes() -> Result<u64, Error> {
    let mut system = System::new().map_err(|error| Error::Host { reason: error.to_string() })?;
    system.refresh_memory();
    let limit = system.cgroup_limits().map_or(u64::MAX, |limits| limits.total_memory);
    Ok(system.total_memory().min(limit))
}

/// The processor's features by their Linux names, asked of the processor itself: in an empty root there is no /proc.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> BTreeSet<String> {
    macro_rules! detected {
        ($($linux:literal = $rust:tt),* $(,)?) => {
            [$(($linux, std::arch::is_x86_feature_detected!($rust))),*]
        };
    }
    let table = detected![
        "sse4_2" = "sse4.2",
        "avx" = "avx",
        "avx2" = "avx2",
        "fma" = "fma",
        "f16c" = "f16c",
        "bmi2" = "bmi2",
        "avx512f" = "avx512f",
        "avx512bw" = "avx512bw",
        "avx512vl" = "avx512vl",
        "avx512_vnni" = "avx512vnni",
        "avx512_bf16" = "avx512bf16",
        "avx_vnni" = "avxvnni",
    ];
    table.into_iter().filter(|(_, present)| *present).map(|(name, _)| name.to_owned()).collect()
}

/// The processor's features by their Linux names.
#[cfg(target_arch = "aarch64")]
fn cpu_features() -> BTreeSet<String> {
    let table = [
        ("asimd", std::arch::is_aarch64_feature_detected!("neon")),
        ("asimddp", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
    ];
    table.into_iter().filter(|(_, present)| *present).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_host_has_memory_and_a_clock_that_was_set() {
        let facts = facts().unwrap();
        assert!(facts.memory_bytes > 256 * 1024 * 1024, "{}", facts.memory_bytes);
        assert!(facts.now.as_second() > 1_700_000_000);
    }
}
