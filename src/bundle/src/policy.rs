//! Decides whether a verified bundle may run here. Pure: no files, no clock, no logging.
//!
//! Everything that the decision depends on is handed in: what this runtime is and offers, what the host has, what time it
//! is, and which bundles were accepted before. Reading and writing that state is the caller's part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::load::AdmittedBundle;
use crate::names::{BundleName, BundleVersion, Channel, Counter, Epoch};
use crate::statement::{Accelerator, Endpoint, ExpiryPolicy, ReleaseStatement};
use crate::timestamp::Timestamp;
use crate::trust::{DowngradeToken, RevocationList, TrustRoot};
use crate::verified::{BundleIdentity, VerifiedBundle, Voucher, Vouchers};

/// What this runtime is and offers, and what the site allows.
#[derive(Debug, Clone)]
pub struct RuntimePolicy {
    /// The runtime's own version.
    pub runtime_version: semver::Version,
    /// The runtime's features, by name.
    pub features: BTreeSet<String>,
    /// The endpoints that the runtime can serve.
    pub endpoints: BTreeSet<Endpoint>,
    /// The channels that the site accepts; `None` accepts all.
    pub channels: Option<BTreeSet<Channel>>,
    /// The lowest version that the site accepts of each bundle.
    pub minimum_versions: BTreeMap<BundleName, BundleVersion>,
}

impl RuntimePolicy {
    /// The policy of a runtime of this version that accepts all channels and versions.
    #[must_use]
    pub fn new(runtime_version: semver::Version, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self {
            runtime_version,
            features: BTreeSet::new(),
            endpoints: endpoints.into_iter().collect(),
            channels: None,
            minimum_versions: BTreeMap::new(),
        }
    }
}

/// What the host has and what time it is.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// The effective time: never before any time seen earlier. Admission raises it to the statement's `issuedAt`.
    pub now: Timestamp,
    /// The CPU's features, by their Linux names.
    pub cpu_features: BTreeSet<String>,
    /// Memory in bytes that the process may use.
    pub memory_bytes: u64,
    /// Accelerators that the runtime can use.
    pub accelerators: BTreeSet<Accelerator>,
}

/// The highest counter accepted so far of each bundle in each key epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AcceptedVersions {
    counters: BTreeMap<(BundleName, Epoch), Counter>,
}

impl AcceptedVersions {
    /// Nothing was accepted yet.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Notes that this counter was accepted; a lower one than noted changes nothing.
    pub fn accept(&mut self, name: &BundleName, epoch: Epoch, counter: Counter) {
        let highest = self.counters.entry((name.clone(), epoch)).or_insert(counter);
        *highest = counter.max(*highest);
    }

    /// The highest epoch of `name` in which anything was accepted, with its highest counter.
    #[must_use]
    pub fn latest(&self, name: &BundleName) -> Option<(Epoch, Counter)> {
        self.counters
            .range((name.clone(), Epoch(0))..=(name.clone(), Epoch(u32::MAX)))
            .next_back()
            .map(|((_, epoch), counter)| (*epoch, *counter))
    }

    /// All that was accepted, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (&BundleName, Epoch, Counter)> {
        self.counters.iter().map(|((name, epoch), counter)| (name, *epoch, *counter))
    }
}

/// The rule that a bundle broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The layers must not be encrypted, as this runtime cannot decrypt.
    Encryption,
    /// The runtime's version must lie in the required range.
    RuntimeVersion,
    /// The runtime must have the required features.
    RuntimeFeatures,
    /// The CPU must have the required features.
    CpuFeatures,
    /// The host must have the required memory.
    Memory,
    /// The host must have the required accelerator.
    Accelerator,
    /// The runtime must be able to serve the required endpoints.
    Endpoints,
    /// The channel must be one that the site accepts.
    Channel,
    /// The version must not be below the site's minimum.
    MinimumVersion,
    /// The trust root must be as new as the bundle asks.
    TrustRootVersion,
    /// The trust root must not have expired.
    TrustRootExpiry,
    /// The certificates of enough signers must be valid.
    Certificates,
    /// The key epoch must be one that the trust root accepts.
    Epoch,
    /// The revocation list must be as new as the bundle asks.
    RevocationVersion,
    /// Epoch and counter must not be below the revocation list's minimum for the name.
    MinimumCounter,
    /// The runtime must not be older than the revocation list allows.
    MinimumRuntime,
    /// The time must not lie before `notBefore`.
    NotBefore,
    /// The bundle must not have expired.
    Expiry,
    /// Epoch and counter must not be below what was accepted before.
    Rollback,
}

impl Rule {
    /// The rule's name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::RuntimeVersion => "runtime version",
            Self::RuntimeFeatures => "runtime features",
            Self::CpuFeatures => "CPU features",
            Self::Memory => "memory",
            Self::Accelerator => "accelerator",
            Self::Endpoints => "endpoints",
            Self::Channel => "channel",
            Self::MinimumVersion => "minimum version",
            Self::TrustRootVersion => "trust root version",
            Self::TrustRootExpiry => "trust root expiry",
            Self::Certificates => "certificates",
            Self::Epoch => "key epoch",
            Self::RevocationVersion => "revocation list version",
            Self::MinimumCounter => "minimum counter",
            Self::MinimumRuntime => "minimum runtime version",
            Self::NotBefore => "not before",
            Self::Expiry => "expiry",
            Self::Rollback => "rollback",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Why a verified bundle may not run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not admitted by the rule on {rule}: found {found}, required {required}")]
pub struct PolicyViolation {
    /// The rule that it broke.
    pub rule: Rule,
    /// What was found.
    pub found: String,
    /// What is required.
    pub required: String,
}

/// Something that the operator must be told although the bundle is admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AdmissionNotice {
    /// The bundle has expired, and its vendor lets it be served with a warning.
    #[error("the bundle expired at {expired}; its vendor lets it be served with this warning")]
    Expired {
        /// When it expired.
        expired: Timestamp,
    },
    /// The bundle is older than one that was accepted, and its vendor permits that.
    #[error(
        "the bundle is older than one that was accepted before; a downgrade token of its vendor permits that until {expires}"
    )]
    Downgrade {
        /// Until when.
        expires: Timestamp,
    },
}

/// The two kinds of violation, by exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViolationClass {
    /// The bundle does not fit this runtime, host, site or time: exit code 12.
    NotAdmitted,
    /// The bundle is older than what was accepted before: exit code 13.
    State,
}

impl PolicyViolation {
    /// Which exit code this refusal has.
    #[must_use]
    pub fn class(&self) -> ViolationClass {
        match self.rule {
            Rule::Rollback => ViolationClass::State,
            _ => ViolationClass::NotAdmitted,
        }
    }
}

impl VerifiedBundle {
    /// Decides whether this bundle may run here: FORMAT.md step 17.
    ///
    /// # Errors
    /// [`PolicyViolation`] for the first rule that is broken.
    pub fn admit(
        self,
        policy: &RuntimePolicy,
        host: &HostFacts,
        accepted: &AcceptedVersions,
    ) -> Result<AdmittedBundle, PolicyViolation> {
        let release = &self.release;
        // A statement that exists was made, and a revocation list too: the clock of this host cannot be before them.
        let listed = self.root.revocations().map(RevocationList::issued);
        let now = host.now.max(release.issued_at).max(listed.unwrap_or(host.now));
        check_runtime(release, policy)?;
        check_host(release, host)?;
        check_site(release, policy)?;
        check_trust(release, &self.root, now)?;
        check_certificates(&self.vouchers, now)?;
        check_revocations(release, policy, &self.root)?;
        let mut notices = check_validity(release, now)?;
        notices.extend(check_rollback(&self.identity, accepted, self.root.downgrade(), now)?);
        Ok(AdmittedBundle::new(self, notices))
    }
}

fn check_runtime(release: &ReleaseStatement, policy: &RuntimePolicy) -> Result<(), PolicyViolation> {
    require(Rule::Encryption, release.encryption.is_none(), || {
        ("encrypted layers".to_owned(), "plain layers: this runtime cannot decrypt".to_owned())
    })?;
    let range = &release.requires.runtime;
    let runtime = &policy.runtime_version;
    // By precedence: semantic versioning gives build metadata no say in it.
    let below_end = range.below.as_ref().is_none_or(|below| runtime.cmp_precedence(below).is_lt());
    let inside = runtime.cmp_precedence(&range.min).is_ge() && below_end;
    require(Rule::RuntimeVersion, inside, || {
        let below = range.below.as_ref().map_or(String::new(), |below| format!(" and below {below}"));
        (runtime.to_string(), format!("at least {}{below}", range.min))
    })?;
    require_subset(Rule::RuntimeFeatures, &range.features, &policy.features, Clone::clone)?;
    require_subset(Rule::Endpoints, &release.requires.endpoints, &policy.endpoints, |endpoint| {
        endpoint.path().to_owned()
    })
}

fn check_host(release: &ReleaseStatement, host: &HostFacts) -> Result<(), PolicyViolation> {
    let requires = &release.requires;
    require_subset(Rule::CpuFeatures, &requires.cpu_features, &host.cpu_features, Clone::clone)?;
    let needed = requires.memory_bytes.unwrap_or(0);
    require(Rule::Memory, host.memory_bytes >= needed, || {
        (format!("{} bytes", host.memory_bytes), format!("{needed} bytes"))
    })?;
    let present = requires.accelerator.is_none_or(|accelerator| host.accelerators.contains(&accelerator));
    require(Rule::Accelerator, present, || ("none".to_owned(), "an NVIDIA GPU (cuda)".to_owned()))
}

fn check_site(release: &ReleaseStatement, policy: &RuntimePolicy) -> Result<(), PolicyViolation> {
    if let Some(channels) = &policy.channels {
        require(Rule::Channel, channels.contains(&release.channel), || {
            (release.channel.to_string(), list(channels.iter().map(ToString::to_string)))
        })?;
    }
    if let Some(minimum) = policy.minimum_versions.get(&release.name) {
        require(Rule::MinimumVersion, release.version.0.cmp_precedence(&minimum.0).is_ge(), || {
            (release.version.to_string(), format!("at least {minimum}"))
        })?;
    }
    Ok(())
}

fn check_trust(release: &ReleaseStatement, root: &TrustRoot, now: Timestamp) -> Result<(), PolicyViolation> {
    let (version, expires) = (root.version(), root.expires());
    require(Rule::TrustRootVersion, version >= release.trust_root_version, || {
        (version.to_string(), format!("at least {}", release.trust_root_version))
    })?;
    require(Rule::TrustRootExpiry, now < expires, || {
        (format!("it is {now}"), format!("before {expires}, when the trust root expires"))
    })?;
    let accepts = &root.document().signed;
    if let Some(minimum) = accepts.minimum_epoch {
        require(Rule::Epoch, release.epoch >= minimum, || {
            (release.epoch.to_string(), format!("at least {minimum}, as the trust root of version {version} says"))
        })?;
    }
    if let Some(maximum) = accepts.maximum_epoch {
        require(Rule::Epoch, release.epoch <= maximum, || {
            let later = "a later root raises that, and `ampoule trust update` takes it";
            (
                release.epoch.to_string(),
                format!("at most {maximum}, as the trust root of version {version} says: {later}"),
            )
        })?;
    }
    Ok(())
}

/// Whoever signed by the word of an authority counts while the certificates are valid.
fn check_certificates(vouchers: &Vouchers, now: Timestamp) -> Result<(), PolicyViolation> {
    let (threshold, statements) = (vouchers.threshold, [&vouchers.release_signers, &vouchers.model_signers]);
    for (signers, needed) in statements.into_iter().zip([threshold, 1]) {
        let holds = |voucher: &&Voucher| voucher.validity.is_none_or(|validity| validity.contains(now));
        let found = signers.iter().filter(holds).count();
        require(Rule::Certificates, found >= needed, || {
            let validities = signers.iter().filter_map(|voucher| voucher.validity);
            let times = validities.map(|validity| format!("{} to {}", validity.not_before, validity.not_after));
            (
                format!("it is {now}, and {found} of the signers count"),
                format!("{needed} that count; their certificates are valid from {}", list(times)),
            )
        })?;
    }
    Ok(())
}

fn check_revocations(
    release: &ReleaseStatement,
    policy: &RuntimePolicy,
    root: &TrustRoot,
) -> Result<(), PolicyViolation> {
    let Some(list) = root.revocations() else {
        return require(Rule::RevocationVersion, release.revocation_min == 0, || {
            let required = format!("at least version {}: name the file in `revocations`", release.revocation_min);
            ("no revocation list".to_owned(), required)
        });
    };
    let version = list.version();
    require(Rule::RevocationVersion, version >= release.revocation_min, || {
        (version.to_string(), format!("at least {}", release.revocation_min))
    })?;
    if let Some(minimum) = list.minimum_counter(&release.name) {
        require(Rule::MinimumCounter, (release.epoch, release.counter) >= (minimum.epoch, minimum.counter), || {
            let (epoch, counter) = (minimum.epoch, minimum.counter);
            (
                format!("counter {} in epoch {}", release.counter, release.epoch),
                format!(
                    "at least counter {counter} in epoch {epoch}, as the revocation list of version {version} says"
                ),
            )
        })?;
    }
    match list.minimum_runtime() {
        None => Ok(()),
        Some(minimum) => {
            let newer = policy.runtime_version.cmp_precedence(&minimum.0).is_ge();
            require(Rule::MinimumRuntime, newer, || {
                let required = format!("at least {minimum}, as the revocation list of version {version} says");
                (policy.runtime_version.to_string(), required)
            })
        }
    }
}

fn check_validity(release: &ReleaseStatement, now: Timestamp) -> Result<Vec<AdmissionNotice>, PolicyViolation> {
    if let Some(not_before) = release.not_before {
        require(Rule::NotBefore, now >= not_before, || (format!("it is {now}"), format!("not before {not_before}")))?;
    }
    let Some(expires) = release.expires.filter(|expires| now >= *expires) else { return Ok(Vec::new()) };
    match release.expiry_policy {
        ExpiryPolicy::Warn => Ok(vec![AdmissionNotice::Expired { expired: expires }]),
        // Both refuse a start; they differ in what a running service does, which is not decided here.
        ExpiryPolicy::RefuseLoad | ExpiryPolicy::ServeUntilRestart => Err(PolicyViolation {
            rule: Rule::Expiry,
            found: format!("it is {now}"),
            required: format!("before {expires}, when the bundle expires"),
        }),
    }
}

fn check_rollback(
    identity: &BundleIdentity,
    accepted: &AcceptedVersions,
    downgrade: Option<&DowngradeToken>,
    now: Timestamp,
) -> Result<Option<AdmissionNotice>, PolicyViolation> {
    let Some((epoch, counter)) = accepted.latest(&identity.name) else { return Ok(None) };
    if (identity.epoch, identity.counter) >= (epoch, counter) {
        return Ok(None);
    }
    let unusable = match downgrade {
        None => "",
        Some(token) if !token.names(identity) => "; the downgrade token is for another bundle",
        Some(token) if now >= token.expires() => "; the downgrade token has expired",
        Some(token) => return Ok(Some(AdmissionNotice::Downgrade { expires: token.expires() })),
    };
    Err(PolicyViolation {
        rule: Rule::Rollback,
        found: format!("counter {} in epoch {}{unusable}", identity.counter, identity.epoch),
        required: format!("at least counter {counter} in epoch {epoch}, which was accepted before"),
    })
}

/// Refuses unless `holds`; `describe` gives what was found and what is required.
fn require(rule: Rule, holds: bool, describe: impl FnOnce() -> (String, String)) -> Result<(), PolicyViolation> {
    if holds {
        return Ok(());
    }
    let (found, required) = describe();
    Err(PolicyViolation { rule, found, required })
}

fn require_subset<T: Ord>(
    rule: Rule,
    wanted: &BTreeSet<T>,
    offered: &BTreeSet<T>,
    name: impl Fn(&T) -> String,
) -> Result<(), PolicyViolation> {
    require(rule, wanted.is_subset(offered), || {
        let missing = list(wanted.difference(offered).map(&name));
        (format!("{missing} missing"), list(wanted.iter().map(&name)))
    })
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
