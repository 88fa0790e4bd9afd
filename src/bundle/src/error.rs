//! Everything that can be wrong with a bundle, one variant per defect.
//!
//! A variant says what was found and what the format wants there, so that a refusal can be acted on without reading this
//! code. [`BundleError::class`] is the only grouping: it decides the exit code, nothing else does.

mod id;
mod weight_header;

use std::fmt;

use crate::age::AgeError;
use crate::digest::Digest;
use crate::key::KeyId;

pub use weight_header::WeightHeaderError;

/// Why a bundle, a trust root or a part of one was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The source could not be read.
    #[error("cannot read {what}: {source}")]
    Io {
        /// What was being read, in words.
        what: String,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// What was to be written could not be: no defect of a bundle.
    #[error("cannot write: {source}")]
    Write {
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The file ends before the part that must follow.
    #[error("the file is cut short: {what} needs {needed} bytes, the file has {length}")]
    Truncated {
        /// The part that is missing.
        what: String,
        /// The length in bytes that the file must have at least.
        needed: u64,
        /// The length in bytes that it has.
        length: u64,
    },
    /// Bytes follow the end of the archive.
    #[error("the file goes on after its end: its canonical form has {expected} bytes, the file has {found}")]
    TrailingBytes {
        /// The length in bytes that was found.
        found: u64,
        /// The length in bytes of the canonical form.
        expected: u64,
    },
    /// The first entry is not the one every bundle begins with.
    #[error("this is not a .bundle file: it does not begin with the entry `oci-layout`")]
    NotABundle,
    /// A thin bundle where a whole one is wanted.
    #[error(
        "this is a thin bundle, which lacks what an older bundle has: `ampoule import` completes it in a store that \
         holds the older one"
    )]
    ThinBundle,
    /// An OCI layout has no model where one was looked for.
    #[error("the OCI layout holds no sealed model under {tag}; its tags are {found}")]
    NoModel {
        /// The tag that was asked for, or all of them.
        tag: String,
        /// The tags that are there.
        found: String,
    },
    /// An OCI layout has several models, and nothing says which one is meant.
    #[error(
        "the OCI layout holds {found} sealed models; name the tag of one of them, as in oci:DIR:TAG (it has {tags})"
    )]
    SeveralModels {
        /// How many.
        found: usize,
        /// The tags that are there.
        tags: String,
    },
    /// A byte differs from the canonical form that follows from the manifests.
    #[error("byte {offset} of the file ({what}) differs from the canonical form that its manifests give")]
    NotCanonical {
        /// Offset of the first differing byte in the file.
        offset: u64,
        /// The part that it lies in.
        what: String,
    },
    /// A tar header names another entry than the one that must stand there.
    #[error("the entry at byte {offset} is `{found}`, but {expected} must stand there")]
    UnexpectedEntry {
        /// Offset of the tar header.
        offset: u64,
        /// The entry's name.
        found: String,
        /// What the order of entries asks for.
        expected: String,
    },
    /// A size or count lies above the format's limit.
    #[error("{what} is {found}, more than the limit of {limit}")]
    TooLarge {
        /// What was measured, with its unit.
        what: String,
        /// The size or count found.
        found: u64,
        /// The largest that is allowed.
        limit: u64,
    },
    /// A JSON document is not strict JSON of the shape that FORMAT.md gives.
    #[error("{document}: {reason}")]
    MalformedJson {
        /// Which document.
        document: String,
        /// The parser's reason with its position.
        reason: String,
    },
    /// A JSON document is not written in canonical form (RFC 8785).
    #[error("{document} is not canonical JSON (RFC 8785): it differs at byte {offset}")]
    NotCanonicalJson {
        /// Which document.
        document: String,
        /// Offset of the first differing byte in the document.
        offset: usize,
    },
    /// The manifest declares a format that this reader does not know.
    #[error("bundle format `{found}` is not supported; this reader knows format {supported}")]
    UnsupportedFormat {
        /// The version declared.
        found: String,
        /// The version this reader knows.
        supported: u32,
    },
    /// A fixed field of a document has another value than the format fixes.
    #[error("{document}: `{field}` is `{found}`, must be `{expected}`")]
    WrongField {
        /// Which document.
        document: String,
        /// The field's name.
        field: &'static str,
        /// The value found.
        found: String,
        /// The value that must stand there.
        expected: String,
    },
    /// A text is not a valid value of the type that stands in its place.
    #[error("`{found}` is no {kind}: {reason}")]
    InvalidText {
        /// The kind of value wanted, for example `bundle name`.
        kind: &'static str,
        /// The text, shortened.
        found: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// Two layers would share one path, or one path is a folder of another, on some file system.
    #[error("the paths `{first}` and `{second}` collide")]
    CollidingPaths {
        /// The path that came first.
        first: String,
        /// The path that collides with it.
        second: String,
    },
    /// Layers stand in another order than the canonical one.
    #[error("layer `{path}` is out of order: layers come sorted by path, weights after all others")]
    LayerOrder {
        /// The first layer out of order.
        path: String,
    },
    /// A layer has a media type that this format does not carry.
    #[error("layer `{path}` has media type `{found}`, which format 1 does not carry")]
    UnknownMediaType {
        /// The layer's path.
        path: String,
        /// Its media type.
        found: String,
    },
    /// A weight layer is neither safetensors nor GGUF.
    #[error("weight layer `{path}` is neither `.safetensors` nor `.gguf`")]
    UnknownWeightFormat {
        /// The layer's path.
        path: String,
    },
    /// Two layers claim one digest but disagree about its size or its kind.
    #[error("the blob {digest} is described in two ways that disagree ({what})")]
    ContradictoryBlob {
        /// The digest that is described twice.
        digest: Digest,
        /// What disagrees.
        what: &'static str,
    },
    /// Some layers are encrypted and others are not.
    #[error(
        "layer `{path}` is encrypted in another way than the bundle: all layers are, with the model signing attestation \
         among them as `model.sig`, or none is"
    )]
    MixedEncryption {
        /// The first layer that differs.
        path: String,
    },
    /// An encrypted bundle names the digests of its plaintext to everybody.
    #[error(
        "the bundle is encrypted and carries a readable model signing statement, from which contents could be guessed: \
         it belongs among the layers, as `model.sig`"
    )]
    ReadableModelSigning,
    /// The weights of an encrypted bundle were asked for before anybody opened it.
    #[error("the bundle is encrypted and no identity has opened it")]
    Locked,
    /// An encrypted layer does not open.
    #[error("the encrypted layer `{path}`: {defect}")]
    Encrypted {
        /// The layer's path.
        path: String,
        /// What is wrong.
        #[source]
        defect: AgeError,
    },
    /// An attestation occurs twice.
    #[error("the attestation {digest} occurs twice")]
    RepeatedAttestation {
        /// Digest of the attestation's blob.
        digest: Digest,
    },
    /// A public key is not an ECDSA P-256 or P-384 key in canonical PEM.
    #[error("public key refused: {reason}")]
    MalformedKey {
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A certificate is not one that can be read here.
    #[error("certificate refused: {reason}")]
    MalformedCertificate {
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The signed list of a release's files has another form than its one.
    #[error("release manifest refused: {reason}")]
    MalformedRelease {
        /// What is wrong with it.
        reason: String,
    },
    /// A signature on a trust root, a revocation list or a downgrade token is no text of the one form.
    #[error("{document}: the signature by {key} is not lower-case hex")]
    MalformedSignature {
        /// Which document.
        document: &'static str,
        /// Whose signature it claims to be.
        key: KeyId,
    },
    /// The trust root contradicts itself.
    #[error("trust root refused: {reason}")]
    MalformedTrustRoot {
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A verified weight file has a header that no model parser may see.
    #[error("weight file `{path}`: {defect}")]
    WeightHeader {
        /// The layer's path.
        path: String,
        /// What is wrong.
        #[source]
        defect: WeightHeaderError,
    },
    /// One tensor name occurs in two weight files.
    #[error("the tensor `{tensor}` occurs in `{first}` and in `{second}`")]
    RepeatedTensor {
        /// The tensor's name.
        tensor: String,
        /// The file that holds it first.
        first: String,
        /// The file that holds it again.
        second: String,
    },

    /// A blob's content does not have the digest that names it.
    #[error("{what} has digest {found}, must have {expected}")]
    DigestMismatch {
        /// Which blob, by path or role.
        what: String,
        /// The digest of the bytes read.
        found: Digest,
        /// The digest signed or named.
        expected: Digest,
    },
    /// A signature by a pinned key does not verify.
    #[error("the signature of key {key} on the {statement} statement is wrong")]
    BadSignature {
        /// The pinned key that the attestation names.
        key: KeyId,
        /// Which statement: `release`, `model signing` or `cosign`.
        statement: &'static str,
    },
    /// A certificate chain of a pinned authority breaks a rule.
    #[error("a certificate chain of the pinned authority {authority} is refused: {reason}")]
    BadCertificateChain {
        /// The authority's id in the root.
        authority: KeyId,
        /// The rule that it breaks.
        reason: String,
    },
    /// The release manifest is not what the vendor signed, or somebody else signed it.
    #[error("the signature of the release manifest is not that of key {key}")]
    BadReleaseSignature {
        /// The key that it was checked with.
        key: KeyId,
    },
    /// A signature on a trust root, a revocation list or a downgrade token does not verify.
    #[error("the signature of key {key} on the {document} is wrong: get the file again, as its signer made it")]
    BadDocumentSignature {
        /// Which document.
        document: &'static str,
        /// The key that it names.
        key: KeyId,
    },
    /// Too few keys signed a trust root, a revocation list or a downgrade token.
    #[error(
        "the {document} is signed by {found} of the `{role}` keys of {whose}, {required} must sign; it names the keys \
         [{named}]: `ampoule-seal trust sign` adds a signature"
    )]
    TooFewDocumentSignatures {
        /// Which document.
        document: &'static str,
        /// The role whose keys count.
        role: &'static str,
        /// The root that lists them.
        whose: &'static str,
        /// How many distinct keys signed.
        found: usize,
        /// The role's threshold.
        required: usize,
        /// The key ids that it names, comma-separated.
        named: String,
    },
    /// Nobody may sign a document, because the root has no keys for it.
    #[error("no {document} can be accepted: {whose} has no role `{role}`; {}", way_to_role(role))]
    MissingRole {
        /// Which document.
        document: &'static str,
        /// The role that would sign it.
        role: &'static str,
        /// The root that lacks it.
        whose: &'static str,
    },
    /// A trust root is not the one that follows.
    #[error(
        "this trust root has version {found}, the one that follows has {expected}: give all roots in between, in order; an \
         older one is never taken"
    )]
    RootVersion {
        /// Its version.
        found: u64,
        /// The version that must follow.
        expected: u64,
    },
    /// The revocation list names this bundle.
    #[error(
        "the bundle {manifest} was revoked by the revocation list of version {version}: ask its vendor for another"
    )]
    RevokedManifest {
        /// The bundle's manifest.
        manifest: Digest,
        /// The list's version.
        version: u64,
    },
    /// A needed statement is absent.
    #[error("the bundle carries no {statement} statement")]
    MissingStatement {
        /// Which statement.
        statement: &'static str,
    },
    /// Too few pinned keys signed a statement.
    #[error(
        "the {statement} statement is signed by {found} of the trust root's `{role}` keys, {required} must sign; \
         the bundle names the keys [{named}]; {may_sign}"
    )]
    TooFewSignatures {
        /// Which statement.
        statement: &'static str,
        /// The role whose keys count.
        role: &'static str,
        /// How many distinct pinned keys of that role signed.
        found: usize,
        /// The role's threshold.
        required: usize,
        /// The key ids that the attestations name, comma-separated.
        named: String,
        /// Whose signatures would have done.
        may_sign: MaySign,
    },
    /// Two attestations of one kind sign different payloads.
    #[error("two {statement} statements differ: all signatures must cover identical bytes")]
    DifferingStatements {
        /// Which statement.
        statement: &'static str,
    },
    /// A statement is about something else.
    #[error("the {statement} statement is about {found}, the bundle is {expected}")]
    WrongSubject {
        /// Which statement.
        statement: &'static str,
        /// The subject digest found.
        found: Digest,
        /// The digest that it must have.
        expected: Digest,
    },
    /// Two parts of the bundle that must agree do not.
    #[error("{what}: {left_name} says `{left}`, {right_name} says `{right}`")]
    Disagreement {
        /// What they disagree about.
        what: String,
        /// The first part.
        left_name: &'static str,
        /// Its value.
        left: String,
        /// The second part.
        right_name: &'static str,
        /// Its value.
        right: String,
    },
}

/// Whose signatures a bundle needs, and how a key comes to be among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaySign {
    /// No pinned key signed it, so nothing in it was read: it may be a model or an adapter.
    Unread,
    /// A model of its own.
    Model,
    /// An adapter.
    Adapter,
}

impl fmt::Display for MaySign {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unread => {
                "`release` keys may sign any bundle, `site` keys adapters: `ampoule-seal trust init` lists them in a root, \
                 with --release-key and --site-key"
            }
            Self::Model => {
                "a model is signed by `release` keys alone, which `ampoule-seal trust init --release-key` lists in a root"
            }
            Self::Adapter => {
                "an adapter may be signed by `release` or by `site` keys: `ampoule-seal trust init --site-key` lists a \
                 site's key in a root"
            }
        })
    }
}

/// How a root comes by a role that it lacks: nothing can follow one that has no `root` keys.
fn way_to_role(role: &str) -> String {
    match role {
        "root" => "pin a root that has, by hand".to_owned(),
        _ => {
            format!("the vendor adds it by `ampoule-seal trust add-key --role {role}`, `ampoule trust update` takes it")
        }
    }
}

/// The two kinds of refusal, by exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The file is damaged or is no bundle: exit code 10.
    Unreadable,
    /// A signature, a digest or what they bind is wrong: exit code 11.
    Signature,
}

impl BundleError {
    /// Whether whom the trust root trusts is what refuses it, and not what is in the bundle.
    #[must_use]
    pub fn is_about_trust(&self) -> bool {
        matches!(self, Self::TooFewSignatures { .. } | Self::RevokedManifest { .. } | Self::BadCertificateChain { .. })
    }

    /// Which exit code this refusal has.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::DigestMismatch { .. }
            | Self::BadSignature { .. }
            | Self::BadReleaseSignature { .. }
            | Self::BadDocumentSignature { .. }
            | Self::BadCertificateChain { .. }
            | Self::TooFewDocumentSignatures { .. }
            | Self::MissingRole { .. }
            | Self::RootVersion { .. }
            | Self::RevokedManifest { .. }
            | Self::MissingStatement { .. }
            | Self::TooFewSignatures { .. }
            | Self::DifferingStatements { .. }
            | Self::WrongSubject { .. }
            | Self::Disagreement { .. }
            | Self::Encrypted { defect: AgeError::Chunk { .. } | AgeError::HeaderMac | AgeError::NoMatch, .. } => {
                ErrorClass::Signature
            }
            _ => ErrorClass::Unreadable,
        }
    }
}
