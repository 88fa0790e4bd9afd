//! The rights that the process could still use, gain or leave behind.
//!
//! These calls speak for one thread, and a thread passes what it has to those that it starts.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, no_new_privs,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// No program that is executed from here can have more rights than we; both filters below need it too.
pub(super) fn gain_none() -> Result<String, String> {
    set_no_new_privs(true).and_then(|()| no_new_privs()).map_err(|error| format!("prctl: {error}")).and_then(|set| {
        if set { Ok("no program gains rights from here".to_owned()) } else { Err("the system ignores it".to_owned()) }
    })
}

/// Keys, prompts and weights are in memory; no crash writes them to a file, and no neighbour of the same user reads them.
pub(super) fn dump_nothing() -> Result<String, String> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| format!("prctl: {error}"))?;
    let nothing = Rlimit { current: Some(0), maximum: Some(0) };
    if getrlimit(Resource::Core) != nothing {
        setrlimit(Resource::Core, nothing).map_err(|error| format!("setrlimit: {error}"))?;
    }
    Ok("no core dump, no tracing by the same user".to_owned())
}

/// Gives up every capability, and where the process may, the right to be given any.
pub(super) fn drop_capabilities() -> Result<String, String> {
    // Asking for the inheritable and the ambient set first would need rights that are gone with the others.
    let bounded = drop_bounding_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let held = capabilities(None).map_err(|error| format!("capget: {error}"))?;
    // A service manager that took them away may refuse the call as well.
    if held != none {
        clear_ambient_capability_set().map_err(|error| format!("prctl: {error}"))?;
        set_capabilities(None, none).map_err(|error| format!("capset: {error}"))?;
    }
    let left = capabilities(None).map_err(|error| format!("capget: {error}"))?;
    if left != none {
        return Err(format!("{:?} are still held", left.permitted));
    }
    Ok(if bounded { "none held, none to be had" } else { "none held" }.to_owned())
}

/// Whether the set was emptied, which only whoever may set capabilities can do.  For everybody else the rule against new
/// privileges stands in for it.
fn drop_bounding_set() -> Result<bool, String> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel knows no capability of this number, nor of a higher one.
            Err(Errno::INVAL) => break,
            Err(Errno::PERM) => return Ok(false),
            Err(error) => return Err(format!("prctl: {error}")),
        }
    }
    Ok(true)
}
