//! The rules of admission: what each is called, which exit code its refusal has, and what an operator does about it.

use std::fmt;

/// A rule that a bundle can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The layers must be plain, or open with an identity that is there.
    Encryption,
    /// The runtime's version must lie in the required range.
    RuntimeVersion,
    /// The runtime must have the required features.
    RuntimeFeatures,
    /// The runtime must be able to serve the required endpoints.
    Endpoints,
    /// The CPU must have the required features.
    CpuFeatures,
    /// The host must have the memory that the vendor asks for.
    Memory,
    /// The host must have the memory that the model takes under the site's settings.
    MemoryFit,
    /// The host must have the required accelerator.
    Accelerator,
    /// An adapter must have been made for the base that it is to be served beside.
    Base,
    /// An adapter's base must have the tokenizer that the adapter was made with.
    Tokenizer,
    /// An adapter's base must have the chat template that the adapter was made with.
    ChatTemplate,
    /// The channel must be one that the site accepts.
    Channel,
    /// The version must not be below the site's minimum.
    MinimumVersion,
    /// The trust root must be as new as the bundle asks.
    TrustRootVersion,
    /// The trust root must not be older than one that was used before.
    TrustRootRollback,
    /// The trust root must not have expired.
    TrustRootExpiry,
    /// The certificates of enough signers must be valid.
    Certificates,
    /// The key epoch must be one that the trust root accepts.
    Epoch,
    /// The revocation list must be as new as the bundle asks.
    RevocationVersion,
    /// The revocation list must not be older than one that was used before.
    RevocationRollback,
    /// Epoch and counter must not be below the revocation list's minimum for the name.
    MinimumCounter,
    /// The runtime must not be older than the revocation list allows.
    MinimumRuntime,
    /// What is signed must not be dated after the host's clock, where that can be right.
    DatedAhead,
    /// The time must not lie before `notBefore`.
    NotBefore,
    /// For a bundle that expires, the host's clock must not lie before the runtime was made.
    Clock,
    /// The bundle must not have expired.
    Expiry,
    /// Epoch and counter must not be below what was accepted before.
    Rollback,
}

/// The two kinds of violation, by exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViolationClass {
    /// The bundle does not fit this runtime, host, site or time: exit code 12.
    NotAdmitted,
    /// Something is older than what was accepted before: exit code 13.
    State,
}

impl Rule {
    /// The name of the rule's refusal for programs, the same in each release.
    #[must_use]
    pub fn id(self) -> String {
        self.name().replace(' ', "_").to_ascii_lowercase()
    }

    /// The rule's name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Encryption => "encryption",
            Self::RuntimeVersion => "runtime version",
            Self::RuntimeFeatures => "runtime features",
            Self::Endpoints => "endpoints",
            Self::CpuFeatures => "CPU features",
            Self::Memory => "memory",
            Self::MemoryFit => "memory fit",
            Self::Accelerator => "accelerator",
            Self::Base => "base",
            Self::Tokenizer => "tokenizer",
            Self::ChatTemplate => "chat template",
            Self::Channel => "channel",
            Self::MinimumVersion => "minimum version",
            Self::TrustRootVersion => "trust root version",
            Self::TrustRootRollback => "trust root rollback",
            Self::TrustRootExpiry => "trust root expiry",
            Self::Certificates => "certificates",
            Self::Epoch => "key epoch",
            Self::RevocationVersion => "revocation list version",
            Self::RevocationRollback => "revocation list rollback",
            Self::MinimumCounter => "minimum counter",
            Self::MinimumRuntime => "minimum runtime version",
            Self::DatedAhead => "dated ahead",
            Self::NotBefore => "not before",
            Self::Clock => "clock",
            Self::Expiry => "expiry",
            Self::Rollback => "rollback",
        }
    }

    /// Which exit code its refusal has.
    #[must_use]
    pub fn class(self) -> ViolationClass {
        match self {
            Self::Rollback | Self::TrustRootRollback | Self::RevocationRollback => ViolationClass::State,
            _ => ViolationClass::NotAdmitted,
        }
    }

    /// What an operator can do about a refusal.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Encryption => {
                "name the file of an identity that the bundle is encrypted to with decryption_identity_file, or pass it as the \
                 systemd credential `decryption-identity`; `ampoule-seal rewrap` gives another recipient access"
            }
            Self::RuntimeVersion | Self::RuntimeFeatures | Self::Endpoints => {
                "install a release of ampoule that the bundle asks for, or ask the vendor for a bundle for this one"
            }
            Self::CpuFeatures => "use a host whose processor has them (a virtual machine may hide them)",
            Self::Memory => "use a host with more memory, or raise the limit of its control group or container",
            Self::MemoryFit => "lower one of the settings that are named, or give the process more memory",
            Self::Accelerator => "use a host and a build of ampoule with that accelerator",
            Self::Base | Self::Tokenizer | Self::ChatTemplate => {
                "serve the adapter beside the base that it was made for, or train one for this base"
            }
            Self::Channel => "use a bundle of an accepted channel, or accept this one in the configuration",
            Self::MinimumVersion => "use a newer version, or lower the minimum in the configuration",
            Self::TrustRootVersion | Self::TrustRootRollback | Self::TrustRootExpiry => {
                "use the newest root.json that the vendor gave out"
            }
            Self::Certificates => "ask the vendor for a bundle that is signed anew, or set the clock of this host",
            Self::Epoch => "take the newest root with `ampoule trust update`, or a bundle that was signed for this one",
            Self::RevocationVersion | Self::RevocationRollback => {
                "name the newest revocation list of the vendor in `revocations`"
            }
            Self::MinimumCounter => "use a newer bundle: the vendor has withdrawn this one",
            Self::MinimumRuntime => "install a newer release of ampoule: the vendor has withdrawn this one",
            Self::DatedAhead => {
                "set the clock of this host if it is wrong; if it is right, ask the vendor, because whoever dates ahead makes \
                 the time of this host run ahead for good"
            }
            Self::NotBefore => "wait until then, or set the clock of this host if it is wrong",
            Self::Clock => "set the clock of this host",
            Self::Expiry => {
                "ask the vendor for a newer bundle; if a clock that was wrong is what `ampoule state show` names as the \
                 latest time, `ampoule state reset` begins anew"
            }
            Self::Rollback => {
                "use the newest version of the bundle; where the vendor has withdrawn that one, a downgrade token of his permits \
                 this one (`downgrade_token`). `ampoule state show` tells what was accepted"
            }
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Rule;

    #[test]
    fn a_program_finds_the_rules_by_the_same_names_in_each_release() {
        assert_eq!(Rule::CpuFeatures.id(), "cpu_features");
        assert_eq!(Rule::TrustRootRollback.id(), "trust_root_rollback");
        assert_eq!(Rule::MemoryFit.id(), "memory_fit");
    }
}
