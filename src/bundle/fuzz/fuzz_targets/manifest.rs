//! Bytes that claim to be a model manifest or a model config, both canonical JSON.
//!
//! What is accepted is its own canonical form: it is written again as the same bytes.

#![no_main]

use ampoule_bundle::{Manifest, ModelConfig, json};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes.to_vec()) {
        assert_eq!(manifest.bytes(), bytes);
        let names: std::collections::BTreeSet<String> =
            manifest.layers().iter().map(|layer| layer.path.as_str().to_ascii_lowercase()).collect();
        assert_eq!(names.len(), manifest.layers().len(), "two paths are one on some file system");
        assert!(names.iter().all(|name| !name.starts_with('/') && !name.split('/').any(|part| part == "..")));
    }
    if let Ok(config) = ModelConfig::parse(bytes) {
        assert_eq!(config.to_bytes(), bytes);
    }
    // The strict reader accepts nothing that the general one refuses, and reads the same value.
    if let Ok(strict) = json::parse_value("input", bytes) {
        let general: serde_json::Value = serde_json::from_slice(bytes).expect("strict JSON is JSON");
        assert_eq!(strict, general);
    }
});
