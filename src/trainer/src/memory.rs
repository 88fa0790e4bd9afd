//! How much memory this process holds and may still take, so that a run which cannot fit is refused before it begins
//! and not ended by the kernel in its middle.

use std::fmt;

use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// The memory of this process and of what it runs in, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes that the process holds.
    pub held: u64,
    /// Bytes that it may take beside them: what the machine has left, or less where a control group says so. A group may
    /// have less than is told here, and not more.
    pub available: u64,
}

impl Memory {
    /// Looks; `None` where the system does not tell, as without /proc. Nothing left is told as zero.
    pub fn look() -> Option<Self> {
        let mut system = System::new().ok()?;
        system.refresh_memory();
        let pid = sysinfo::get_current_pid().ok()?;
        let only = ProcessesToUpdate::Some(&[pid]);
        system.refresh_processes_specifics(only, false, ProcessRefreshKind::nothing().with_memory());
        let process = system.process(pid)?;
        // The smallest limit of the group and those around it, less the anonymous memory of the group alone: the page
        // cache can be had back, and counting it would refuse a run because its base was just read. What the groups
        // beside it hold under the same limit, and what lies in a tmpfs, cannot be had back and is not told apart, so
        // there may be less.
        let groups = [system.cgroup_limits(), process.cgroup_limits()].into_iter().flatten();
        let left = groups.map(|limits| limits.total_memory.saturating_sub(limits.rss)).min();
        let available = available(system.total_memory(), system.available_memory(), left)?;
        Some(Self { held: process.memory(), available })
    }
}

/// What may be taken of a machine that has this much in all and this much left, and of a control group with this much left
/// if there is one. A machine without any memory is one that does not tell.
fn available(total: u64, left: u64, left_of_group: Option<u64>) -> Option<u64> {
    (total > 0).then(|| left.min(left_of_group.unwrap_or(u64::MAX)))
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
    fn nothing_left_is_told_and_nothing_told_is_not_nothing_left() {
        assert_eq!(available(8, 4, None), Some(4));
        assert_eq!(available(8, 4, Some(3)), Some(3));
        assert_eq!(available(8, 4, Some(0)), Some(0));
        assert_eq!(available(8, 0, None), Some(0));
        assert_eq!(available(0, 0, Some(3)), None);
    }

    #[test]
    fn bytes_are_read_by_people() {
        assert_eq!(Bytes(20 << 20).to_string(), "20 MiB");
        assert_eq!(Bytes((20 << 20) + 1).to_string(), "21 MiB");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
    }
}
