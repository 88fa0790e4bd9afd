//! The exit codes of every Ampoule binary, in one table.  They are an interface: service managers, scripts and the
//! conformance harness act on them, so a number never changes its meaning.

use std::process::ExitCode;

/// Why the process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Done, or drained after SIGTERM.
    Ok = 0,
    /// A failure that no other code names.
    Failure = 1,
    /// The command line was not understood.
    Usage = 2,
    /// A check ran and failed.
    CheckFailed = 3,
    /// A check ran and has only warnings.
    Warnings = 4,
    /// The bundle (or the trust root) could not be read as what it claims to be.
    Unreadable = 10,
    /// A signature or a digest is missing or wrong.
    Signature = 11,
    /// The bundle is authentic but may not run here.
    NotAdmitted = 12,
    /// The bundle is older than one already accepted, or the store's state is damaged or does not allow what was asked.
    State = 13,
    /// The model could not be loaded or did not reproduce its known answers.
    Model = 20,
    /// A listener could not be opened, or its TLS files cannot be used.
    Listener = 30,
    /// A defect of Ampoule itself.
    Internal = 70,
    /// The configuration is wrong.
    Configuration = 78,
}

impl Exit {
    /// The whole table, in the order of the codes.
    pub const ALL: [Exit; 13] = [
        Exit::Ok,
        Exit::Failure,
        Exit::Usage,
        Exit::CheckFailed,
        Exit::Warnings,
        Exit::Unreadable,
        Exit::Signature,
        Exit::NotAdmitted,
        Exit::State,
        Exit::Model,
        Exit::Listener,
        Exit::Internal,
        Exit::Configuration,
    ];

    /// The entry of the table with this number.
    pub fn of_code(code: u64) -> Option<Exit> {
        Exit::ALL.into_iter().find(|exit| u64::from(exit.code()) == code)
    }

    /// The number that the parent process sees.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}
