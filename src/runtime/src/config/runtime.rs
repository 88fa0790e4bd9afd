//! The configuration as it is used: paths resolved, addresses parsed, and the combinations that must not exist made
//! impossible to express.  Built from the effective values in one step that reports every mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ampoule_bundle::{BundleName, BundleVersion, Channel, Digest};

use super::effective::{Effective, Origin};
use super::error::{ConfigError, ConfigErrors};
use super::raw::{LogFormat, LogLevel, RawConfig};
use crate::trust::Supplements;

/// What `serve` needs, checked.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Where the sealed bundle comes from.
    pub source: BundleSource,
    /// What bundles are held against.
    pub admission: AdmissionConfig,
    /// Adapters beside the bundle.
    pub adapters: Vec<PathBuf>,
    /// The API keys.
    pub keys_file: PathBuf,
    /// The name that clients use, if not the bundle's own.
    pub model_name: Option<String>,
    /// Where and how to serve.
    pub listen: ListenPlan,
    /// Where to serve metrics.
    pub metrics: Option<MetricsPlan>,
    /// Where to serve administration.
    pub admin_socket: Option<PathBuf>,
    /// What SIGTERM begins.
    pub shutdown: Shutdown,
    /// Whether a missing layer of the sandbox is a reason not to serve.
    pub sandbox_required: bool,
    /// Bounds on work and memory.
    pub limits: Limits,
    /// How much is logged.
    pub log_level: LogLevel,
    /// In which form.
    pub log_format: LogFormat,
    /// The digest of the effective values.
    pub digest: Digest,
}

/// Where the sealed bundle comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleSource {
    /// One file.
    File(PathBuf),
    /// The active bundle of a store.
    Store(PathBuf),
}

/// What bundles are held against, which is less than what it takes to serve one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// The trust root.
    pub trust_root: PathBuf,
    /// What stands beside it.
    pub supplements: Supplements,
    /// The identity that opens what is encrypted.
    pub decryption_identity: Option<PathBuf>,
    /// The bundle that is served, if not a store's.
    pub bundle: Option<PathBuf>,
    /// The store that keeps what was taken into use.
    pub store: Option<PathBuf>,
    /// Where that is kept, if not in a store.
    pub state: Option<PathBuf>,
    /// Which bundles the site accepts.
    pub accepted: AcceptedBundles,
}

impl AdmissionConfig {
    /// Requires of the effective values what it takes to judge a bundle, without opening any file.
    ///
    /// # Errors
    /// Every option that is missing or contradicts another.
    pub fn require(effective: &Effective) -> Result<AdmissionConfig, ConfigErrors> {
        let mut errors = Vec::new();
        match (AdmissionConfig::of(effective, &mut errors), errors.is_empty()) {
            (Some(config), true) => Ok(config),
            _ => Err(ConfigErrors(errors)),
        }
    }

    fn of(effective: &Effective, errors: &mut Vec<ConfigError>) -> Option<AdmissionConfig> {
        let raw = &effective.raw;
        let remedy =
            "name the root.json that your vendor gave you, as in `--trust-root root.json`; there is no default trust";
        let trust_root = required(effective, "trust_root", &raw.trust_root, remedy, errors);
        let identity = raw.decryption_identity_file.as_deref();
        let decryption_identity = identity.map(|path| effective.resolve("decryption_identity_file", path));
        let bundle = raw.bundle.as_deref().map(|path| effective.resolve("bundle", path));
        let store = raw.store.as_deref().map(|folder| effective.resolve("store", folder));
        let (state, accepted) = (state(effective, errors), accepted_bundles(effective, errors));
        Some(AdmissionConfig {
            trust_root: trust_root?,
            supplements: supplements(effective),
            decryption_identity,
            bundle,
            store,
            state,
            accepted,
        })
    }
}

/// Which bundles the site accepts, beyond what the trust root and the bundles themselves say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcceptedBundles {
    /// The channels; `None` accepts all.
    pub channels: Option<BTreeSet<Channel>>,
    /// The lowest version of each bundle.
    pub minimum_versions: BTreeMap<BundleName, BundleVersion>,
    /// Where the site says so, by the key of the option.
    pub origins: BTreeMap<&'static str, String>,
}

/// The phases of an orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// How long requests are still served while readiness says no.
    pub readiness_grace: Duration,
    /// How long running requests may take to finish after that.
    pub drain_deadline: Duration,
}

/// Where and how to serve.  Plain HTTP that other hosts can reach exists only under its own name, which nothing but the
/// named opt-out produces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenPlan {
    /// Plain HTTP that only this host can reach.
    LoopbackPlain(SocketAddr),
    /// Plain HTTP that other hosts can reach, because `allow_plain_http_beyond_loopback` says so.
    NamedPlain(SocketAddr),
    /// HTTPS.
    Tls(SocketAddr, TlsFiles),
}

/// The two PEM files of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Where to serve metrics; beyond loopback only by its named opt-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsPlan {
    /// The address, checked against the opt-out.
    pub address: SocketAddr,
}

/// Bounds on work and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest request body, in bytes.
    pub body_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Threads that compute; one for each core when absent.
    pub threads: Option<NonZero<usize>>,
    /// Requests that wait.
    pub queued_requests: usize,
    /// Requests that are computed at the same time.
    pub running_requests: usize,
    /// Tokens that running requests may hold together.
    pub token_budget: usize,
    /// The longest prompt and answer, in tokens; the model's own length when absent.
    pub context_tokens: Option<usize>,
    /// The most tokens of one answer; whatever fits when absent.
    pub output_tokens: Option<usize>,
    /// Adapters beside the bundle.
    pub adapters: usize,
}

impl RuntimeConfig {
    /// Requires of the effective values what `serve` needs, without opening any file.
    ///
    /// # Errors
    /// Every option that is missing or contradicts another.
    pub fn require(effective: &Effective) -> Result<RuntimeConfig, ConfigErrors> {
        let raw = &effective.raw;
        let mut errors = Vec::new();
        let source = bundle_source(effective, &mut errors);
        let admission = AdmissionConfig::of(effective, &mut errors);
        let keys_file = required(
            effective,
            "keys_file",
            &raw.keys_file,
            "every request needs an API key; make one with `ampoule keys add NAME --keys-file keys.jsonl` and name that file",
            &mut errors,
        );
        let listen = listen_plan(effective, &mut errors);
        let metrics = metrics_plan(effective, &mut errors);
        match (source, admission, keys_file, listen, errors.is_empty()) {
            (Some(source), Some(admission), Some(keys_file), Some(listen), true) => Ok(RuntimeConfig {
                source,
                admission,
                adapters: paths(effective, "adapters", raw.adapters.as_deref()),
                keys_file,
                listen,
                metrics,
                admin_socket: raw.admin_socket.as_deref().map(|path| effective.resolve("admin_socket", path)),
                model_name: raw.model_name.clone(),
                shutdown: RuntimeConfig::shutdown(effective),
                sandbox_required: raw.sandbox.required.unwrap_or(false),
                limits: RuntimeConfig::limits(effective),
                log_level: raw.log.level.unwrap_or(LogLevel::Info),
                log_format: raw.log.format.unwrap_or(LogFormat::Json),
                digest: effective.digest(),
            }),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// The bounds alone, for whoever has no configuration of its own.
    pub fn limits(effective: &Effective) -> Limits {
        let (given, built_in) = (&effective.raw.limits, RawConfig::built_in().limits);
        let value = |given: Option<u64>, built_in: Option<u64>| to_usize(given.or(built_in).unwrap_or(1));
        Limits {
            body_bytes: value(given.body_bytes, built_in.body_bytes),
            connections: value(given.connections, built_in.connections),
            threads: effective.raw.inference.threads.map(to_usize).and_then(NonZero::new),
            queued_requests: value(given.queued_requests, built_in.queued_requests),
            running_requests: value(given.running_requests, built_in.running_requests),
            token_budget: value(given.token_budget, built_in.token_budget),
            context_tokens: given.context_tokens.map(to_usize),
            output_tokens: given.output_tokens.map(to_usize),
            adapters: value(given.adapters, built_in.adapters),
        }
    }

    /// The phases of an orderly end alone.
    pub fn shutdown(effective: &Effective) -> Shutdown {
        Shutdown {
            readiness_grace: Duration::from_secs(effective.raw.readiness_grace_seconds.unwrap_or(0)),
            drain_deadline: Duration::from_secs(effective.raw.drain_deadline_seconds.unwrap_or(0)),
        }
    }
}

impl ListenPlan {
    /// Where and how these values serve, without requiring anything else of them.
    ///
    /// # Errors
    /// What is wrong with the address or the TLS files' options.
    pub fn of(effective: &Effective) -> Result<ListenPlan, ConfigErrors> {
        let mut errors = Vec::new();
        listen_plan(effective, &mut errors).ok_or(ConfigErrors(errors))
    }

    /// How these values serve on a socket that was inherited, in place of their own address and under the same rules.
    ///
    /// # Errors
    /// Plain HTTP beyond loopback without its opt-out, and what is wrong with the TLS files' options.
    pub fn inherited(effective: &Effective, address: SocketAddr) -> Result<ListenPlan, ConfigErrors> {
        let mut errors = Vec::new();
        let from = Place::Inherited(address);
        listen_plan_at(effective, Some(from), &mut errors).ok_or(ConfigErrors(errors))
    }
}

impl MetricsPlan {
    /// How metrics are served on a socket that was inherited.
    ///
    /// # Errors
    /// That others can reach it, without the opt-out.
    pub fn inherited(effective: &Effective, address: SocketAddr) -> Result<MetricsPlan, ConfigErrors> {
        let mut errors = Vec::new();
        metrics_plan_at(effective, Place::Inherited(address), &mut errors).ok_or(ConfigErrors(errors))
    }
}

/// An address, and who says so.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// The option of this key.
    Configured(SocketAddr, &'static str),
    /// The socket that this process was started with.
    Inherited(SocketAddr),
}

impl Place {
    fn address(self) -> SocketAddr {
        match self {
            Place::Configured(address, _) | Place::Inherited(address) => address,
        }
    }

    fn is_loopback(self) -> bool {
        self.address().ip().to_canonical().is_loopback()
    }

    fn origin(self, effective: &Effective) -> Origin {
        match self {
            Place::Configured(_, key) => effective.origin(key),
            Place::Inherited(_) => Origin::Inherited,
        }
    }
}

fn bundle_source(effective: &Effective, errors: &mut Vec<ConfigError>) -> Option<BundleSource> {
    let raw = &effective.raw;
    match (&raw.bundle, &raw.store) {
        (Some(_), Some(_)) => {
            let (bundle, store) = (effective.origin("bundle"), effective.origin("store"));
            errors.push(ConfigError::BundleAndStore { bundle, store });
            None
        }
        (None, Some(store)) => Some(BundleSource::Store(effective.resolve("store", store))),
        (bundle, None) => {
            let remedy = "name the sealed bundle to serve, as in `--bundle model.bundle`, or the store that holds it, as in \
                          `--store /var/lib/ampoule`";
            required(effective, "bundle", bundle, remedy, errors).map(BundleSource::File)
        }
    }
}

fn state(effective: &Effective, errors: &mut Vec<ConfigError>) -> Option<PathBuf> {
    let folder = effective.raw.state.as_deref()?;
    if effective.raw.store.is_some() {
        let (state, store) = (effective.origin("state"), effective.origin("store"));
        errors.push(ConfigError::StateAndStore { state, store });
    }
    Some(effective.resolve("state", folder))
}

fn accepted_bundles(effective: &Effective, errors: &mut Vec<ConfigError>) -> AcceptedBundles {
    let raw = &effective.raw;
    let mut wrong = |key, found: &str, expected| {
        errors.push(ConfigError::WrongEntry { key, found: found.to_owned(), expected, origin: effective.origin(key) });
    };
    let channels = raw.channels.as_deref().map(|list| {
        let parsed = entries(list).map(|entry| (entry, entry.parse().ok()));
        let name = "the name of a channel, as in stable";
        parsed
            .filter_map(|(entry, channel)| {
                channel.or_else(|| {
                    wrong("channels", entry, name);
                    None
                })
            })
            .collect()
    });
    let minimum = |entry: &str| {
        let (name, version) = entry.split_once('@')?;
        Some((name.parse().ok()?, version.parse().ok()?))
    };
    let minimum_versions = entries(raw.minimum_versions.as_deref().unwrap_or_default())
        .filter_map(|entry| {
            minimum(entry).or_else(|| {
                wrong("minimum_versions", entry, "a name and a version, as in my-model@1.2.0");
                None
            })
        })
        .collect();
    let origins = ["channels", "minimum_versions"].map(|key| (key, effective.origin(key).to_string())).into();
    AcceptedBundles { channels, minimum_versions, origins }
}

/// The entries of a list that is written with commas.
fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn supplements(effective: &Effective) -> Supplements {
    let file = |key, path: &Option<PathBuf>| path.as_deref().map(|path| effective.resolve(key, path));
    Supplements {
        revocations: file("revocations", &effective.raw.revocations),
        downgrade_token: file("downgrade_token", &effective.raw.downgrade_token),
    }
}

fn required(
    effective: &Effective,
    key: &'static str,
    path: &Option<PathBuf>,
    remedy: &'static str,
    errors: &mut Vec<ConfigError>,
) -> Option<PathBuf> {
    if path.is_none() {
        errors.push(ConfigError::Missing { key, remedy });
    }
    path.as_deref().map(|path| effective.resolve(key, path))
}

fn paths(effective: &Effective, key: &str, list: Option<&str>) -> Vec<PathBuf> {
    entries(list.unwrap_or_default()).map(|entry| effective.resolve(key, Path::new(entry))).collect()
}

fn listen_plan(effective: &Effective, errors: &mut Vec<ConfigError>) -> Option<ListenPlan> {
    let address = address(effective, "listen", effective.raw.listen.as_deref()?, errors);
    listen_plan_at(effective, address.map(|address| Place::Configured(address, "listen")), errors)
}

/// Without a place only the mistakes are told.
fn listen_plan_at(effective: &Effective, place: Option<Place>, errors: &mut Vec<ConfigError>) -> Option<ListenPlan> {
    let raw = &effective.raw;
    let file = |key, path: &Path| effective.resolve(key, path);
    match (raw.tls.certificate_file.as_deref(), raw.tls.key_file.as_deref()) {
        (Some(certificate), Some(key)) => {
            let certificate = file("tls.certificate_file", certificate);
            Some(ListenPlan::Tls(place?.address(), TlsFiles { certificate, key: file("tls.key_file", key) }))
        }
        (Some(_), None) => half_of_tls(effective, "tls.certificate_file", "tls.key_file", errors),
        (None, Some(_)) => half_of_tls(effective, "tls.key_file", "tls.certificate_file", errors),
        (None, None) => {
            let (place, address) = (place?, place?.address());
            if place.is_loopback() {
                return Some(ListenPlan::LoopbackPlain(address));
            }
            if raw.allow_plain_http_beyond_loopback == Some(true) {
                return Some(ListenPlan::NamedPlain(address));
            }
            let (found, origin) = (address.to_string(), place.origin(effective));
            errors.push(ConfigError::PlainHttpBeyondLoopback { found, origin });
            None
        }
    }
}

fn half_of_tls(
    effective: &Effective,
    present: &'static str,
    absent: &'static str,
    errors: &mut Vec<ConfigError>,
) -> Option<ListenPlan> {
    errors.push(ConfigError::HalfOfTls { present, absent, origin: effective.origin(present) });
    None
}

fn metrics_plan(effective: &Effective, errors: &mut Vec<ConfigError>) -> Option<MetricsPlan> {
    let address = address(effective, "metrics_listen", effective.raw.metrics_listen.as_deref()?, errors)?;
    metrics_plan_at(effective, Place::Configured(address, "metrics_listen"), errors)
}

fn metrics_plan_at(effective: &Effective, place: Place, errors: &mut Vec<ConfigError>) -> Option<MetricsPlan> {
    let address = place.address();
    if place.is_loopback() || effective.raw.allow_metrics_beyond_loopback == Some(true) {
        return Some(MetricsPlan { address });
    }
    let (found, origin) = (address.to_string(), place.origin(effective));
    errors.push(ConfigError::MetricsBeyondLoopback { found, origin });
    None
}

fn address(effective: &Effective, key: &'static str, text: &str, errors: &mut Vec<ConfigError>) -> Option<SocketAddr> {
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let (found, origin) = (text.to_owned(), effective.origin(key));
        errors.push(ConfigError::NotAnAddress { key, found, origin });
    }
    parsed
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("every number of the configuration has a bound far below the address space")
}
