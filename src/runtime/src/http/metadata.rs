//! `GET /v1/metadata`: what is running here, by digest: the answer that an auditor keeps.

use ampoule_inference::ModelKind;
use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::state::Appliance;
use crate::report;

pub(crate) async fn metadata(State(appliance): State<Appliance>) -> Json<Metadata> {
    let served = appliance.served();
    let bundle = &served.bundle;
    let profile = appliance.engine().profile();
    Json(Metadata {
        object: "metadata",
        runtime: Runtime { name: "ampoule", version: env!("CARGO_PKG_VERSION") },
        bundle: Bundle {
            name: bundle.name.to_string(),
            version: bundle.version.to_string(),
            channel: bundle.channel.to_string(),
            counter: bundle.counter.0,
            epoch: bundle.epoch.0,
            digest: bundle.manifest.to_string(),
            signers: bundle.signers.iter().map(ToString::to_string).collect(),
            trust_root: bundle.root_digest.to_string(),
            trust_root_version: bundle.root_version,
            revocation_list_version: report::revocation_version(bundle),
            issued_at: bundle.issued_at.to_string(),
            expires: bundle.expires.as_ref().map(ToString::to_string),
            reverted_from: served.reverted_from.clone(),
        },
        model: Model {
            id: served.name.clone(),
            kind: match profile.kind {
                ModelKind::Generator => "generator",
                ModelKind::Encoder => "encoder",
            },
            architecture: profile.architecture.clone(),
            parameters: profile.parameters,
            quantisation: profile.quantisation.clone(),
            context_length: appliance.engine().context_limit(),
            vocabulary_size: profile.vocabulary_size,
            embedding_dimension: profile.embedding_dimension,
            instructions: appliance.engine().instructions(),
        },
        adapters: appliance
            .engine()
            .adapters()
            .values()
            .map(|adapter| Adapter {
                name: adapter.identity.name.to_string(),
                version: adapter.identity.version.to_string(),
                counter: adapter.identity.counter.0,
                digest: adapter.identity.manifest.to_string(),
                signers: adapter.identity.signers.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        config_digest: served.config_digest.to_string(),
        rollback_protection: served.rollback_protection,
        system_fingerprint: appliance.fingerprint().to_owned(),
        // No part of the runtime opens an outbound connection; a configured trace collector will change this word.
        egress: "none",
        sandbox: Sandbox {
            required: appliance.sandbox().required,
            layers: appliance
                .sandbox()
                .layers
                .iter()
                .map(|layer| SandboxLayer {
                    layer: layer.name.as_str(),
                    applied: layer.state.is_applied(),
                    detail: layer.state.to_string(),
                })
                .collect(),
        },
    })
}

#[derive(Debug, Serialize)]
pub(crate) struct Metadata {
    object: &'static str,
    runtime: Runtime,
    bundle: Bundle,
    model: Model,
    adapters: Vec<Adapter>,
    config_digest: String,
    rollback_protection: &'static str,
    system_fingerprint: String,
    egress: &'static str,
    sandbox: Sandbox,
}

#[derive(Debug, Serialize)]
struct Sandbox {
    required: bool,
    layers: Vec<SandboxLayer>,
}

#[derive(Debug, Serialize)]
struct SandboxLayer {
    layer: &'static str,
    applied: bool,
    detail: String,
}

#[derive(Debug, Serialize)]
struct Runtime {
    name: &'static str,
    version: &'static str,
}

#[derive(Debug, Serialize)]
struct Bundle {
    name: String,
    version: String,
    channel: String,
    counter: u64,
    epoch: u32,
    digest: String,
    signers: Vec<String>,
    trust_root: String,
    trust_root_version: u64,
    revocation_list_version: Option<u64>,
    issued_at: String,
    expires: Option<String>,
    /// What was activated and did not become ready.
    reverted_from: Option<String>,
}

#[derive(Debug, Serialize)]
struct Adapter {
    name: String,
    version: String,
    counter: u64,
    digest: String,
    signers: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Model {
    id: String,
    kind: &'static str,
    architecture: String,
    parameters: u64,
    quantisation: String,
    context_length: usize,
    vocabulary_size: usize,
    embedding_dimension: Option<usize>,
    /// The vector instructions that compute.
    instructions: &'static str,
}
