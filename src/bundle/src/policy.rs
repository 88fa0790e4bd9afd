//! Decides whether a verified bundle may run here. Pure: no files, no clock, no logging.
//!
//! Everything that the decision depends on is handed in: what this runtime is and offers, what the host has, what time it
//! is, and which bundles were accepted before. Reading and writing that state is the caller's part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::digest::printable;
use crate::load::AdmittedBundle;
use crate::names::{BundleName, BundleVersion, Channel, Counter, Epoch};
use crate::statement::{Accelerator, Encryption, Endpoint, ExpiryPolicy, ReleaseStatement};
use crate::timestamp::Timestamp;
use crate::unlock::Decryption;
use crate::verified::{BundleIdentity, VerifiedBundle};

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
    /// The version of the revocation list that is present; 0 when there is none.
    pub revocation_version: u64,
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
            revocation_version: 0,
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
    /// The layers must be plain, or open with an identity that is there.
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
    /// The revocation list must be as new as the bundle asks.
    RevocationVersion,
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
            Self::RevocationVersion => "revocation list version",
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
        // A statement that exists was made: the clock of this host cannot be before it.
        let now = host.now.max(release.issued_at);
        check_encryption(release, &self.decryption)?;
        check_runtime(release, policy)?;
        check_host(release, host)?;
        check_site(release, policy)?;
        check_trust(release, policy, self.root_version, self.root_expires, now)?;
        let notices = check_validity(release, now)?;
        check_rollback(&self.identity, accepted)?;
        Ok(AdmittedBundle::new(self, notices))
    }
}

fn check_encryption(release: &ReleaseStatement, decryption: &Decryption) -> Result<(), PolicyViolation> {
    let Some(encryption) = &release.encryption else { return Ok(()) };
    require(Rule::Encryption, encryption.scheme == Encryption::AGE, || {
        let scheme = printable(&encryption.scheme);
        (format!("the scheme `{scheme}`"), format!("{}, which this runtime knows", Encryption::AGE))
    })?;
    let Decryption::Failed { tried: identities } = decryption else { return Ok(()) };
    let recipients = || list(encryption.recipients.iter().map(|recipient| printable(recipient)));
    require(Rule::Encryption, !identities.is_empty(), || {
        let remedy = "name the file of one with decryption_identity_file, or pass it as the systemd credential \
                      `decryption-identity`";
        ("encrypted layers and no identity".to_owned(), format!("an identity of one of [{}]; {remedy}", recipients()))
    })?;
    let remedy = "have the vendor rewrap the bundle for you (`ampoule-seal rewrap`)";
    Err(PolicyViolation {
        rule: Rule::Encryption,
        found: format!("the identity of {}", list(identities.iter().map(ToString::to_string))),
        required: format!("one of [{}]; {remedy}", recipients()),
    })
}

fn check_runtime(release: &ReleaseStatement, policy: &RuntimePolicy) -> Result<(), PolicyViolation> {
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

fn check_trust(
    release: &ReleaseStatement,
    policy: &RuntimePolicy,
    root_version: u64,
    root_expires: Timestamp,
    now: Timestamp,
) -> Result<(), PolicyViolation> {
    require(Rule::TrustRootVersion, root_version >= release.trust_root_version, || {
        (root_version.to_string(), format!("at least {}", release.trust_root_version))
    })?;
    require(Rule::TrustRootExpiry, now < root_expires, || {
        (format!("it is {now}"), format!("before {root_expires}, when the trust root expires"))
    })?;
    require(Rule::RevocationVersion, policy.revocation_version >= release.revocation_min, || {
        (policy.revocation_version.to_string(), format!("at least {}", release.revocation_min))
    })
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

fn check_rollback(identity: &BundleIdentity, accepted: &AcceptedVersions) -> Result<(), PolicyViolation> {
    let Some((epoch, counter)) = accepted.latest(&identity.name) else { return Ok(()) };
    require(Rule::Rollback, (identity.epoch, identity.counter) >= (epoch, counter), || {
        (
            format!("counter {} in epoch {}", identity.counter, identity.epoch),
            format!("at least counter {counter} in epoch {epoch}, which was accepted before"),
        )
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
