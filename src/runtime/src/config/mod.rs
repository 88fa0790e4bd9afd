//! The configuration of one site.  Several layers say what they want (built-in values, the bundle, files, the
//! environment, flags); this module merges them, keeps for every value where it came from, and refuses what it does
//! not understand.
//!
//! ```text
//! files, environment, flags ─► Layers ─merge─► Effective ─require─► RuntimeConfig
//!            as written: RawConfig          value + origin            ready to use
//! ```
//!
//! Precedence: flag, then environment, then file, then what the bundle proposes, then built in.  Above all of them
//! stand the bundle's constraints (`contract`): a site may tighten them, never loosen.

mod contract;
mod effective;
mod environment;
mod error;
mod layers;
mod options;
mod raw;
mod runtime;

pub use contract::Contract;
pub use effective::{Effective, Entry, Origin};
pub use environment::{CONFIG_FILE_VARIABLE, Environment, is_service_link};
pub use error::{ConfigError, ConfigErrors};
pub use layers::{FlagValue, Layers};
pub use options::{Kind, Options};
pub use raw::{LogFormat, LogLevel, RawConfig};
pub use runtime::{
    AcceptedBundles, AdmissionConfig, BundleSource, Limits, ListenPlan, MetricsPlan, RuntimeConfig, Shutdown, TlsFiles,
};
