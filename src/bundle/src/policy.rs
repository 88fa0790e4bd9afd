//! Decides whether a verified bundle may run here. Pure: no files, no clock, no logging.
//!
//! Everything that the decision depends on is handed in: what this runtime is and offers, what the host has, what its
//! clock says, and the high-water marks of what was taken into use before. Reading and writing those is the caller's
//! part. Every rule is looked at, so that a report can tell them all; the first that is broken refuses.

mod footprint;
mod marks;
mod report;
mod rule;

use std::collections::{BTreeMap, BTreeSet};

pub use footprint::{Bytes, Footprint, MemoryPart};
pub use marks::HighWaterMarks;
pub use report::{AdmissionNotice, Examination, Fact, Finding, Origin, PolicyViolation, Verdict};
pub use rule::{Rule, ViolationClass};

use crate::digest::{Digest, printable};
use crate::load::AdmittedBundle;
use crate::names::{BundleName, BundleVersion, Channel};
use crate::statement::{Accelerator, AdapterBinding, Encryption, Endpoint, ExpiryPolicy};
use crate::timestamp::Timestamp;
use crate::trust::RevocationList;
use crate::unlock::Decryption;
use crate::verified::{VerifiedBundle, Voucher};

/// What this runtime is and offers, and what the site allows.
#[derive(Debug, Clone)]
pub struct RuntimePolicy {
    /// The runtime's own version.
    pub runtime_version: semver::Version,
    /// When the runtime was made: a clock that says less is wrong. `None` believes every clock.
    pub made: Option<Timestamp>,
    /// The runtime's features, by name.
    pub features: BTreeSet<String>,
    /// The endpoints that the runtime can serve.
    pub endpoints: BTreeSet<Endpoint>,
    /// The channels that the site accepts; `None` accepts all.
    pub channels: Option<BTreeSet<Channel>>,
    /// The lowest version that the site accepts of each bundle.
    pub minimum_versions: BTreeMap<BundleName, BundleVersion>,
    /// Which file, variable or flag says so, by the key of the setting.
    pub settings: BTreeMap<&'static str, String>,
    /// What the model takes under the site's settings, where that is foreseen.
    pub footprint: Option<Footprint>,
    /// What an adapter must be bound to, where it is known what it is to be served beside.
    pub base: Option<AdapterBinding>,
}

impl RuntimePolicy {
    /// The policy of a runtime of this version that accepts all channels and versions.
    #[must_use]
    pub fn new(runtime_version: semver::Version, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self {
            runtime_version,
            made: None,
            features: BTreeSet::new(),
            endpoints: endpoints.into_iter().collect(),
            channels: None,
            minimum_versions: BTreeMap::new(),
            settings: BTreeMap::new(),
            footprint: None,
            base: None,
        }
    }

    fn setting(&self, key: &'static str) -> Origin {
        let from = self.settings.get(key).map_or("not set", String::as_str).to_owned();
        Origin::Setting { key, from }
    }
}

/// What the host has and what time it says it is.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// The host's clock. Admission raises it to the high-water mark and to the statement's `issuedAt`.
    pub now: Timestamp,
    /// The CPU's features, by their Linux names.
    pub cpu_features: BTreeSet<String>,
    /// Memory in bytes that the process may use.
    pub memory_bytes: u64,
    /// Accelerators that the runtime can use.
    pub accelerators: BTreeSet<Accelerator>,
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
        marks: &HighWaterMarks,
    ) -> Result<AdmittedBundle, PolicyViolation> {
        let examination = self.examine(policy, host, marks);
        if let Some(violation) = examination.violation() {
            return Err(violation);
        }
        let mut seen = HighWaterMarks::none();
        seen.accept(&self.identity.name, self.identity.epoch, self.identity.counter);
        seen.see_trust_root(self.root.version());
        seen.see_revocation_list(self.root.revocations().map_or(0, RevocationList::version));
        seen.see_time(effective_time(&self, host, marks));
        Ok(AdmittedBundle::new(self, examination.notices, seen))
    }

    /// Holds this bundle against every rule, whether or not one before it is broken.
    #[must_use]
    pub fn examine(&self, policy: &RuntimePolicy, host: &HostFacts, marks: &HighWaterMarks) -> Examination {
        let now = effective_time(self, host, marks);
        let examiner = Examiner { bundle: self, policy, host, marks, now, findings: Vec::new() };
        examiner.examine()
    }
}

/// How far the clocks of a vendor and a site may differ.
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// The time by which a bundle is judged. What has been seen and what is signed cannot lie in the future.
fn effective_time(bundle: &VerifiedBundle, host: &HostFacts, marks: &HighWaterMarks) -> Timestamp {
    let seen = marks.time().unwrap_or(host.now);
    let listed = bundle.root.revocations().map_or(host.now, RevocationList::issued);
    host.now.max(seen).max(listed).max(bundle.release.issued_at)
}

/// One bundle, and what it is held against.
struct Examiner<'a> {
    bundle: &'a VerifiedBundle,
    policy: &'a RuntimePolicy,
    host: &'a HostFacts,
    marks: &'a HighWaterMarks,
    now: Timestamp,
    findings: Vec<Finding>,
}

impl Examiner<'_> {
    fn examine(mut self) -> Examination {
        self.check_encryption();
        self.check_runtime();
        self.check_host();
        self.check_adapter();
        self.check_site();
        self.check_dates();
        self.check_trust();
        self.check_revocations();
        let mut notices = self.check_validity();
        notices.extend(self.check_rollback());
        Examination { findings: self.findings, notices }
    }

    fn check_encryption(&mut self) {
        let Some(encryption) = &self.bundle.release.encryption else {
            let plain = || fact("plain layers", self.release());
            return self.hold(Rule::Encryption, true, plain(), fact("nothing", Origin::Runtime));
        };
        let scheme = printable(&encryption.scheme);
        let required = fact(format!("{}, which this runtime knows", Encryption::AGE), Origin::Runtime);
        let is_known = encryption.scheme == Encryption::AGE;
        self.hold(Rule::Encryption, is_known, fact(format!("the scheme `{scheme}`"), self.release()), required);
        let Decryption::Failed { tried } = &self.bundle.decryption else { return };
        let recipients = list(encryption.recipients.iter().map(|recipient| printable(recipient)));
        let found = match &tried[..] {
            [] => fact("no identity", self.policy.setting("decryption_identity_file")),
            tried => {
                let tried = list(tried.iter().map(ToString::to_string));
                fact(format!("the identity of {tried}"), self.policy.setting("decryption_identity_file"))
            }
        };
        self.hold(Rule::Encryption, false, found, fact(format!("one of [{recipients}]"), self.release()));
    }

    fn check_runtime(&mut self) {
        let (release, policy) = (&self.bundle.release, self.policy);
        let range = &release.requires.runtime;
        let runtime = &policy.runtime_version;
        // By precedence: semantic versioning gives build metadata no say in it.
        let below_end = range.below.as_ref().is_none_or(|below| runtime.cmp_precedence(below).is_lt());
        let inside = runtime.cmp_precedence(&range.min).is_ge() && below_end;
        let below = range.below.as_ref().map_or(String::new(), |below| format!(" and below {below}"));
        let required = fact(format!("at least {}{below}", range.min), self.release());
        self.hold(Rule::RuntimeVersion, inside, fact(runtime.to_string(), Origin::Runtime), required);

        self.hold_subset(Rule::RuntimeFeatures, &range.features, &policy.features, Origin::Runtime, Clone::clone);
        let endpoints = &release.requires.endpoints;
        self.hold_subset(Rule::Endpoints, endpoints, &policy.endpoints, Origin::Runtime, |endpoint| {
            endpoint.path().to_owned()
        });
    }

    fn check_host(&mut self) {
        let (requires, host) = (&self.bundle.release.requires, self.host);
        let features = &requires.cpu_features;
        self.hold_subset(Rule::CpuFeatures, features, &host.cpu_features, Origin::Host, Clone::clone);

        let memory = || fact(Bytes(host.memory_bytes).to_string(), Origin::Host);
        let needed = requires.memory_bytes.unwrap_or(0);
        let required = fact(Bytes(needed).to_string(), self.release());
        self.hold(Rule::Memory, host.memory_bytes >= needed, memory(), required);
        if let Some(footprint) = &self.policy.footprint {
            let required = fact(footprint.to_string(), Origin::Shapes);
            self.hold(Rule::MemoryFit, host.memory_bytes >= footprint.bytes(), memory(), required);
        }

        let name = |accelerator: Accelerator| match accelerator {
            Accelerator::Cuda => "an NVIDIA GPU (cuda)".to_owned(),
        };
        let present = requires.accelerator.is_none_or(|accelerator| host.accelerators.contains(&accelerator));
        let found = fact(list(host.accelerators.iter().copied().map(name)), Origin::Host);
        let required = fact(requires.accelerator.map_or("none".to_owned(), name), self.release());
        self.hold(Rule::Accelerator, present, found, required);
    }

    fn check_adapter(&mut self) {
        let (Some(bound), Some(base)) = (&self.bundle.release.adapter, &self.policy.base) else { return };
        let word = |digest: Option<Digest>| digest.map_or("none".to_owned(), |digest| digest.to_string());
        for (rule, bound, base) in [
            (Rule::Base, Some(bound.base), Some(base.base)),
            (Rule::Tokenizer, Some(bound.tokenizer), Some(base.tokenizer)),
            (Rule::ChatTemplate, bound.chat_template, base.chat_template),
        ] {
            let required = fact(word(bound), self.release());
            self.hold(rule, bound == base, fact(word(base), Origin::Base), required);
        }
    }

    fn check_site(&mut self) {
        let (release, policy) = (&self.bundle.release, self.policy);
        if let Some(channels) = &policy.channels {
            let required = fact(list(channels.iter().map(ToString::to_string)), policy.setting("channels"));
            let found = fact(release.channel.to_string(), self.release());
            self.hold(Rule::Channel, channels.contains(&release.channel), found, required);
        }
        if let Some(minimum) = policy.minimum_versions.get(&release.name) {
            let required = fact(format!("at least {minimum}"), policy.setting("minimum_versions"));
            let holds = release.version.0.cmp_precedence(&minimum.0).is_ge();
            self.hold(Rule::MinimumVersion, holds, fact(release.version.to_string(), self.release()), required);
        }
    }

    fn check_trust(&mut self) {
        let (release, bundle) = (&self.bundle.release, self.bundle);
        let root = || Origin::TrustRoot { digest: bundle.identity.root_digest };
        let version = bundle.root.version();
        let wanted = release.trust_root_version;
        let required = fact(format!("at least {wanted}"), self.release());
        self.hold(Rule::TrustRootVersion, version >= wanted, fact(version.to_string(), root()), required);
        let seen = self.marks.trust_root();
        self.hold_mark(Rule::TrustRootRollback, version >= seen, fact(format!("version {version}"), root()), seen);

        let expires = bundle.root.expires();
        let required = fact(format!("before {expires}, when the trust root expires"), root());
        self.hold(Rule::TrustRootExpiry, self.now < expires, self.time(), required);

        self.check_certificates();
        let accepts = &bundle.root.document().signed;
        let (minimum, maximum) = (accepts.minimum_epoch, accepts.maximum_epoch);
        let holds = minimum.is_none_or(|minimum| release.epoch >= minimum)
            && maximum.is_none_or(|maximum| release.epoch <= maximum);
        let limits =
            [minimum.map(|epoch| format!("at least {epoch}")), maximum.map(|epoch| format!("at most {epoch}"))];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        let required = if limits.is_empty() { "any".to_owned() } else { limits.join(" and ") };
        self.hold(Rule::Epoch, holds, fact(release.epoch.to_string(), self.release()), fact(required, root()));
    }

    /// Whoever signed by the word of an authority counts while the certificates are valid.
    fn check_certificates(&mut self) {
        let vouchers = &self.bundle.vouchers;
        let statements = [(&vouchers.release_signers, vouchers.threshold), (&vouchers.model_signers, 1)];
        for (signers, needed) in statements {
            if signers.iter().all(|voucher| voucher.validity.is_none()) {
                continue;
            }
            let counts = |voucher: &&Voucher| voucher.validity.is_none_or(|validity| validity.contains(self.now));
            let found = signers.iter().filter(counts).count();
            let times = signers.iter().filter_map(|voucher| voucher.validity);
            let times = list(times.map(|validity| format!("{} to {}", validity.not_before, validity.not_after)));
            let told = fact(format!("it is {}, and {found} of the signers count", self.now), Origin::Clock);
            let required = format!("{needed} that count; their certificates are valid from {times}");
            self.hold(Rule::Certificates, found >= needed, told, fact(required, self.release()));
        }
    }

    fn check_revocations(&mut self) {
        let (release, bundle, policy) = (&self.bundle.release, self.bundle, self.policy);
        let (list, origin) = (bundle.root.revocations(), || Origin::RevocationList);
        let version = list.map_or(0, RevocationList::version);
        let found = || list.map_or("no revocation list".to_owned(), |list| format!("version {}", list.version()));
        let required = match release.revocation_min {
            0 => "none".to_owned(),
            minimum => format!("at least version {minimum}"),
        };
        let holds = version >= release.revocation_min;
        self.hold(Rule::RevocationVersion, holds, fact(found(), origin()), fact(required, self.release()));
        let seen = self.marks.revocation();
        self.hold_mark(Rule::RevocationRollback, version >= seen, fact(found(), origin()), seen);
        let Some(list) = list else { return };
        if let Some(minimum) = list.minimum_counter(&release.name) {
            let (epoch, counter) = (minimum.epoch, minimum.counter);
            let found = fact(format!("counter {} in epoch {}", release.counter, release.epoch), self.release());
            let required = fact(format!("at least counter {counter} in epoch {epoch}"), origin());
            self.hold(Rule::MinimumCounter, (release.epoch, release.counter) >= (epoch, counter), found, required);
        }
        if let Some(minimum) = list.minimum_runtime() {
            let holds = policy.runtime_version.cmp_precedence(&minimum.0).is_ge();
            let found = fact(policy.runtime_version.to_string(), Origin::Runtime);
            self.hold(Rule::MinimumRuntime, holds, found, fact(format!("at least {minimum}"), origin()));
        }
    }

    /// Whoever dates ahead would make the time of this host run ahead.
    fn check_dates(&mut self) {
        let release = &self.bundle.release;
        // A clock that lies before the runtime was made says nothing about what is signed.
        if self.policy.made.is_some_and(|made| self.host.now >= made) {
            let listed = self.bundle.root.revocations().map_or(release.issued_at, RevocationList::issued);
            let latest = release.issued_at.max(listed);
            let found = fact(format!("signed at {latest}"), self.release());
            let required = fact(format!("at most a day after {}, which the clock says", self.host.now), Origin::Host);
            let is_past = latest.as_second() <= self.host.now.as_second() + DAY_SECONDS;
            self.hold(Rule::DatedAhead, is_past, found, required);
        }
    }

    fn check_validity(&mut self) -> Vec<AdmissionNotice> {
        let release = &self.bundle.release;
        if let Some(not_before) = release.not_before {
            let required = fact(format!("not before {not_before}"), self.release());
            self.hold(Rule::NotBefore, self.now >= not_before, self.time(), required);
        }
        let Some(expires) = release.expires else {
            let required = fact("at any time: the bundle never expires", self.release());
            self.hold(Rule::Expiry, true, self.time(), required);
            return Vec::new();
        };
        if let Some(made) = self.policy.made {
            let clock = fact(format!("the clock says {}", self.host.now), Origin::Host);
            let required = fact(format!("not before {made}, when the runtime was made"), Origin::Runtime);
            self.hold(Rule::Clock, self.host.now >= made, clock, required);
        }
        let verdict = match release.expiry_policy {
            _ if self.now < expires => Verdict::Holds,
            ExpiryPolicy::Warn => Verdict::Notice,
            // Both refuse a start; they differ in what a running service says, which is not decided here.
            ExpiryPolicy::RefuseLoad | ExpiryPolicy::ServeUntilRestart => Verdict::Broken,
        };
        let required = fact(format!("before {expires}, when the bundle expires"), self.release());
        self.findings.push(Finding { rule: Rule::Expiry, verdict, found: self.time(), required });
        if verdict == Verdict::Notice { vec![AdmissionNotice::Expired { expired: expires }] } else { Vec::new() }
    }

    fn check_rollback(&mut self) -> Option<AdmissionNotice> {
        let identity = &self.bundle.identity;
        let latest = self.marks.latest(&identity.name);
        let is_newest = latest.is_none_or(|accepted| (identity.epoch, identity.counter) >= accepted);
        let (verdict, notice, unusable) = match self.bundle.root.downgrade() {
            _ if is_newest => (Verdict::Holds, None, ""),
            None => (Verdict::Broken, None, ""),
            Some(token) if !token.names(identity) => {
                (Verdict::Broken, None, "; the downgrade token is for another bundle")
            }
            Some(token) if self.now >= token.expires() => (Verdict::Broken, None, "; the downgrade token has expired"),
            Some(token) => (Verdict::Notice, Some(AdmissionNotice::Downgrade { expires: token.expires() }), ""),
        };
        let found = format!("counter {} in epoch {}{unusable}", identity.counter, identity.epoch);
        let required = latest.map_or("any: none of this name was accepted before".to_owned(), |(epoch, counter)| {
            format!("at least counter {counter} in epoch {epoch}, which was accepted before")
        });
        let (found, required) = (fact(found, self.release()), fact(required, Origin::HighWaterMarks));
        self.findings.push(Finding { rule: Rule::Rollback, verdict, found, required });
        notice
    }

    fn release(&self) -> Origin {
        let identity = &self.bundle.identity;
        let bundle = format!("{} {}", identity.name, identity.version);
        Origin::Release { bundle, signer: identity.signers.first().copied() }
    }

    fn time(&self) -> Fact {
        fact(format!("it is {}", self.now), Origin::Clock)
    }

    fn hold(&mut self, rule: Rule, holds: bool, found: Fact, required: Fact) {
        let verdict = if holds { Verdict::Holds } else { Verdict::Broken };
        self.findings.push(Finding { rule, verdict, found, required });
    }

    fn hold_mark(&mut self, rule: Rule, holds: bool, found: Fact, seen: u64) {
        let required = match seen {
            0 => "any: none was used before".to_owned(),
            seen => format!("at least version {seen}, which was used before"),
        };
        self.hold(rule, holds, found, fact(required, Origin::HighWaterMarks));
    }

    fn hold_subset<T: Ord>(
        &mut self,
        rule: Rule,
        wanted: &BTreeSet<T>,
        offered: &BTreeSet<T>,
        by: Origin,
        name: impl Fn(&T) -> String,
    ) {
        let holds = wanted.is_subset(offered);
        let missing = list(wanted.difference(offered).map(&name));
        let found = if holds { "all of them".to_owned() } else { format!("{missing} missing") };
        let required = fact(list(wanted.iter().map(&name)), self.release());
        self.hold(rule, holds, fact(found, by), required);
    }
}

fn fact(text: impl Into<String>, origin: Origin) -> Fact {
    Fact { text: text.into(), origin }
}

fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
