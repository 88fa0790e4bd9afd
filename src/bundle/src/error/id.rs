//! The names by which programs know each refusal.  They are an interface, as the exit codes are: a name never changes
//! its meaning, and a refusal never changes its name.

use super::BundleError;
use crate::age::AgeError;

impl BundleError {
    /// The name of this refusal for programs, the same in each release.
    #[must_use]
    pub fn id(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Write { .. } => "write",
            Self::Truncated { .. } => "truncated",
            Self::TrailingBytes { .. } => "trailing_bytes",
            Self::NotABundle => "not_a_bundle",
            Self::ThinBundle => "thin_bundle",
            Self::NoModel { .. } => "no_model",
            Self::SeveralModels { .. } => "several_models",
            Self::NotCanonical { .. } => "not_canonical",
            Self::UnexpectedEntry { .. } => "unexpected_entry",
            Self::TooLarge { .. } => "too_large",
            Self::MalformedJson { .. } => "malformed_json",
            Self::NotCanonicalJson { .. } => "not_canonical_json",
            Self::UnsupportedFormat { .. } => "unsupported_format",
            Self::WrongField { .. } => "wrong_field",
            Self::InvalidText { .. } => "invalid_text",
            Self::CollidingPaths { .. } => "colliding_paths",
            Self::LayerOrder { .. } => "layer_order",
            Self::UnknownMediaType { .. } => "unknown_media_type",
            Self::UnknownWeightFormat { .. } => "unknown_weight_format",
            Self::ContradictoryBlob { .. } => "contradictory_blob",
            Self::MixedEncryption { .. } => "mixed_encryption",
            Self::ReadableModelSigning => "readable_model_signing",
            Self::Locked => "locked",
            Self::RepeatedAttestation { .. } => "repeated_attestation",
            Self::MalformedKey { .. } => "malformed_key",
            Self::MalformedCertificate { .. } => "malformed_certificate",
            Self::MalformedRelease { .. } => "malformed_release",
            Self::MalformedSignature { .. } => "malformed_signature",
            Self::MalformedTrustRoot { .. } => "malformed_trust_root",
            Self::WeightHeader { .. } => "weight_header",
            Self::RepeatedTensor { .. } => "repeated_tensor",
            Self::DigestMismatch { .. } => "digest_mismatch",
            Self::BadSignature { .. } => "bad_signature",
            Self::BadCertificateChain { .. } => "bad_certificate_chain",
            Self::BadReleaseSignature { .. } => "bad_release_signature",
            Self::BadDocumentSignature { .. } => "bad_document_signature",
            Self::TooFewDocumentSignatures { .. } => "too_few_document_signatures",
            Self::MissingRole { .. } => "missing_role",
            Self::RootVersion { .. } => "root_version",
            Self::RevokedManifest { .. } => "revoked_manifest",
            Self::MissingStatement { .. } => "missing_statement",
            Self::TooFewSignatures { .. } => "too_few_signatures",
            Self::DifferingStatements { .. } => "differing_statements",
            Self::WrongSubject { .. } => "wrong_subject",
            Self::Disagreement { .. } => "disagreement",
            Self::Encrypted { defect, .. } => match defect {
                AgeError::Chunk { .. } => "encrypted_chunk",
                AgeError::HeaderMac => "encrypted_header",
                AgeError::NoMatch => "encrypted_to_others",
                _ => "encrypted_malformed",
            },
        }
    }
}
