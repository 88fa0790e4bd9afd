//! What the process gives up for good before it looks at anything that somebody else made.
//!
//! Two stages. The first begins when every file and socket is open and while there is one thread, so that each later
//! thread is born inside it; bundles are verified, parsed and loaded there. The second follows when the model has proven
//! itself, and takes away what only loading needed. Each of the layers says whether it is up, and where one must be, the
//! process refuses to go on without it.
//!
//! ```text
//! Reach ─enter─► Loading: privileges, files, calls ─close─► Report: nothing is opened any more but what Reach names
//! ```
//!
//! A GPU needs its driver's devices and their ioctls, so it will get a list of calls and files of its own, beside these.

mod calls;
mod files;
mod libraries;
mod privileges;

use std::fmt;
use std::fs;
use std::path::PathBuf;

use calls::{Paths, Stage};

/// Why the process does not go on.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A layer is missing that must be there.
    #[error(
        "`sandbox.required` is true, and this host does not give all of the sandbox: {missing}; `ampoule doctor` tells \
         what it gives, and with `sandbox.required = false` the rest of it is put up and what is missing is a warning"
    )]
    Missing {
        /// Each layer, and why it is missing.
        missing: String,
    },
}

/// The layers, in the order in which they are put up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerName {
    /// Nothing that is executed can have more rights than this process.
    NoNewPrivileges,
    /// Its memory is written to no core dump, and no other process of its user may look into it.
    CoreDumps,
    /// It has no capability, whoever started it.
    Capabilities,
    /// It reaches no file but those that it named.
    Landlock,
    /// It makes no system call but those that it needs.
    Seccomp,
}

impl LayerName {
    /// As in `/v1/metadata`, in metrics and in `ampoule doctor`.
    pub fn as_str(self) -> &'static str {
        match self {
            LayerName::NoNewPrivileges => "no_new_privileges",
            LayerName::CoreDumps => "core_dumps",
            LayerName::Capabilities => "capabilities",
            LayerName::Landlock => "landlock",
            LayerName::Seccomp => "seccomp",
        }
    }

    /// What an operator can do where it is missing.
    pub fn remedy(self) -> &'static str {
        match self {
            LayerName::NoNewPrivileges | LayerName::CoreDumps | LayerName::Capabilities => {
                "whatever starts the process must allow prctl, setrlimit and capset, or drop these rights for it"
            }
            LayerName::Landlock => {
                "use Linux 5.13 or newer with `landlock` in the kernel's lsm= list, and let the container's seccomp profile \
                 allow the landlock calls"
            }
            LayerName::Seccomp => {
                "use a kernel with CONFIG_SECCOMP_FILTER, and let the container's profile allow seccomp"
            }
        }
    }
}

/// One layer as it really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Which one.
    pub name: LayerName,
    /// Whether it is up.
    pub state: LayerState,
}

/// Whether a layer is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerState {
    /// It is, and this is what it holds back.
    Applied(String),
    /// It is not, and this is why.
    Missing(String),
}

impl LayerState {
    /// Whether the layer is up.
    pub fn is_applied(&self) -> bool {
        matches!(self, LayerState::Applied(_))
    }
}

impl fmt::Display for LayerState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (LayerState::Applied(text) | LayerState::Missing(text)) = self;
        formatter.write_str(text)
    }
}

/// What is to be had inside, beside what is open already.  Nothing, unless it is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Folders in which files are read and written, such as that of the state.
    pub folders: Vec<PathBuf>,
    /// Folders from which a file of ours is removed at the end, such as that of the admin socket.
    pub tidied: Vec<PathBuf>,
}

/// The layers of one process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether the process would have refused to go on without one of them.
    pub required: bool,
    /// Each of them, in order.  None where no sandbox was entered.
    pub layers: Vec<Layer>,
}

/// The first stage is up: what is open can be read, verified and computed with.
#[derive(Debug)]
#[must_use = "the second stage is still to come"]
pub struct Loading {
    report: Report,
    paths: Paths,
}

/// Puts up the first stage.  For a process that has one thread: later ones inherit it, earlier ones would be outside.
///
/// # Errors
/// [`SandboxError::Missing`] when a layer cannot be put up and it must be.
pub fn enter(reach: &Reach, required: bool) -> Result<Loading, SandboxError> {
    let paths = match (reach.folders.is_empty(), reach.tidied.is_empty()) {
        (true, true) => Paths::Unused,
        (true, false) => Paths::Removed,
        (false, _) => Paths::Used,
    };
    let others = other_threads();
    let of_thread = |put_up: &dyn Fn() -> Result<String, String>| match others {
        0 => put_up(),
        others => Err(format!("{others} other threads run already, which it would leave out")),
    };
    let layers = [
        (LayerName::NoNewPrivileges, of_thread(&privileges::gain_none)),
        (LayerName::CoreDumps, privileges::dump_nothing()),
        (LayerName::Capabilities, of_thread(&privileges::drop_capabilities)),
        (LayerName::Landlock, of_thread(&|| files::reach_only(reach))),
        (LayerName::Seccomp, calls::leave_only(Stage::Loading, paths)),
    ];
    let layers = layers.into_iter().map(|(name, outcome)| Layer { name, state: LayerState::of(outcome) }).collect();
    let report = Report { required, layers };
    report.check()?;
    Ok(Loading { report, paths })
}

impl Loading {
    /// Lets libraries ask the system what they would otherwise ask in vain while they serve.
    pub fn let_libraries_ask(&self) {
        libraries::let_the_c_library_ask();
    }

    /// Puts up the second stage, on every thread that there is by now.
    ///
    /// # Errors
    /// [`SandboxError::Missing`] when it cannot be put up and it must be.
    pub fn close(self) -> Result<Report, SandboxError> {
        let Loading { mut report, paths } = self;
        for layer in &mut report.layers {
            // A filter that could not be put up in the first stage was told about there.
            if layer.name == LayerName::Seccomp && layer.state.is_applied() {
                layer.state = LayerState::of(calls::leave_only(Stage::Serving, paths));
            }
        }
        report.check()?;
        for layer in report.missing() {
            tracing::warn!(
                layer = layer.name.as_str(),
                reason = %layer.state,
                "a layer of the sandbox is missing; sandbox.required = true would refuse to serve without it"
            );
        }
        Ok(report)
    }

    /// What is up so far.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

impl LayerState {
    fn of(outcome: Result<String, String>) -> LayerState {
        outcome.map_or_else(LayerState::Missing, LayerState::Applied)
    }
}

impl Report {
    fn missing(&self) -> impl Iterator<Item = &Layer> {
        self.layers.iter().filter(|layer| !layer.state.is_applied())
    }

    fn check(&self) -> Result<(), SandboxError> {
        let missing: Vec<String> =
            self.missing().map(|layer| format!("{} ({})", layer.name.as_str(), layer.state)).collect();
        if self.required && !missing.is_empty() {
            return Err(SandboxError::Missing { missing: missing.join(", ") });
        }
        Ok(())
    }
}

/// How many threads there are beside this one, as far as the system tells: in an empty root there is no /proc.
fn other_threads() -> usize {
    fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count().saturating_sub(1))
}
