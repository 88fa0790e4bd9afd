//! Which files are to be had: those of the folders that were named, and what the kernel tells about processors, by which
//! the number of threads is chosen.  Nothing else can be opened, listed, made, changed or executed.

use std::io::ErrorKind;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};

use super::Reach;

/// The newest version whose rights we name; an older kernel takes those that it knows.
const NEWEST: ABI = ABI::V6;

/// Read while the model is loaded.  None of these tells anything about another process or this site.
const ABOUT_PROCESSORS: [&str; 4] =
    ["/proc/self/cgroup", "/proc/self/mountinfo", "/sys/devices/system/cpu", "/sys/fs/cgroup"];

/// Restricts this thread, and those that it will start.
pub(super) fn reach_only(reach: &Reach) -> Result<String, String> {
    let status = restrict(reach).map_err(|error| format!("{error:#}"))?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => Err("the kernel has it switched off".to_owned()),
        (RulesetStatus::NotEnforced, _) => Err("the kernel does not have it".to_owned()),
        (_, LandlockStatus::Available { effective_abi, kernel_abi }) => {
            // Before version 4 it does not know about TCP; the filter of system calls keeps new sockets away in any case.
            let version = kernel_abi.unwrap_or(effective_abi as i32);
            Ok(format!("version {version}, {} folders", reach.folders.len() + reach.tidied.len()))
        }
        (_, status) => Err(format!("the kernel says {status:?}")),
    }
}

fn restrict(reach: &Reach) -> Result<landlock::RestrictionStatus, Failure> {
    let everything = AccessFs::from_all(NEWEST);
    let mut rules = Ruleset::default()
        .handle_access(everything)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for folder in &reach.folders {
        // No device is made or spoken to, and nothing is executed.
        let wanted = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | RemoveFile | RemoveDir | MakeDir | MakeReg});
        rules = allow(rules, folder, wanted, Absent::IsAnError)?;
    }
    for folder in &reach.tidied {
        rules = allow(rules, folder, AccessFs::RemoveFile.into(), Absent::IsAnError)?;
    }
    for path in ABOUT_PROCESSORS {
        rules = allow(rules, Path::new(path), AccessFs::ReadFile | AccessFs::ReadDir, Absent::IsNoMatter)?;
    }
    Ok(rules.restrict_self()?)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    IsAnError,
    IsNoMatter,
}

fn allow(
    rules: RulesetCreated,
    path: &Path,
    wanted: BitFlags<AccessFs>,
    absent: Absent,
) -> Result<RulesetCreated, Failure> {
    let opened = match PathFd::new(path) {
        Ok(opened) => opened,
        Err(PathFdError::OpenCall { source, .. }) if absent == Absent::IsNoMatter && is_out_of_reach(&source) => {
            return Ok(rules);
        }
        Err(error) => return Err(error.into()),
    };
    // A file that is no folder cannot be listed, and the kernel refuses a rule that says so.
    let wanted = if path.is_dir() { wanted } else { wanted & AccessFs::from_file(NEWEST) };
    Ok(rules.add_rule(PathBeneath::new(opened, wanted))?)
}

fn is_out_of_reach(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Path(#[from] PathFdError),
    #[error(transparent)]
    Rules(#[from] landlock::RulesetError),
}
