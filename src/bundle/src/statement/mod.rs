//! in-toto statements: what the attestations of a bundle say.
//!
//! Three kinds exist. The **release** statement is authoritative: it identifies the bundle and says what it requires and
//! forbids. The **model signing** statement (OMS) lists every file, so that OpenSSF's own client can check an exported
//! bundle; it must agree with the manifest. The **cosign** statement is for cosign's users and never suffices.

mod oms;
mod release;

pub use oms::{OmsResource, OmsSerialization, OmsStatement};
pub use release::{
    Accelerator, AdapterBinding, Authentication, BundleKind, Constraints, Egress, Encryption, Endpoint, ExpiryPolicy,
    KnownAnswer, KnownAnswers, KnownStep, PromptLogging, ReleaseStatement, Requirements, RuntimeRequirement,
    ServiceLevel, TopLogit, WeightHeaderDigest,
};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, bare_hex};
use crate::error::BundleError;
use crate::json;
use crate::manifest::wrong_field;

/// The `_type` of every statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

/// Which statement an attestation carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Predicate {
    /// The vendor's authoritative statement about the bundle.
    Release,
    /// OpenSSF model signing: every file with its digest.
    ModelSigning,
    /// cosign's statement about the manifest, for other tools only.
    Cosign,
}

impl Predicate {
    /// Every kind, in the order in which a bundle carries them.
    pub const ALL: [Self; 3] = [Self::Release, Self::ModelSigning, Self::Cosign];

    /// The `predicateType` URI.
    #[must_use]
    pub fn uri(self) -> &'static str {
        match self {
            Self::Release => "urn:ampoule:bundle-release:v1",
            Self::ModelSigning => "https://model_signing/signature/v1.0",
            Self::Cosign => "https://sigstore.dev/cosign/sign/v1",
        }
    }

    /// The statement's name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::ModelSigning => "model signing",
            Self::Cosign => "cosign",
        }
    }

    /// Which statement `payload` says it is. Its other members are read only after its signature was verified.
    pub(crate) fn of_payload(document: &str, payload: &[u8]) -> Result<Self, BundleError> {
        let tree = json::parse_value(document, payload)?;
        let uri = tree.get("predicateType").and_then(serde_json::Value::as_str).unwrap_or_default();
        Self::ALL
            .into_iter()
            .find(|predicate| predicate.uri() == uri)
            .ok_or_else(|| wrong_field(document, "predicateType", uri, &Self::ALL.map(Self::uri).join("` or `")))
    }
}

/// The cosign statement's predicate: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosignStatement {}

/// A statement: one subject and what is said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement<P> {
    /// The subject's name; empty in cosign's statements.
    pub subject_name: String,
    /// The subject's digest: the manifest's, or for model signing the root over all files.
    pub subject: Digest,
    /// What is said.
    pub predicate: P,
}

/// A predicate's type, so that a payload signed as one statement is never read as another.
pub trait PredicateType {
    /// The statement this is the predicate of.
    const PREDICATE: Predicate;
}

impl PredicateType for ReleaseStatement {
    const PREDICATE: Predicate = Predicate::Release;
}

impl PredicateType for OmsStatement {
    const PREDICATE: Predicate = Predicate::ModelSigning;
}

impl PredicateType for CosignStatement {
    const PREDICATE: Predicate = Predicate::Cosign;
}

impl<P: PredicateType + Serialize + DeserializeOwned> Statement<P> {
    /// The payload to sign: the statement's canonical JSON.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        json::canonical(&WireStatement {
            kind: STATEMENT_TYPE.to_owned(),
            predicate: &self.predicate,
            predicate_type: P::PREDICATE.uri().to_owned(),
            subject: [Subject { digest: SubjectDigest { sha256: self.subject }, name: self.subject_name.clone() }],
        })
    }

    /// Reads a payload. Call it on verified bytes only.
    ///
    /// # Errors
    /// When it is not canonical JSON of the shape that FORMAT.md §6 gives, or another statement.
    pub fn parse(payload: &[u8]) -> Result<Self, BundleError> {
        let document = format!("{} statement", P::PREDICATE.name());
        let wire: WireStatement<P> = json::parse_canonical(&document, payload)?;
        for (field, found, expected) in
            [("_type", &wire.kind, STATEMENT_TYPE), ("predicateType", &wire.predicate_type, P::PREDICATE.uri())]
        {
            if found != expected {
                return Err(wrong_field(&document, field, found, expected));
            }
        }
        let [subject] = wire.subject;
        Ok(Self { subject_name: subject.name, subject: subject.digest.sha256, predicate: wire.predicate })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireStatement<P> {
    #[serde(rename = "_type")]
    kind: String,
    predicate: P,
    predicate_type: String,
    subject: [Subject; 1],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    digest: SubjectDigest,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectDigest {
    #[serde(with = "bare_hex")]
    sha256: Digest,
}
