//! What is sealed can be used: a bundle that every runtime would refuse is never written.

use std::path::Path;

use ampoule_bundle::statement::AdapterBinding;
use ampoule_bundle::{BundleError, LayerKind, SealedBundle};
use ampoule_sealing::SealingError;
use ampoule_sealing::seal::{SealRequest, seal};

use crate::support::{gguf, request, root, safetensors, test_key, write_model};

/// Seals and says why not; a refusal leaves nothing behind.
fn refusal(request: &SealRequest, folder: &Path) -> SealingError {
    let out = folder.join("out.bundle");
    let refused = seal(request, test_key(), &out).expect_err("the sealing must be refused");
    assert!(!out.exists() && !folder.join("out.bundle.partial").exists(), "{refused}");
    refused
}

#[test]
fn the_files_that_a_contract_names_are_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    std::fs::create_dir(model.join("drift")).unwrap();
    std::fs::write(model.join("settings.schema.json"), b"{}").unwrap();
    std::fs::write(model.join("drift/profile.bin.json"), b"[]").unwrap();
    let mut request = request(&model);
    request.contract.settings_schema = Some("settings.schema.json".parse().unwrap());
    request.contract.reference_profile = Some("drift/profile.bin.json".parse().unwrap());
    let out = folder.path().join("out.bundle");
    let packed = seal(&request, test_key(), &out).unwrap();
    let kind = |path: &str| {
        packed.manifest().layers().iter().find(|layer| layer.path.as_str() == path).map(|layer| layer.kind)
    };
    assert_eq!(kind("settings.schema.json"), Some(LayerKind::Config));
    assert_eq!(kind("drift/profile.bin.json"), Some(LayerKind::Doc));
    assert!(packed.left_out().is_empty(), "{:?}", packed.left_out());
    SealedBundle::open(std::fs::read(&out).unwrap()).unwrap().verify(&root()).unwrap();
}

#[test]
fn a_file_that_a_contract_names_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    write_model(&model);
    std::fs::write(model.join("profile.py"), b"").unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, gguf("output.weight", &[1.0])).unwrap();
    let naming = |from: &Path, name: &str, leave_out: &[&str]| {
        let mut request = request(from);
        request.leave_out = leave_out.iter().map(|name| (*name).to_owned()).collect();
        request.contract.reference_profile = Some(name.parse().unwrap());
        refusal(&request, folder.path())
    };
    for (from, name, leave_out) in [
        (&model, "absent.json", &["profile.py"][..]),
        (&model, "profile.py", &["profile.py"]),
        (&model, "model.safetensors", &["profile.py"]),
        (&file, "profile.json", &[]),
    ] {
        let refused = naming(from, name, leave_out);
        assert!(matches!(refused, SealingError::ContractFileMissing { member: "referenceProfile", .. }), "{refused}");
        assert_eq!(refused.exit_code(), 78);
    }
    // A name in the contract does not make code harmless.
    assert!(matches!(naming(&model, "profile.py", &[]), SealingError::ExecutableFile { .. }));
}

#[test]
fn weights_that_no_runtime_would_load_are_not_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    // The header is good; the padding after the tensor, which only a pass over the weights sees, is not zero.
    let bytes = [gguf("output.weight", &[1.0]), vec![1; 28]].concat();
    std::fs::write(&file, bytes).unwrap();
    let refused = refusal(&request(&file), folder.path());
    let SealingError::UnusableBundle(source) = &refused else { panic!("{refused}") };
    assert!(matches!(**source, BundleError::WeightHeader { .. }), "{source}");
    assert_eq!(refused.exit_code(), 1);
}

#[test]
fn an_adapter_that_is_not_finite_is_not_sealed_and_a_model_is_no_adapter() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    write_model(&base);
    let bundle = folder.path().join("base.bundle");
    let base = seal(&request(&base), test_key(), &bundle).unwrap();

    let adapter = folder.path().join("adapter");
    std::fs::create_dir(&adapter).unwrap();
    std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    let mut request = request(&adapter);
    request.adapter = AdapterBinding::to(base.manifest());
    for (numbers, is_sealed) in [([1.0, f32::MAX], true), ([1.0, f32::NAN], false), ([f32::NEG_INFINITY, 0.0], false)] {
        let bytes = numbers.map(f32::to_le_bytes).concat();
        let file = safetensors(&[("q_proj.lora_A.weight", "F32", &[1, 2], &bytes)]);
        std::fs::write(adapter.join("adapter_model.safetensors"), file).unwrap();
        let out = folder.path().join("adapter.bundle");
        match seal(&request, test_key(), &out) {
            Ok(_) => assert!(is_sealed, "{numbers:?}"),
            Err(SealingError::NotFinite { tensor }) => {
                assert!(!is_sealed && tensor == "q_proj.lora_A.weight", "{numbers:?}");
            }
            Err(other) => panic!("{numbers:?}: {other}"),
        }
    }
}
