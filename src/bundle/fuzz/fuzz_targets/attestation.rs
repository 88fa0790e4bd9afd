//! Bytes that claim to be a Sigstore bundle with a DSSE envelope, and the statement inside.
//!
//! What is accepted is canonical: the attestation made of the same payload, signature and key has the same bytes.

#![no_main]

use ampoule_bundle::{Attestation, CosignStatement, OmsStatement, ReleaseStatement, Statement};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    statements(bytes);
    if let Ok(attestation) = Attestation::parse("input", bytes.to_vec()) {
        assert_eq!(attestation.bytes(), bytes);
        statements(attestation.payload());
    }
});

fn statements(payload: &[u8]) {
    if let Ok(statement) = Statement::<ReleaseStatement>::parse(payload) {
        assert_eq!(statement.to_payload(), payload);
    }
    if let Ok(statement) = Statement::<OmsStatement>::parse(payload) {
        assert_eq!(statement.to_payload(), payload);
    }
    if let Ok(statement) = Statement::<CosignStatement>::parse(payload) {
        assert_eq!(statement.to_payload(), payload);
    }
}
