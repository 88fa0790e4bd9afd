//! What came of each rule: what was found, what is required, and where both came from, so that nobody has to guess which
//! document, file or setting to look at.

use std::fmt;

use super::rule::{Rule, ViolationClass};
use crate::digest::Digest;
use crate::key::KeyId;
use crate::timestamp::Timestamp;

/// Where something that a rule looks at came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The vendor's signed statement.
    Release {
        /// Name and version of the bundle.
        bundle: String,
        /// A pinned key that signed it.
        signer: Option<KeyId>,
    },
    /// This runtime, as it was built.
    Runtime,
    /// This host.
    Host,
    /// This host's clock, unless something that is certain is later.
    Clock,
    /// A setting of the site.
    Setting {
        /// Its key.
        key: &'static str,
        /// Which file, variable or flag says so.
        from: String,
    },
    /// The shapes of the model, under the site's settings.
    Shapes,
    /// The model that an adapter is to be served beside.
    Base,
    /// The trust root.
    TrustRoot {
        /// Its digest.
        digest: Digest,
    },
    /// The revocation list.
    RevocationList,
    /// What this installation has taken into use before.
    HighWaterMarks,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { bundle, signer: Some(key) } => {
                let key = key.to_string();
                write!(formatter, "the release statement of {bundle}, key {}…", key.get(..8).unwrap_or(&key))
            }
            Self::Release { bundle, signer: None } => write!(formatter, "the release statement of {bundle}"),
            Self::Runtime => write!(formatter, "this runtime"),
            Self::Host => write!(formatter, "this host"),
            Self::Clock => write!(formatter, "the latest of this host's clock, what it has seen and what is signed"),
            Self::Setting { key, from } => write!(formatter, "`{key}`, {from}"),
            Self::Shapes => write!(formatter, "the model's shapes under the settings"),
            Self::Base => write!(formatter, "the model that it is to be served beside"),
            Self::TrustRoot { digest } => {
                let digest = digest.to_hex();
                write!(formatter, "the trust root {}…", digest.get(..8).unwrap_or(&digest))
            }
            Self::RevocationList => write!(formatter, "the revocation list"),
            Self::HighWaterMarks => write!(formatter, "what this installation has accepted before"),
        }
    }
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is, in words.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
}

impl fmt::Display for Fact {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.text, self.origin)
    }
}

/// What came of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Holds,
    /// It is broken, and the vendor permits that with a warning.
    Notice,
    /// It is broken.
    Broken,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Holds => "ok",
            Self::Notice => "notice",
            Self::Broken => "refused",
        })
    }
}

/// One rule, held against one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What came of it.
    pub verdict: Verdict,
    /// What was found.
    pub found: Fact,
    /// What is required.
    pub required: Fact,
}

/// Every rule, held against one bundle, in the order in which they refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examination {
    pub(super) findings: Vec<Finding>,
    pub(super) notices: Vec<AdmissionNotice>,
}

impl Examination {
    /// What came of each rule.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// What the operator must be told although the bundle is admitted.
    #[must_use]
    pub fn notices(&self) -> &[AdmissionNotice] {
        &self.notices
    }

    /// The first rule that is broken: what admission refuses with.
    #[must_use]
    pub fn violation(&self) -> Option<PolicyViolation> {
        let broken = self.findings.iter().find(|finding| finding.verdict == Verdict::Broken)?;
        let Finding { rule, found, required, .. } = broken.clone();
        Some(PolicyViolation { rule, found: Box::new(found), required: Box::new(required) })
    }
}

/// Why a verified bundle may not run here. The two sides are boxed: success should not pay for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not admitted by the rule on {rule}: found {found}, required {required}; {}", rule.remedy())]
pub struct PolicyViolation {
    /// The rule that it broke.
    pub rule: Rule,
    /// What was found.
    pub found: Box<Fact>,
    /// What is required.
    pub required: Box<Fact>,
}

impl PolicyViolation {
    /// Which exit code this refusal has.
    #[must_use]
    pub fn class(&self) -> ViolationClass {
        self.rule.class()
    }
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
