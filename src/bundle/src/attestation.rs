//! Attestations: Sigstore bundles v0.3 that carry one DSSE envelope with one signature.
//!
//! Nothing is signed or verified here; this is the wire form, read and written, and the exact bytes that a signature
//! covers. m-of-n signatures are n attestations over identical payload bytes, because a Sigstore bundle holds exactly one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::certificate::{self, Certificate};
use crate::digest::Digest;
use crate::error::BundleError;
use crate::json;
use crate::key::{KeyId, PublicKey};
use crate::manifest::wrong_field;
use crate::statement::Predicate;

/// The media type of an attestation, and the artifact type of the manifest that attaches it.
pub const BUNDLE_MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// The DSSE payload type of every statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// The bytes that a DSSE signature covers: the pre-authentication encoding of payload type and payload.
#[must_use]
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// One attestation, as read and not yet trusted, or as made and ready to be written.
#[derive(Debug, Clone)]
pub struct Attestation {
    bytes: Vec<u8>,
    digest: Digest,
    payload: Vec<u8>,
    signature: Vec<u8>,
    key: KeyId,
    certificates: Vec<Certificate>,
    predicate: Predicate,
}

impl Attestation {
    /// An attestation of `payload` (a statement's canonical JSON) with the DER signature that the key `key` made over
    /// [`pre_authentication_encoding`]`(`[`PAYLOAD_TYPE`]`, payload)`.
    ///
    /// # Errors
    /// As [`Attestation::parse`]; the result is read back, so that nothing is written that cannot be read.
    pub fn new(payload: &[u8], signature: &[u8], key: KeyId) -> Result<Self, BundleError> {
        Self::of_material(payload, signature, Some(KeyHint { hint: key }), None)
    }

    /// The same by the key that the first of these certificates certifies, the others leading from it towards an authority.
    ///
    /// # Errors
    /// As [`Attestation::parse`].
    pub fn certified(payload: &[u8], signature: &[u8], chain: &[Certificate]) -> Result<Self, BundleError> {
        let raw = |certificate: &Certificate| RawCertificate { raw_bytes: Base64(certificate.der().to_vec()) };
        let chain = CertificateChain { certificates: chain.iter().map(raw).collect() };
        Self::of_material(payload, signature, None, Some(chain))
    }

    fn of_material(
        payload: &[u8],
        signature: &[u8],
        public_key: Option<KeyHint>,
        x509_certificate_chain: Option<CertificateChain>,
    ) -> Result<Self, BundleError> {
        let wire = SigstoreBundle {
            dsse_envelope: Envelope {
                payload: Base64(payload.to_vec()),
                payload_type: PAYLOAD_TYPE.to_owned(),
                signatures: [EnvelopeSignature { keyid: String::new(), sig: Base64(signature.to_vec()) }],
            },
            media_type: BUNDLE_MEDIA_TYPE.to_owned(),
            verification_material: VerificationMaterial { public_key, tlog_entries: [], x509_certificate_chain },
        };
        Self::parse("new attestation", json::canonical(&wire))
    }

    /// Reads an attestation. `document` names it in errors.
    ///
    /// # Errors
    /// When it is not canonical JSON of the one shape that FORMAT.md §5 gives, or its payload names no known statement.
    pub fn parse(document: &str, bytes: Vec<u8>) -> Result<Self, BundleError> {
        let wire: SigstoreBundle = json::parse_canonical(document, &bytes)?;
        let fixed = |field, found: &str, expected: &str| {
            if found == expected {
                return Ok(());
            }
            Err(wrong_field(document, field, found, expected))
        };
        fixed("mediaType", &wire.media_type, BUNDLE_MEDIA_TYPE)?;
        fixed("payloadType", &wire.dsse_envelope.payload_type, PAYLOAD_TYPE)?;
        let [signature] = wire.dsse_envelope.signatures;
        fixed("keyid", &signature.keyid, "")?;
        let payload = wire.dsse_envelope.payload.0;
        let material = wire.verification_material;
        let (key, certificates) = match (material.public_key, material.x509_certificate_chain) {
            (Some(key), None) => (key.hint, Vec::new()),
            (None, Some(chain)) => chain.read(document)?,
            (both_or_none, _) => {
                let found = if both_or_none.is_some() { "both" } else { "neither" };
                let expected = "either publicKey or x509CertificateChain";
                return Err(wrong_field(document, "verificationMaterial", found, expected));
            }
        };
        Ok(Self {
            digest: Digest::of(&bytes),
            predicate: Predicate::of_payload(document, &payload)?,
            bytes,
            payload,
            signature: signature.sig.0,
            key,
            certificates,
        })
    }

    /// The attestation's own bytes, canonical JSON.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of [`Attestation::bytes`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The statement's bytes, exactly as signed.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The id of the key that claims to have signed, named by a hint or by the leaf of a certificate chain. Only a pinned
    /// key of that id counts, or one that a pinned authority certifies.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// The certificate chain, leaf first; empty where a bare key signed. Nothing of it is trusted by having been read.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Which statement the payload says it is.
    #[must_use]
    pub fn predicate(&self) -> Predicate {
        self.predicate
    }

    /// Whether `key` made this attestation's signature.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verifies(&pre_authentication_encoding(PAYLOAD_TYPE, &self.payload), &self.signature)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SigstoreBundle {
    dsse_envelope: Envelope,
    media_type: String,
    verification_material: VerificationMaterial,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope {
    payload: Base64,
    payload_type: String,
    // Exactly one: the Sigstore bundle format allows no other number.
    signatures: [EnvelopeSignature; 1],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    keyid: String,
    sig: Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VerificationMaterial {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<KeyHint>,
    // Always empty: a bundle is verified with pinned keys and without a transparency log.
    tlog_entries: [String; 0],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x509_certificate_chain: Option<CertificateChain>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CertificateChain {
    certificates: Vec<RawCertificate>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawCertificate {
    raw_bytes: Base64,
}

impl CertificateChain {
    /// The leaf's key and all certificates.
    fn read(self, document: &str) -> Result<(KeyId, Vec<Certificate>), BundleError> {
        certificate::check_length(self.certificates.len())?;
        let read = |raw: RawCertificate| Certificate::from_der(&raw.raw_bytes.0);
        let certificates = self.certificates.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let Some(leaf) = certificates.first() else {
            return Err(wrong_field(document, "certificates", "an empty list", "at least one certificate"));
        };
        Ok((leaf.key().id(), certificates))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyHint {
    hint: KeyId,
}

/// Bytes in standard base64 with padding.
struct Base64(Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_the_one_of_the_dsse_specification() {
        // The example of the DSSE protocol document.
        let encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }
}
