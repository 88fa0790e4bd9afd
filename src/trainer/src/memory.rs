//! How much memory this process holds and may still take, so that a run which cannot fit is refused before it begins
//! and not ended by the kernel in its middle.

use std::fmt;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// The memory of this process and of what it runs in, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that the process holds.
    pub held: u64,
    /// Bytes that it may take beside them: what the machine has left, or less where a control group says so.
    pub available: u64,
}

impl Memory {
    /// Looks; `None` where the system does not tell, as without /proc.
    pub fn look() -> Option<Self> {
        let mut system = System::new().ok()?;
        system.refresh_memory();
        let pid = sysinfo::get_current_pid().ok()?;
        let only = ProcessesToUpdate::Some(&[pid]);
        system.refresh_processes_specifics(only, false, ProcessRefreshKind::nothing().with_memory());
        let process = system.process(pid)?;
        // Of a control group's memory the page cache can be had back, so what is resident alone counts.
        let groups = [system.cgroup_limits(), process.cgroup_limits()].into_iter().flatten();
        let left = groups.map(|limits| limits.total_memory.saturating_sub(limits.rss)).min().unwrap_or(u64::MAX);
        let available = system.available_memory().min(left);
        (available > 0).then(|| Self { held: process.memory(), available })
    }
}

/// A number of bytes as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = (1 << 20) as f64;
        let mib = self.0 as f64 / MIB;
        if mib < 1024.0 { write!(f, "{:.0} MiB", mib.ceil()) } else { write!(f, "{:.1} GiB", mib / 1024.0) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn this_process_holds_memory_and_may_take_more() {
        let before = Memory::look().unwrap();
        let mut block = vec![1_u8; 64 << 20];
        block.iter_mut().step_by(4096).for_each(|byte| *byte = 2);
        let after = Memory::look().unwrap();
        assert!(before.held > 1 << 20 && before.available > 1 << 20, "{before:?}");
        assert!(after.held >= before.held + (32 << 20), "{before:?}, {after:?}");
        assert_eq!(block[4096], 2);
    }

    #[test]
    fn bytes_are_read_by_people() {
        assert_eq!(Bytes(20 << 20).to_string(), "20 MiB");
        assert_eq!(Bytes((20 << 20) + 1).to_string(), "21 MiB");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
    }
}
