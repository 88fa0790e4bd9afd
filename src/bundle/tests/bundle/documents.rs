//! FORMAT.md and the JSON Schemas say what the code does.

use std::collections::BTreeSet;
use std::process::Command;

use ampoule_bundle::statement::{
    Accelerator, AdapterBinding, Encryption, Endpoint, KnownAnswer, KnownAnswers, KnownStep, ServiceLevel, TopLogit,
};
use ampoule_bundle::trust::{
    DowngradeDocument, DowngradePart, MinimumCounter, RevocationDocument, RevocationPart, RootKey,
};
use ampoule_bundle::{
    Authority, Capabilities, Counter, Curve, Digest, Epoch, LayerKind, ModelConfig, ModelDescriptor, ModelProperties,
    ReleaseStatement, Role, RootDocument, Statement, limits,
};
use serde_json::Value;

use crate::round_trip::run;
use crate::sample::{Draft, Signer, draft, file, time};

const FORMAT: &str = include_str!("../../../../bundles/FORMAT.md");

#[test]
fn every_numbered_step_is_a_function_and_every_function_a_step() {
    let sources = [
        include_str!("../../src/sealed.rs"),
        include_str!("../../src/archive/read.rs"),
        include_str!("../../src/verify.rs"),
        include_str!("../../src/unlock.rs"),
    ]
    .concat();
    let steps: BTreeSet<&str> = FORMAT.split('`').filter(|word| word.starts_with("step_")).collect();
    let functions: BTreeSet<&str> = sources
        .split("fn ")
        .filter(|rest| rest.starts_with("step_"))
        .map(|rest| rest.split(['(', '<']).next().unwrap())
        .collect();
    assert_eq!(steps, functions);
    assert_eq!(steps.len(), 20);
}

#[test]
fn the_limits_are_those_of_the_page() {
    for text in [
        format!("depth {}", limits::MAX_JSON_DEPTH),
        format!("| layers | {} |", limits::MAX_LAYERS),
        format!("| path | {} bytes |", limits::MAX_PATH_BYTES),
        format!(
            "{} MiB; {} MiB; {} |",
            limits::MAX_ATTESTATION_BYTES >> 20,
            limits::MAX_ATTESTATIONS_TOTAL_BYTES >> 20,
            limits::MAX_ATTESTATIONS
        ),
        format!("| model manifest, model config | {} MiB each |", limits::MAX_MANIFEST_BYTES >> 20),
        format!("{} MiB; {} MiB |", limits::MAX_SMALL_LAYER_BYTES >> 20, limits::MAX_SMALL_LAYERS_TOTAL_BYTES >> 20),
        format!("| GGUF header | {} MiB;", limits::MAX_GGUF_HEADER_BYTES >> 20),
        format!("| safetensors header | {} MiB of JSON;", limits::MAX_SAFETENSORS_HEADER_BYTES >> 20),
        format!("| all weight headers together | {} MiB |", limits::MAX_WEIGHT_HEADERS_TOTAL_BYTES >> 20),
    ] {
        assert!(FORMAT.contains(&text), "FORMAT.md lacks `{text}`");
    }
}

#[test]
fn a_stranger_s_reader_agrees() {
    const TEST: &str = "a_stranger_s_reader_agrees";
    let (first, second) = (Signer::new(Curve::P256), Signer::new(Curve::P384));
    let mut more = draft();
    more.files.push(file("special_tokens_map.json", LayerKind::Config, b"{}"));
    more.files.push(file("1_Pooling/config.json", LayerKind::Config, b"{}"));
    more.files.push(file("page", LayerKind::Doc, &[b'x'; 4096]));
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("stranger.py");
    std::fs::write(&script, include_str!("stranger.py")).unwrap();
    for (name, bytes) in
        [("plain", draft().seal(&[&first])), ("more", more.seal(&[&first, &second])), ("bare", draft().write(&[]))]
    {
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        let Some(output) = run(TEST, Command::new("python3").arg(&script).arg(&path)) else { return };
        assert_eq!(output, "canonical\n", "{name}");
    }
}

/// A release statement in which every optional member is there.
fn full_release() -> ReleaseStatement {
    let Draft { mut release, .. } = draft();
    let digest = Digest::of(b"");
    release.not_before = Some(time("2026-01-01T00:00:00Z"));
    release.weights = draft().release_statement().predicate.weights;
    release.requires.accelerator = Some(Accelerator::Cuda);
    release.constraints.max_context_length = Some(1);
    release.constraints.max_output_tokens = Some(1);
    release.constraints.endpoints = Some(ALL_ENDPOINTS.into());
    release.settings_schema = Some("settings.json".parse().unwrap());
    release.slo = Some(ServiceLevel {
        time_to_first_token_p95_milliseconds: Some(1),
        inter_token_p95_milliseconds: Some(1),
        availability_millionths: Some(1),
    });
    let step = KnownStep { top: vec![TopLogit { token: 1, logit_millionths: -5 }], token: 1 };
    release.known_answers = Some(KnownAnswers {
        tolerance_millionths: [("cpu".to_owned(), 100)].into(),
        answers: vec![
            KnownAnswer::Generation { prompt: vec![1], steps: vec![step] },
            KnownAnswer::Embedding { input: vec![1], components_millionths: vec![-1] },
        ],
    });
    release.reference_profile = Some("profile.json".parse().unwrap());
    release.adapter = Some(AdapterBinding { base: digest, tokenizer: digest, chat_template: Some(digest) });
    let recipients = ["age1…".to_owned()].into();
    release.encryption = Some(Encryption { scheme: Encryption::AGE.to_owned(), recipients, plaintext_root: digest });
    release
}

const ALL_ENDPOINTS: [Endpoint; 7] = [
    Endpoint::ChatCompletions,
    Endpoint::Completions,
    Endpoint::Embeddings,
    Endpoint::Messages,
    Endpoint::Rerank,
    Endpoint::Responses,
    Endpoint::OpenInference,
];

#[test]
fn the_schema_of_the_release_statement_has_exactly_its_members() {
    let schema = include_str!("../../../../bundles/schemas/release-statement.schema.json");
    let full = full_release();
    let payload = full.clone().about(Digest::of(b"")).to_payload();
    assert_eq!(Statement::<ReleaseStatement>::parse(&payload).unwrap().predicate, full);
    check_schema(schema, &serde_json::to_value(&full).unwrap(), Coverage::EveryProperty);
    check_schema(schema, &serde_json::to_value(draft().release_statement().predicate).unwrap(), Coverage::Some);
    for endpoint in ALL_ENDPOINTS {
        assert_eq!(serde_json::to_value(endpoint).unwrap(), endpoint.path());
        assert!(FORMAT.contains(&format!("`{}`", endpoint.path())));
    }
    let paths = ALL_ENDPOINTS.map(Endpoint::path);
    assert!(paths.is_sorted(), "a set of endpoints must be sorted by path");
}

#[test]
fn the_schema_of_the_config_has_exactly_its_members() {
    let schema = include_str!("../../../../bundles/schemas/config.schema.json");
    let some = || Some("x".to_owned());
    let many = || vec!["x".to_owned()];
    let descriptor = ModelDescriptor {
        name: "sample".parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        created_at: Some(time("2026-01-01T00:00:00Z")),
        authors: many(),
        family: some(),
        doc_url: some(),
        source_url: some(),
        datasets_url: many(),
        revision: some(),
        vendor: some(),
        licenses: many(),
        title: some(),
        description: some(),
    };
    let capabilities = Capabilities {
        input_types: many(),
        output_types: many(),
        knowledge_cutoff: Some(time("2026-01-01T00:00:00Z")),
        reasoning: Some(true),
        tool_usage: Some(true),
        reward: Some(false),
        languages: many(),
    };
    let properties = ModelProperties {
        architecture: some(),
        format: some(),
        param_size: some(),
        precision: some(),
        quantization: some(),
        capabilities: Some(capabilities),
    };
    let full = ModelConfig::new(descriptor, properties, &draft().layers());
    assert_eq!(ModelConfig::parse(&full.to_bytes()).unwrap(), full);
    check_schema(schema, &serde_json::to_value(&full).unwrap(), Coverage::EveryProperty);
    check_schema(schema, &serde_json::from_slice(&draft().config()).unwrap(), Coverage::Some);
}

#[test]
fn the_schema_of_the_root_has_exactly_its_members() {
    let schema = include_str!("../../../../bundles/schemas/root.schema.json");
    let key = Signer::new(Curve::P256).public;
    let keys = std::slice::from_ref(&key);
    let roles = [Role::Root, Role::Release, Role::Site, Role::Revoke].map(|role| (role, keys, 1));
    let mut full = RootDocument::new(1, time("2036-01-01T00:00:00Z"), &roles);
    let issuer = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&rcgen::KeyPair::generate().unwrap());
    let pem = issuer.unwrap().pem().replace("\r\n", "\n");
    let authority = Authority::new(&pem, Some("alice@vendor.example")).unwrap();
    full.signed.keys.insert(authority.id(), RootKey::of_authority(&pem, Some("alice@vendor.example")));
    (full.signed.minimum_epoch, full.signed.maximum_epoch) = (Some(Epoch(1)), Some(Epoch(2)));
    full.add_signature(key.id(), b"signature");
    check_schema(schema, &serde_json::to_value(&full).unwrap(), Coverage::EveryProperty);
}

#[test]
fn the_schema_of_the_revocation_list_has_exactly_its_members() {
    let schema = include_str!("../../../../bundles/schemas/revocations.schema.json");
    let key = Signer::new(Curve::P256).id();
    let mut full = RevocationPart::new(1, time("2026-01-01T00:00:00Z"));
    full.keys.insert(key);
    full.manifests.insert(Digest::of(b"manifest"));
    full.minimum_counters.insert("sample".parse().unwrap(), MinimumCounter { epoch: Epoch(1), counter: Counter(2) });
    full.minimum_runtime = Some("0.1.0".parse().unwrap());
    let mut full = RevocationDocument::unsigned(full);
    full.add_signature(key, b"signature");
    check_schema(schema, &serde_json::to_value(&full).unwrap(), Coverage::EveryProperty);
}

#[test]
fn the_schema_of_the_downgrade_token_has_exactly_its_members() {
    let schema = include_str!("../../../../bundles/schemas/downgrade.schema.json");
    let expires = time("2026-01-01T00:00:00Z");
    let part = DowngradePart::new("sample".parse().unwrap(), Epoch(1), Counter(2), Digest::of(b"manifest"), expires);
    let mut full = DowngradeDocument::unsigned(part);
    full.add_signature(Signer::new(Curve::P256).id(), b"signature");
    check_schema(schema, &serde_json::to_value(&full).unwrap(), Coverage::EveryProperty);
}

/// Whether the value must have every property that the schema knows.
#[derive(Clone, Copy, PartialEq)]
enum Coverage {
    EveryProperty,
    Some,
}

fn check_schema(schema: &str, value: &Value, coverage: Coverage) {
    let root: Value = serde_json::from_str(schema).unwrap();
    check_against(&root, &root, value, coverage, "$");
}

/// The part of JSON Schema that ours use, as far as names go: members, required ones, choices and references.
fn check_against(root: &Value, schema: &Value, value: &Value, coverage: Coverage, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.strip_prefix('#').unwrap()).expect(reference);
        return check_against(root, target, value, coverage, place);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let name = value.as_object().unwrap().keys().next().unwrap();
        let fits = |choice: &&Value| choice["$ref"].as_str().unwrap().ends_with(name.as_str());
        return check_against(root, choices.iter().find(fits).expect(name), value, coverage, place);
    }
    if let Some(choices) = schema["enum"].as_array() {
        assert!(choices.contains(value), "{place}: {value}");
    }
    if let Some(items) = value.as_array() {
        for item in items {
            check_against(root, &schema["items"], item, coverage, &format!("{place}[]"));
        }
    }
    let Some(members) = value.as_object() else { return };
    let known = schema["properties"].as_object();
    for (name, member) in members {
        let place = format!("{place}.{name}");
        let free = schema.get("additionalProperties").filter(|free| free.is_object());
        let member_schema = known.and_then(|known| known.get(name)).or(free);
        check_against(
            root,
            member_schema.unwrap_or_else(|| panic!("{place} is not in the schema")),
            member,
            coverage,
            &place,
        );
    }
    for name in known.into_iter().flat_map(|known| known.keys()) {
        let required = schema["required"].as_array().is_some_and(|required| required.iter().any(|entry| entry == name));
        let wanted = required || coverage == Coverage::EveryProperty;
        assert!(!wanted || members.contains_key(name), "{place}.{name} is in the schema and not in the value");
    }
}
