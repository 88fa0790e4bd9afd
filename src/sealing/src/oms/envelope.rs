//! The signature file: a Sigstore bundle that carries one DSSE envelope, in the reference client's spellings.
//!
//! Other people wrote it, so it is no canonical JSON; it is strict JSON all the same, and has no member that is not known.

use ampoule_bundle::{BUNDLE_MEDIA_TYPE, PAYLOAD_TYPE, json, pre_authentication_encoding};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::OmsError;
use super::key::OmsPublicKey;
use crate::error::SealingError;

/// Longest signature file: some hundred thousand files or shards.
pub(crate) const MAX_SIGNATURE_FILE_BYTES: u64 = 64 << 20;

/// What the signature says about who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Material {
    /// A key; its id, unless the writer was older than ids.
    Key { hint: Option<String> },
    /// Certificates in DER: the one that signed, then those above it.
    Certificates(Vec<Vec<u8>>),
}

/// A signature file as read, and not yet believed.
#[derive(Clone, Debug)]
pub(crate) struct SignatureFile {
    pub(crate) material: Material,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl SignatureFile {
    /// Reads a signature file.
    ///
    /// # Errors
    /// `SigstoreMethod`, `OtherStatement` for another media or payload type, `Malformed`, and what strict JSON refuses.
    pub(crate) fn read(bytes: &[u8]) -> Result<SignatureFile, SealingError> {
        let wire: Wire = json::parse_foreign("signature", bytes)?;
        for (field, found, expected) in [
            ("mediaType", wire.media_type, BUNDLE_MEDIA_TYPE),
            ("payloadType", wire.dsse_envelope.payload_type, PAYLOAD_TYPE),
        ] {
            if found != expected {
                return Err(OmsError::OtherStatement { field, found, expected }.into());
            }
        }
        let [signature] = wire.dsse_envelope.signatures;
        Ok(SignatureFile {
            material: Material::read(wire.verification_material)?,
            payload: decode("payload", &wire.dsse_envelope.payload)?,
            signature: decode("sig", &signature.sig)?,
        })
    }

    /// The statement's bytes, if `signer` has signed them.
    ///
    /// # Errors
    /// `NotSigned`.
    pub(crate) fn payload_signed_by(&self, key: &OmsPublicKey, signer: &str) -> Result<&[u8], SealingError> {
        match key.verifies(&pre_authentication_encoding(PAYLOAD_TYPE, &self.payload), &self.signature) {
            true => Ok(&self.payload),
            false => Err(OmsError::NotSigned { signer: signer.to_owned() }.into()),
        }
    }

    /// The text of a signature file.
    pub(crate) fn write(payload: &[u8], signature: &[u8], material: &Material) -> Vec<u8> {
        json::canonical(&Wire {
            media_type: BUNDLE_MEDIA_TYPE.to_owned(),
            verification_material: material.to_wire(),
            dsse_envelope: WireEnvelope {
                payload: STANDARD.encode(payload),
                payload_type: PAYLOAD_TYPE.to_owned(),
                signatures: [WireSignature { sig: STANDARD.encode(signature), keyid: Some(String::new()) }],
            },
        })
    }
}

impl Material {
    fn read(wire: WireMaterial) -> Result<Material, SealingError> {
        match (wire.public_key, wire.x509_certificate_chain, wire.certificate) {
            (Some(key), None, None) => Ok(Material::Key { hint: key.hint.filter(|hint| !hint.is_empty()) }),
            (None, Some(chain), None) => {
                let certificates = chain.certificates.iter().map(|found| decode("rawBytes", &found.raw_bytes));
                Ok(Material::Certificates(certificates.collect::<Result<_, _>>()?))
            }
            (None, None, Some(_)) => Err(OmsError::SigstoreMethod.into()),
            _ => Err(malformed("verificationMaterial has not exactly one of publicKey and x509CertificateChain")),
        }
    }

    fn to_wire(&self) -> WireMaterial {
        let (public_key, x509_certificate_chain) = match self {
            Material::Key { hint } => (Some(WireKey { hint: hint.clone(), raw_bytes: None, key_details: None }), None),
            Material::Certificates(certificates) => {
                let wire = |der: &Vec<u8>| WireCertificate { raw_bytes: STANDARD.encode(der) };
                (None, Some(WireChain { certificates: certificates.iter().map(wire).collect() }))
            }
        };
        WireMaterial {
            public_key,
            x509_certificate_chain,
            certificate: None,
            tlog_entries: Some(Vec::new()),
            timestamp_verification_data: None,
        }
    }
}

fn decode(member: &str, base64: &str) -> Result<Vec<u8>, SealingError> {
    STANDARD.decode(base64).map_err(|error| malformed(&format!("{member} is not base64: {error}")))
}

fn malformed(reason: &str) -> SealingError {
    OmsError::Malformed { document: "signature", reason: reason.to_owned() }.into()
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wire {
    media_type: String,
    verification_material: WireMaterial,
    dsse_envelope: WireEnvelope,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireMaterial {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<WireKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x509_certificate_chain: Option<WireChain>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<Value>,
    // Entries of a transparency log and timestamps say when something was signed; neither method here asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tlog_entries: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timestamp_verification_data: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireKey {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    // Before version 1.1 the client wrote the key itself. A key that comes with its signature proves nothing, so it is
    // not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_bytes: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_details: Option<Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireChain {
    certificates: Vec<WireCertificate>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireCertificate {
    raw_bytes: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireEnvelope {
    payload: String,
    payload_type: String,
    // A Sigstore bundle carries exactly one.
    signatures: [WireSignature; 1],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireSignature {
    sig: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn good() -> Value {
        let material = Material::Key { hint: Some("ab".to_owned()) };
        serde_json::from_slice(&SignatureFile::write(b"payload", b"signature", &material)).unwrap()
    }

    fn read(change: impl FnOnce(&mut Value)) -> Result<SignatureFile, SealingError> {
        let mut value = good();
        change(&mut value);
        SignatureFile::read(format!("{value:#}").as_bytes())
    }

    #[test]
    fn every_spelling_of_the_reference_client_is_read() {
        let hint = |change: &dyn Fn(&mut Value)| match read(|value| change(value)).unwrap().material {
            Material::Key { hint } => hint,
            Material::Certificates(_) => panic!("a key was written"),
        };
        assert_eq!(hint(&|_| {}).as_deref(), Some("ab"));
        for key in
            [json!({}), json!({"hint": null}), json!({"hint": ""}), json!({"rawBytes": "AA==", "keyDetails": "X"})]
        {
            assert_eq!(hint(&|value| value["verificationMaterial"]["publicKey"] = key.clone()), None);
        }
        for keyid in [json!(""), json!(null), json!("a name")] {
            assert!(read(|value| value["dsseEnvelope"]["signatures"][0]["keyid"] = keyid).is_ok());
        }
        let without = |pointer: &str, member: &str| {
            read(|value| {
                value.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(member).unwrap();
            })
        };
        assert!(without("/verificationMaterial", "tlogEntries").is_ok());
        assert!(without("/dsseEnvelope/signatures/0", "keyid").is_ok());
    }

    #[test]
    fn c10_a_signature_that_was_stripped_is_refused() {
        for (pointer, member) in [
            ("", "dsseEnvelope"),
            ("", "verificationMaterial"),
            ("/verificationMaterial", "publicKey"),
            ("/dsseEnvelope", "signatures"),
            ("/dsseEnvelope/signatures/0", "sig"),
        ] {
            let refused = read(|value| {
                value.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(member).unwrap();
            });
            let refused = refused.unwrap_err();
            assert_eq!(refused.exit_code(), 10, "{member}: {refused}");
        }
        let two = json!([{"sig": "AA=="}, {"sig": "AA=="}]);
        for signatures in [json!([]), json!(null), two] {
            let refused = read(|value| value["dsseEnvelope"]["signatures"] = signatures).unwrap_err();
            assert!(matches!(refused, SealingError::Bundle(_)), "{refused}");
        }
    }

    #[test]
    fn c13_another_payload_type_and_the_method_that_is_not_supported_are_named() {
        let refused = read(|value| value["dsseEnvelope"]["payloadType"] = json!("application/json")).unwrap_err();
        assert!(matches!(refused, SealingError::Oms(OmsError::OtherStatement { field: "payloadType", .. })));
        let refused = read(|value| value["mediaType"] = json!("application/json")).unwrap_err();
        assert!(matches!(refused, SealingError::Oms(OmsError::OtherStatement { field: "mediaType", .. })));
        let keyless = json!({"certificate": {"rawBytes": "AA=="}, "tlogEntries": [{}]});
        let refused = read(|value| value["verificationMaterial"] = keyless).unwrap_err();
        assert!(matches!(refused, SealingError::Oms(OmsError::SigstoreMethod)));
        let both = json!({"publicKey": {}, "x509CertificateChain": {"certificates": []}});
        let refused = read(|value| value["verificationMaterial"] = both).unwrap_err();
        assert!(matches!(refused, SealingError::Oms(OmsError::Malformed { .. })));
    }

    #[test]
    fn c09_what_two_parsers_could_read_differently_is_refused() {
        let text = good().to_string();
        let twice = text.replacen('{', r#"{"mediaType":"x","#, 1);
        let surrogate = text.replacen(r#""hint":"ab""#, r#""hint":"\ud800""#, 1);
        for bad in [twice, surrogate, format!("\u{feff}{text}"), format!("{text}{{}}"), format!("{text} x")] {
            let refused = SignatureFile::read(bad.as_bytes()).unwrap_err();
            assert!(matches!(refused, SealingError::Bundle(_)), "{refused}");
            assert_eq!(refused.exit_code(), 10);
        }
        // Members that nobody knows are refused as the reference client refuses them.
        let unknown = read(|value| value["messageSignature"] = json!({})).unwrap_err();
        assert!(matches!(unknown, SealingError::Bundle(_)));
    }
}
