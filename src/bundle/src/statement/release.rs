//! The release statement: the vendor's signed word about a bundle, and the contract that comes with it.
//!
//! Every field of the format has its type here, also those whose use comes later, so that a statement signed today keeps
//! its meaning. All numbers are integers (milliseconds, bytes, millionths), because signed JSON holds no fractions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::Statement;
use crate::digest::Digest;
use crate::limits::FORMAT_VERSION;
use crate::manifest::Manifest;
use crate::names::{BundleName, BundlePath, BundleVersion, Channel, Counter, Epoch};
use crate::timestamp::Timestamp;

/// What the vendor states about one bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReleaseStatement {
    /// The bundle format, 1.
    pub format_version: u32,
    /// The bundle's name.
    pub name: BundleName,
    /// Its version.
    pub version: BundleVersion,
    /// Its monotonic number: a lower one than already accepted in the same epoch is refused.
    pub counter: Counter,
    /// The key epoch of the counter; counters of a new epoch begin anew.
    pub epoch: Epoch,
    /// The channel it is released on.
    pub channel: Channel,
    /// When the statement was made. Time never lies before it.
    pub issued_at: Timestamp,
    /// Not to be used before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not to be used from then on, as `expiry_policy` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// What happens at `expires`.
    pub expiry_policy: ExpiryPolicy,
    /// The root over all files as they lie in the bundle, as the model signing statement computes it.
    pub oms_root: Digest,
    /// Length and digest of the header of each weight file, sorted by path; of an encrypted one, of the part of the age
    /// file that holds it.
    pub weights: Vec<WeightHeaderDigest>,
    /// What the runtime and the host must offer.
    pub requires: Requirements,
    /// What local configuration may not widen.
    pub constraints: Constraints,
    /// Path of the sealed JSON Schema of the settings that a site may inject, with defaults and bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_schema: Option<BundlePath>,
    /// The service level that the vendor promises on the required hardware.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<ServiceLevel>,
    /// Inputs and outputs that the runtime must reproduce before it says ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_answers: Option<KnownAnswers>,
    /// Path of the sealed reference profile for drift.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_profile: Option<BundlePath>,
    /// For an adapter: what it belongs to. Absent for a base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterBinding>,
    /// How the layers are encrypted. Absent when they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// The lowest trust root version that may accept this bundle.
    pub trust_root_version: u64,
    /// The lowest revocation list version that must be present; 0 asks for none.
    pub revocation_min: u64,
}

impl ReleaseStatement {
    /// The plainest statement: counter and epoch 1, channel `stable`, no expiry, no constraint, and nothing required but
    /// a runtime of version `runtime` or newer. The root over all files and the weight headers are still to be filled in.
    #[must_use]
    pub fn new(name: BundleName, version: BundleVersion, issued_at: Timestamp, runtime: semver::Version) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            name,
            version,
            counter: Counter(1),
            epoch: Epoch(1),
            channel: "stable".parse().expect("a valid channel"),
            issued_at,
            not_before: None,
            expires: None,
            expiry_policy: ExpiryPolicy::default(),
            oms_root: Digest::of(b""),
            weights: Vec::new(),
            requires: Requirements::runtime_from(runtime),
            constraints: Constraints::default(),
            settings_schema: None,
            slo: None,
            known_answers: None,
            reference_profile: None,
            adapter: None,
            encryption: None,
            trust_root_version: 1,
            revocation_min: 0,
        }
    }

    /// The statement about the bundle whose manifest has the digest `manifest`.
    #[must_use]
    pub fn about(self, manifest: Digest) -> Statement<Self> {
        Statement { subject_name: self.name.to_string(), subject: manifest, predicate: self }
    }
}

/// What happens when a bundle expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpiryPolicy {
    /// It is refused at start; a running service goes on and says so.
    #[default]
    RefuseLoad,
    /// It is refused at start; a running service goes on until it is restarted.
    ServeUntilRestart,
    /// It is served, with a warning.
    Warn,
}

/// Length and digest of the header of one weight file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WeightHeaderDigest {
    /// The weight file.
    pub path: BundlePath,
    /// Length in bytes from the file's start to its first tensor's data.
    pub header_length: u64,
    /// SHA-256 of those bytes.
    pub header_digest: Digest,
}

impl WeightHeaderDigest {
    /// Of the weight file at `path` whose header has these bytes.
    #[must_use]
    pub fn new(path: BundlePath, header: &[u8]) -> Self {
        Self { path, header_length: header.len() as u64, header_digest: Digest::of(header) }
    }
}

/// What the runtime and the host must offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirements {
    /// The runtime's version and features.
    pub runtime: RuntimeRequirement,
    /// CPU features by their Linux names, for example `avx2`.
    pub cpu_features: BTreeSet<String>,
    /// Memory in bytes that the host must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// The accelerator that must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Endpoints that the runtime must be able to serve.
    pub endpoints: BTreeSet<Endpoint>,
}

impl Requirements {
    /// A runtime of this version or newer, and nothing else.
    #[must_use]
    pub fn runtime_from(min: semver::Version) -> Self {
        Self {
            runtime: RuntimeRequirement { min, below: None, features: BTreeSet::new() },
            cpu_features: BTreeSet::new(),
            memory_bytes: None,
            accelerator: None,
            endpoints: BTreeSet::new(),
        }
    }
}

/// Which runtimes may run the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuntimeRequirement {
    /// The lowest version.
    #[serde(deserialize_with = "version")]
    pub min: semver::Version,
    /// The first version that may not, if one is known.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_version")]
    pub below: Option<semver::Version>,
    /// Features that the runtime must have.
    pub features: BTreeSet<String>,
}

/// A version within the length that the format gives to every version.
fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<semver::Version, D::Error> {
    BundleVersion::deserialize(deserializer).map(|version| version.0)
}

fn optional_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<semver::Version>, D::Error> {
    Ok(Option::<BundleVersion>::deserialize(deserializer)?.map(|version| version.0))
}

/// A kind of accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// An NVIDIA GPU.
    Cuda,
}

/// An endpoint, by its path. The order is that of the paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the path beside each name says it")]
pub enum Endpoint {
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    #[serde(rename = "/v1/completions")]
    Completions,
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
    #[serde(rename = "/v1/messages")]
    Messages,
    #[serde(rename = "/v1/rerank")]
    Rerank,
    #[serde(rename = "/v1/responses")]
    Responses,
    #[serde(rename = "/v2")]
    OpenInference,
}

impl Endpoint {
    /// The endpoint's path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Messages => "/v1/messages",
            Self::Rerank => "/v1/rerank",
            Self::Responses => "/v1/responses",
            Self::OpenInference => "/v2",
        }
    }
}

/// What local configuration may tighten and never widen. The default is the strictest that fits every model.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Constraints {
    /// Longest context in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_context_length: Option<u32>,
    /// Most tokens of one reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// The only endpoints that may be served; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<BTreeSet<Endpoint>>,
    /// Whether clients must present a key.
    pub authentication: Authentication,
    /// Whether prompts may be logged.
    pub prompt_logging: PromptLogging,
    /// Whether the process may open outbound connections.
    pub egress: Egress,
}

/// Whether clients must present a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authentication {
    /// They must.
    #[default]
    Required,
    /// The site decides.
    SiteChoice,
}

/// Whether prompts may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptLogging {
    /// Never.
    #[default]
    Off,
    /// The site decides.
    SiteChoice,
}

/// Whether the process may open outbound connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// None at all.
    #[default]
    None,
    /// The site decides.
    SiteChoice,
}

/// The service level that the vendor promises on the required hardware.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceLevel {
    /// 95th percentile of the time to the first token, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_first_token_p95_milliseconds: Option<u32>,
    /// 95th percentile of the time between tokens, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inter_token_p95_milliseconds: Option<u32>,
    /// Availability over 30 days, in millionths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_millionths: Option<u32>,
}

/// Inputs and outputs that the runtime must reproduce before it says ready.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KnownAnswers {
    /// The largest difference allowed for each backend (`cpu`, `cuda`), in millionths.
    pub tolerance_millionths: BTreeMap<String, u64>,
    /// The answers.
    pub answers: Vec<KnownAnswer>,
}

impl KnownAnswers {
    /// How many tokens all answers take together.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let lengths = self.answers.iter().map(|answer| match answer {
            KnownAnswer::Generation { prompt, steps } => prompt.len() + steps.len(),
            KnownAnswer::Embedding { input, .. } => input.len(),
        });
        lengths.map(|length| length as u64).sum()
    }
}

/// One input and what must come out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum KnownAnswer {
    /// For a model that generates: teacher-forced steps after a prompt.
    Generation {
        /// The prompt's token ids.
        prompt: Vec<u32>,
        /// What the model must predict at each step.
        steps: Vec<KnownStep>,
    },
    /// For an encoder: the beginning of the embedding.
    Embedding {
        /// The input's token ids.
        input: Vec<u32>,
        /// The embedding's first components, in millionths.
        components_millionths: Vec<i64>,
    },
}

/// One teacher-forced step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KnownStep {
    /// The highest logits, best first.
    pub top: Vec<TopLogit>,
    /// The token that is fed next.
    pub token: u32,
}

/// One token's logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TopLogit {
    /// The token.
    pub token: u32,
    /// Its logit, in millionths.
    pub logit_millionths: i64,
}

/// What an adapter belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterBinding {
    /// Manifest digest of the base bundle.
    pub base: Digest,
    /// Digest of the base's tokenizer file.
    pub tokenizer: Digest,
    /// Digest of the base's chat template, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<Digest>,
}

impl AdapterBinding {
    /// What an adapter of the bundle with this manifest is bound to.
    ///
    /// The tokenizer is `tokenizer.json`, or the GGUF file, which holds it; the chat template is `chat_template.jinja`, or
    /// `tokenizer_config.json`, which holds it. `None` when there is no tokenizer.
    #[must_use]
    pub fn to(base: &Manifest) -> Option<Self> {
        let files: BTreeMap<&str, Digest> =
            base.layers().iter().map(|layer| (layer.path.as_str(), layer.digest)).collect();
        let gguf = || files.iter().find(|(path, _)| path.ends_with(".gguf")).map(|(_, digest)| digest);
        let tokenizer = *files.get("tokenizer.json").or_else(gguf)?;
        let template = files.get("chat_template.jinja").or_else(|| files.get("tokenizer_config.json"));
        Some(Self { base: base.digest(), tokenizer, chat_template: template.copied() })
    }
}

/// Whether a bundle is a model of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleKind {
    /// It is.
    Model,
    /// It is added to one.
    Adapter {
        /// The manifest of the base that it belongs to.
        base: Digest,
    },
}

impl BundleKind {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Adapter { .. } => "adapter",
        }
    }

    /// The manifest of the base, if it is an adapter.
    #[must_use]
    pub fn base(self) -> Option<Digest> {
        match self {
            Self::Model => None,
            Self::Adapter { base } => Some(base),
        }
    }
}

impl fmt::Display for BundleKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model => formatter.write_str("model"),
            Self::Adapter { base } => write!(formatter, "adapter of the base {base}"),
        }
    }
}

impl ReleaseStatement {
    /// Whether the bundle is a model of its own.
    #[must_use]
    pub fn kind(&self) -> BundleKind {
        self.adapter.as_ref().map_or(BundleKind::Model, |adapter| BundleKind::Adapter { base: adapter.base })
    }
}

/// How the layers are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// [`Encryption::AGE`]; a reader that does not know another one refuses the bundle.
    pub scheme: String,
    /// The recipients, `age1…`: a set.
    pub recipients: BTreeSet<String>,
    /// The model signing root over the plaintext.
    pub plaintext_root: Digest,
}

impl Encryption {
    /// The one scheme of format 1: each layer is an age v1 file with X25519 recipients.
    pub const AGE: &str = "age/v1";
}
