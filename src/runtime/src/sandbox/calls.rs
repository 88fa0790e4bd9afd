//! Which system calls are left.  Whatever is not on the list is answered with EPERM and has no effect, on every thread;
//! `src/decisions/0004-sandbox-in-two-stages.md` says why it is answered and does not end the process.
//!
//! Not on any list, and so always refused: `socket`, `connect`, `bind`, `execve`, `fork`, `ptrace`, `bpf`, `io_uring_*`,
//! `userfaultfd`, `perf_event_open`, `keyctl`, `process_vm_*`, `memfd_create`, `open_by_handle_at`, and whatever a newer
//! kernel invents.  `openat` is on it only where folders were named, and there Landlock decides about each name.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

/// How far the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// A model is loaded and threads are started.
    Loading,
    /// Requests are answered.
    Serving,
}

/// What may still be done to a file by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paths {
    /// Nothing.
    Unused,
    /// It is removed, from the folders that were named for it.
    Removed,
    /// It is opened, written and moved too, in the folders that were named.
    Used,
}

/// Reading and writing what is open, memory, threads, time.
const ALWAYS: &[c_long] = &[
    // What is open.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fadvise64,
    // Connections that were accepted.
    libc::SYS_accept4,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    // Memory; what asks for memory that can be executed is sorted out below.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    // Threads; what asks for processes is sorted out below.  glibc tries clone3 first, and is told that there is none.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_geteuid,
    libc::SYS_getcpu,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals to itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_uname,
    libc::SYS_sysinfo,
];

/// The older spellings that x86-64 still has.
#[cfg(target_arch = "x86_64")]
const OLDER_ALWAYS: &[c_long] = &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_time];
#[cfg(target_arch = "x86_64")]
const REMOVING: &[c_long] = &[libc::SYS_unlink, libc::SYS_unlinkat];
#[cfg(target_arch = "x86_64")]
const OLDER_IN_FOLDERS: &[c_long] = &[libc::SYS_open, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_rename];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_ALWAYS: &[c_long] = &[];
#[cfg(not(target_arch = "x86_64"))]
const REMOVING: &[c_long] = &[libc::SYS_unlinkat];
#[cfg(not(target_arch = "x86_64"))]
const OLDER_IN_FOLDERS: &[c_long] = &[];

/// Looking into files that the first stage may read, and setting up what serves.
const WHILE_LOADING: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_getdents64,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_listen,
    libc::SYS_sched_setaffinity,
    // For the filter of the second stage.
    libc::SYS_seccomp,
];

/// Names of files, as far as Landlock lets them be used, and what makes a write last.
const IN_FOLDERS: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_flock,
    libc::SYS_fchmod,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
];

/// What a thread is started with.  A process would share less; a namespace cannot be had together with these.
const OF_A_THREAD: u64 = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u64;

/// Filters every thread, for good.
pub(super) fn leave_only(stage: Stage, paths: Paths) -> Result<String, String> {
    let rules = rules(stage, paths).map_err(|error| format!("the list of calls: {error}"))?;
    let count = rules.len();
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    apply(rules, refuse, SeccompAction::Allow)?;
    if stage == Stage::Loading {
        // Its flags lie in memory, where no filter can look.  ENOSYS sends glibc to clone, whose flags do not.
        let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        apply(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Allow, absent)?;
    }
    Ok(format!("{count} calls are left"))
}

fn apply(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<(), String> {
    let architecture = std::env::consts::ARCH.try_into().map_err(|error: BackendError| error.to_string())?;
    let filter = SeccompFilter::new(rules, otherwise, matching, architecture).map_err(|error| error.to_string())?;
    let program: seccompiler::BpfProgram = filter.try_into().map_err(|error: BackendError| error.to_string())?;
    apply_filter_all_threads(&program).map_err(|error| error.to_string())
}

/// Each call that is left, with what its arguments must be; no rule lets every argument pass.
fn rules(stage: Stage, paths: Paths) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let of_stage = if stage == Stage::Loading { WHILE_LOADING } else { &[] };
    let (removing, of_folders, older): (&[c_long], &[c_long], &[c_long]) = match paths {
        Paths::Unused => (&[], &[], &[]),
        Paths::Removed => (REMOVING, &[], &[]),
        Paths::Used => (REMOVING, IN_FOLDERS, OLDER_IN_FOLDERS),
    };
    let lists = [ALWAYS, OLDER_ALWAYS, of_stage, removing, of_folders, older];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        lists.into_iter().flatten().map(|call| (*call, Vec::new())).collect();

    let word = |argument, is, value: u64| SeccompCondition::new(argument, Length::Dword, is, value);
    let long = |argument, is, value: u64| SeccompCondition::new(argument, Length::Qword, is, value);
    let one_of = |argument, values: &[i64]| -> Result<Vec<SeccompRule>, BackendError> {
        values.iter().map(|value| SeccompRule::new(vec![word(argument, Is::Eq, *value as u64)?])).collect()
    };
    let only = |condition: Result<SeccompCondition, BackendError>| Ok(vec![SeccompRule::new(vec![condition?])?]);

    let executable = libc::PROT_EXEC as u64;
    rules.insert(libc::SYS_mmap, only(word(2, Is::MaskedEq(executable), 0))?);
    rules.insert(libc::SYS_mprotect, only(word(2, Is::MaskedEq(executable), 0))?);
    rules.insert(libc::SYS_clone, only(long(0, Is::MaskedEq(OF_A_THREAD), OF_A_THREAD))?);
    rules.insert(libc::SYS_tgkill, only(word(0, Is::Eq, std::process::id().into()))?);
    // To whom the connection leads, and to no address.
    rules.insert(libc::SYS_sendto, only(long(4, Is::Eq, 0))?);
    // Limits are read, not set.
    rules.insert(libc::SYS_prlimit64, only(long(2, Is::Eq, 0))?);
    let terminal = [libc::FIONBIO as i64, libc::TCGETS as i64, libc::TIOCGWINSZ as i64];
    rules.insert(libc::SYS_ioctl, one_of(1, &terminal)?);
    let flags = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    rules.insert(libc::SYS_fcntl, one_of(1, &flags.map(i64::from))?);
    let mut names = vec![i64::from(libc::PR_SET_NAME)];
    if stage == Stage::Loading {
        names.push(libc::PR_SET_NO_NEW_PRIVS.into());
        // The pair by which signals reach the event loop.
        rules.insert(libc::SYS_socketpair, one_of(0, &[libc::AF_UNIX.into()])?);
    }
    rules.insert(libc::SYS_prctl, one_of(0, &names)?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What a program that got into the process would ask for first.
    const NEVER: [c_long; 24] = [
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_sendmsg,
        libc::SYS_sendmmsg,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_kill,
        libc::SYS_bpf,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_userfaultfd,
        libc::SYS_perf_event_open,
        libc::SYS_keyctl,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_memfd_create,
        libc::SYS_open_by_handle_at,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_pidfd_getfd,
    ];

    #[test]
    fn no_list_holds_what_is_never_to_be_had() {
        for stage in [Stage::Loading, Stage::Serving] {
            for paths in [Paths::Unused, Paths::Removed, Paths::Used] {
                let rules = rules(stage, paths).unwrap();
                for call in NEVER {
                    assert!(!rules.contains_key(&call), "call {call} is left while {stage:?} with {paths:?}");
                }
            }
        }
    }

    #[test]
    fn serving_keeps_less_than_loading_and_opens_nothing_without_a_folder() {
        let count = |stage, paths| rules(stage, paths).unwrap().len();
        assert!(count(Stage::Serving, Paths::Unused) < count(Stage::Loading, Paths::Unused));
        let serving = rules(Stage::Serving, Paths::Unused).unwrap();
        for call in [libc::SYS_openat, libc::SYS_openat2, libc::SYS_seccomp, libc::SYS_socketpair, libc::SYS_unlinkat] {
            assert!(!serving.contains_key(&call), "call {call}");
        }
        let tidying = rules(Stage::Serving, Paths::Removed).unwrap();
        assert!(tidying.contains_key(&libc::SYS_unlinkat) && !tidying.contains_key(&libc::SYS_openat));
        assert!(rules(Stage::Serving, Paths::Used).unwrap().contains_key(&libc::SYS_openat));
    }
}
