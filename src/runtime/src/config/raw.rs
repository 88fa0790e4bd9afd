//! The configuration as a site writes it.  Every field is optional here, because every layer may say as little as it
//! likes; the comment on a field is what `ampoule config schema` and `config show` tell the operator about it.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The configuration of an Ampoule runtime.  Relative paths are relative to the file that names them.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// The sealed bundle to serve.
    pub bundle: Option<PathBuf>,
    /// The store whose active bundle is served, in place of `bundle`.
    pub store: Option<PathBuf>,
    /// The folder where what was taken into use is kept, beside `bundle`, so that nothing older is served after a restart;
    /// `ampoule state init` makes it. A store keeps this itself.
    pub state: Option<PathBuf>,
    /// The trust root (root.json) whose keys may sign the bundle. There is no default trust.
    pub trust_root: Option<PathBuf>,
    /// The revocation list (revocations.json), signed by the trust root's `revoke` keys: keys, bundles and counters that must
    /// not be used any more.
    pub revocations: Option<PathBuf>,
    /// A token, signed by the trust root's `release` keys, that permits one bundle below what was accepted before.
    pub downgrade_token: Option<PathBuf>,
    /// The channels of bundles that may be served, separated by commas. All of them when unset.
    pub channels: Option<String>,
    /// The lowest versions of bundles that may be served: NAME@VERSION, separated by commas.
    pub minimum_versions: Option<String>,
    /// The file with the age identity that opens an encrypted bundle, as `age-keygen` writes it; only its owner and its
    /// group may read it. Without it the systemd credential `decryption-identity` is taken, if there is one.
    pub decryption_identity_file: Option<PathBuf>,
    /// Sealed adapters of that bundle to serve beside it, each by its own name as `model`: paths, separated by commas.
    pub adapters: Option<String>,
    /// The file of API keys that `ampoule keys add` writes; it holds hashes, never keys.
    pub keys_file: Option<PathBuf>,
    /// The name that clients give as `model`; the bundle's own name when unset.
    #[schemars(length(min = 1, max = 200))]
    pub model_name: Option<String>,
    /// Where to serve: an IP address and a port. Beyond loopback this needs TLS.
    pub listen: Option<String>,
    /// Serve plain HTTP on an address other than loopback. Keys and prompts then cross the network readable: only
    /// behind a proxy that ends TLS on the same host or in the same pod.
    pub allow_plain_http_beyond_loopback: Option<bool>,
    /// Where to serve Prometheus metrics: an IP address and a port of their own. No metrics are served when unset.
    pub metrics_listen: Option<String>,
    /// Serve metrics on an address other than loopback. They go out as plain HTTP and without a key; they hold no
    /// prompts.
    pub allow_metrics_beyond_loopback: Option<bool>,
    /// Where to serve administration, such as loading adapters: the path of a UNIX socket that only this server's user may
    /// connect to, in a folder that not everybody may write. None is served when unset.
    pub admin_socket: Option<PathBuf>,
    /// After SIGTERM, how long readiness already says no while requests are still served, so that a load balancer can
    /// notice and send no more.
    #[schemars(range(min = 0, max = 3600))]
    pub readiness_grace_seconds: Option<u64>,
    /// After SIGTERM and the readiness grace, how long running requests may take to finish.
    #[schemars(range(min = 0, max = 3600))]
    pub drain_deadline_seconds: Option<u64>,
    /// The certificate and its key; giving them turns TLS on.
    pub tls: RawTls,
    /// What the serving process gives up before it reads a bundle.
    pub sandbox: RawSandbox,
    /// How the model is computed.
    pub inference: RawInference,
    /// What one site may ask of this process at a time.
    pub limits: RawLimits,
    /// What is written to standard error.
    pub log: RawLog,
}

/// TLS files.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTls {
    /// A PEM file: the server's certificate first, then the intermediate ones.
    pub certificate_file: Option<PathBuf>,
    /// A PEM file with the private key of that certificate (PKCS#8, SEC1 or PKCS#1).
    pub key_file: Option<PathBuf>,
}

/// The sandbox. As much of it as the host gives is put up in any case.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSandbox {
    /// Refuse to serve where a layer of the sandbox cannot be put up. Otherwise each that is missing is a warning.
    pub required: Option<bool>,
}

/// Computation.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawInference {
    /// Threads that compute. One for each core that the process may use when unset; answers do not depend on it.
    #[schemars(range(min = 1, max = 1024))]
    pub threads: Option<u64>,
}

/// Bounds on work and memory.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// The longest request body that is read, in bytes.
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub body_bytes: Option<u64>,
    /// Open connections; further ones wait to be accepted. One client address may have three quarters of them.
    #[schemars(range(min = 1, max = 65_536))]
    pub connections: Option<u64>,
    /// Requests that wait for a place. One more is answered 429 at once.
    #[schemars(range(min = 1, max = 65_536))]
    pub queued_requests: Option<u64>,
    /// Requests that are computed at the same time.
    #[schemars(range(min = 1, max = 1024))]
    pub running_requests: Option<u64>,
    /// Tokens that there is memory for: those of all running requests, and as many more as were computed before and may be
    /// asked for again.
    #[schemars(range(min = 16, max = 100_000_000))]
    pub token_budget: Option<u64>,
    /// The longest prompt and answer of one request, in tokens. The model's own length when unset.
    #[schemars(range(min = 2, max = 10_000_000))]
    pub context_tokens: Option<u64>,
    /// The most tokens of one answer. Whatever fits the context when unset.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub output_tokens: Option<u64>,
    /// Adapters that may be loaded beside the bundle at the same time.
    #[schemars(range(min = 0, max = 1024))]
    pub adapters: Option<u64>,
}

/// Logging. Prompts and answers are never logged, at any level.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// How much is written.
    pub level: Option<LogLevel>,
    /// One JSON object per line, or text for a person.
    pub format: Option<LogFormat>,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs, reason = "the variants are the words themselves")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// In which form it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs, reason = "the variants are the words themselves")]
pub enum LogFormat {
    Json,
    Text,
}

impl RawConfig {
    /// What holds when nobody says anything: loopback only, bounded, no trust.
    pub fn built_in() -> RawConfig {
        RawConfig {
            listen: Some("127.0.0.1:8080".to_owned()),
            allow_plain_http_beyond_loopback: Some(false),
            allow_metrics_beyond_loopback: Some(false),
            readiness_grace_seconds: Some(0),
            drain_deadline_seconds: Some(30),
            sandbox: RawSandbox { required: Some(false) },
            limits: RawLimits {
                body_bytes: Some(2 * 1024 * 1024),
                connections: Some(512),
                queued_requests: Some(64),
                running_requests: Some(8),
                token_budget: Some(65_536),
                context_tokens: None,
                output_tokens: None,
                adapters: Some(16),
            },
            log: RawLog { level: Some(LogLevel::Info), format: Some(LogFormat::Json) },
            ..RawConfig::default()
        }
    }
}
