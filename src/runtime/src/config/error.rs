//! What can be wrong with a configuration.  Each variant names the key, the value and where it was said, so that the
//! operator knows which file, variable or flag to change.

use std::fmt;
use std::path::PathBuf;

use super::effective::Origin;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    UnreadableFile {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// Every user of this host may change the file.
    #[error("the configuration file {} may be written by everybody (mode {found:o}): take that away with `chmod o-w`", path.display())]
    WritableFile {
        /// The file.
        path: PathBuf,
        /// Its mode.
        found: u32,
    },
    /// A file is larger than any configuration has reason to be.
    #[error("{} has more than {limit} bytes; a configuration file is a page or two of TOML", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The cap in bytes.
        limit: u64,
    },
    /// A file is not TOML.
    #[error("{} is not TOML: {reason}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// What the parser says, with the place.
        reason: String,
    },
    /// A key that no option has.
    #[error("unknown key `{key}` in {origin}{}", did_you_mean(.suggestion))]
    UnknownKey {
        /// The dotted key as written.
        key: String,
        /// Where.
        origin: Origin,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// A variable with our prefix that no option has.
    #[error("unknown environment variable {variable}{}", did_you_mean(.suggestion))]
    UnknownVariable {
        /// The variable.
        variable: String,
        /// What was probably meant.
        suggestion: Option<String>,
    },
    /// A variable whose value is not UTF-8.
    #[error("the value of environment variable {variable} is not UTF-8 text")]
    NotText {
        /// The variable.
        variable: String,
    },
    /// `--set` without an equals sign.
    #[error("`--set {found}` is not of the form KEY=VALUE, as in `--set limits.running_requests=4`")]
    NotAnAssignment {
        /// The argument.
        found: String,
    },
    /// A value of the wrong shape.
    #[error("`{key}` is {found}, but must be {expected} (from {origin})")]
    WrongType {
        /// The dotted key.
        key: String,
        /// What was given.
        found: String,
        /// What is wanted.
        expected: String,
        /// Where.
        origin: Origin,
    },
    /// A number outside its bounds.
    #[error("`{key}` is {found}, but must be between {minimum} and {maximum} (from {origin})")]
    OutOfBounds {
        /// The dotted key.
        key: String,
        /// What was given.
        found: i128,
        /// The least value.
        minimum: u64,
        /// The greatest value.
        maximum: u64,
        /// Where.
        origin: Origin,
    },
    /// An option that has no default and was not given.
    #[error("`{key}` is not set: {remedy}")]
    Missing {
        /// The dotted key.
        key: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Both a bundle and a store.
    #[error(
        "`bundle` (from {bundle}) and `store` (from {store}) are both set: take one away, because only one of them can say \
         what is served"
    )]
    BundleAndStore {
        /// Where the bundle was named.
        bundle: Origin,
        /// Where the store was named.
        store: Origin,
    },
    /// Both a state and a store.
    #[error(
        "`state` (from {state}) and `store` (from {store}) are both set: take `state` away, because a store keeps its own"
    )]
    StateAndStore {
        /// Where the state was named.
        state: Origin,
        /// Where the store was named.
        store: Origin,
    },
    /// An entry of a list that is nothing of its kind.
    #[error("`{key}` has the entry {found:?}, but each must be {expected} (from {origin})")]
    WrongEntry {
        /// The dotted key.
        key: &'static str,
        /// The entry.
        found: String,
        /// What is wanted.
        expected: &'static str,
        /// Where.
        origin: Origin,
    },
    /// A file that an option names is not there or cannot be read.
    #[error("`{key}` names {}, which cannot be opened: {reason} (from {origin})", path.display())]
    MissingFile {
        /// The dotted key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
        /// Where.
        origin: Origin,
    },
    /// Not an IP address and a port.
    #[error(
        "`{key}` is \"{found}\", but must be an IP address and a port, as in 127.0.0.1:8080 or [::]:8443 (from {origin}); \
         names are not resolved"
    )]
    NotAnAddress {
        /// The dotted key.
        key: &'static str,
        /// What was given.
        found: String,
        /// Where.
        origin: Origin,
    },
    /// Plain HTTP that other hosts could reach.
    #[error(
        "`listen` is {found} (from {origin}), which other hosts can reach, but there is no TLS; give `tls.certificate_file` \
         and `tls.key_file`, listen on 127.0.0.1, or set `allow_plain_http_beyond_loopback = true` if a proxy on this \
         host ends TLS"
    )]
    PlainHttpBeyondLoopback {
        /// The address.
        found: String,
        /// Where.
        origin: Origin,
    },
    /// Metrics that other hosts could reach.
    #[error(
        "`metrics_listen` is {found} (from {origin}), which other hosts can reach, and metrics are served without TLS or \
         a key; listen on 127.0.0.1, or set `allow_metrics_beyond_loopback = true`"
    )]
    MetricsBeyondLoopback {
        /// The address.
        found: String,
        /// Where.
        origin: Origin,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("`{present}` is set (from {origin}) but `{absent}` is not; TLS needs both files")]
    HalfOfTls {
        /// The key that is there.
        present: &'static str,
        /// The key that is not.
        absent: &'static str,
        /// Where.
        origin: Origin,
    },
    /// The site wants more than the bundle allows.
    #[error(
        "`{key}` is {found} (from {origin}), but the bundle allows {allowed} (`{rule}` in the release statement of \
         {bundle}); a site may tighten this, not loosen it"
    )]
    LoosensBundle {
        /// The dotted key.
        key: Box<str>,
        /// The site's value.
        found: Box<str>,
        /// Where the site said so.
        origin: Origin,
        /// What the bundle allows.
        allowed: Box<str>,
        /// The constraint's name in the release statement.
        rule: &'static str,
        /// Name and version of the bundle.
        bundle: Box<str>,
    },
    /// The settings schema in the bundle is not understood.
    #[error("the settings schema of {bundle} is not understood: {reason}")]
    SettingsSchema {
        /// Name and version of the bundle.
        bundle: String,
        /// What the parser says.
        reason: String,
    },
    /// The settings schema in the bundle speaks about the site's own files, addresses or logs.
    #[error("the settings schema of {bundle} sets `{key}`, which belongs to the site")]
    BelongsToSite {
        /// The dotted key.
        key: String,
        /// Name and version of the bundle.
        bundle: String,
    },
    /// The trust root of the demo, whose signing key is public.
    #[error(
        "`trust_root` is the demo's root ({digest}); its signing key is test material that anyone can have, so it serves \
         `ampoule demo` only; use the root.json that your vendor gave you"
    )]
    DemoRoot {
        /// The root's digest.
        digest: String,
    },
}

fn did_you_mean(suggestion: &Option<String>) -> String {
    match suggestion {
        Some(meant) => format!("; did you mean `{meant}`?"),
        None => "; `ampoule config show` lists all options".to_owned(),
    }
}

/// Every mistake that was found, because an operator wants to mend them all at once.  Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> ConfigErrors {
        ConfigErrors(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(formatter, "the configuration is wrong: {only}"),
            all => {
                write!(formatter, "the configuration is wrong in {} places:", all.len())?;
                all.iter().try_for_each(|error| write!(formatter, "\n  - {error}"))
            }
        }
    }
}

impl std::error::Error for ConfigErrors {}
