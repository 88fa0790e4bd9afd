//! Who gets in: nobody without a key, on any path that exists or not, and all failures look the same (C42).

use anyhow::ensure;

use super::MODELS;
use crate::catalogue::Case;
use crate::site::Site;
use crate::target::Target;

pub(super) const CASES: &[Case] = &[
    Case::served(
        "AMP-AUTH-01",
        "No path but the two probes and the page at / answers without a key, whatever the method",
        deny_by_default,
    ),
    Case::served("AMP-AUTH-02", "Every failure of authentication is the same 401 (C42)", same_failure),
    Case::served("AMP-AUTH-03", "A key is taken from `Authorization: Bearer` and from `x-api-key`", either_header),
    Case::installed("AMP-AUTH-04", "A revoked key is refused after a restart, others are not", revoked),
    Case::installed("AMP-AUTH-05", "The key file holds no key, and only its owner may read it", key_file),
];

/// Paths that exist, that might, and that look like the public ones.
const PATHS: [&str; 22] = [
    "/index.html",
    "/livez/",
    "/livez/x",
    "/Livez",
    "//livez",
    "/%6civez",
    "/livez/../v1/models",
    "/readyz/..",
    "/v1",
    "/v1/models",
    "/v1/models/x",
    "/v1/metadata",
    "/v1/health/live",
    "/v1/health/ready",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/admin",
    "/v1/load_lora_adapter",
];

fn deny_by_default(target: &Target) -> anyhow::Result<()> {
    for path in PATHS {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let reply = target.send_head(method, path, &[])?;
            ensure!(reply.status == 401, "{method} {path} without a key is answered {}", reply.status);
        }
    }
    for path in ["/", "/livez", "/readyz"] {
        let reply = target.send_head("POST", path, &[])?;
        ensure!(reply.status == 401, "POST {path} without a key is answered {}", reply.status);
    }
    Ok(())
}

fn same_failure(target: &Target) -> anyhow::Result<()> {
    let key = target.key()?;
    let shorter = key.get(..key.len().saturating_sub(1)).unwrap_or_default();
    let attempts: [Vec<String>; 11] = [
        vec![],
        vec!["authorization: Bearer".to_owned()],
        vec!["authorization: Bearer wrong".to_owned()],
        vec![format!("authorization: {key}")],
        vec![format!("authorization: Basic {key}")],
        vec![format!("authorization: Bearer {shorter}")],
        vec![format!("authorization: Bearer {key}x")],
        vec![format!("authorization: Bearer {}", key.to_uppercase())],
        vec![format!("authorization: Bearer {key}"), format!("authorization: Bearer {key}")],
        vec!["x-api-key: wrong".to_owned()],
        vec![format!("x-api-key: {key}"), "x-api-key: wrong".to_owned()],
    ];
    let mut first = None;
    for attempt in &attempts {
        let reply = target.send_head("GET", MODELS, attempt)?;
        // The lines themselves stay out of the message: they hold the key.
        ensure!(reply.status == 401, "an attempt of {} header lines is answered {}", attempt.len(), reply.status);
        let body = first.get_or_insert_with(|| reply.body.clone());
        ensure!(*body == reply.body, "failures can be told apart: {}", reply.text());
    }
    Ok(())
}

fn either_header(target: &Target) -> anyhow::Result<()> {
    let key = target.key()?;
    for line in
        [format!("authorization: Bearer {key}"), format!("authorization: bearer {key}"), format!("x-api-key: {key}")]
    {
        let reply = target.send_head("GET", MODELS, std::slice::from_ref(&line))?;
        let (header, _) = line.split_once(':').unwrap_or_default();
        ensure!(reply.status == 200, "the key in `{header}` is answered {}", reply.status);
        // Without the control a server that lets everybody in would pass.
        let wrong = target.send_head("GET", MODELS, &[line.replace(key, "amp-wrong")])?;
        ensure!(wrong.status == 401, "a wrong key in `{header}` is answered {}", wrong.status);
    }
    Ok(())
}

fn revoked(site: &Site) -> anyhow::Result<()> {
    let file = site.folder().join("revocation.jsonl");
    let kept = site.add_key(&file, "kept")?;
    let lost = site.add_key(&file, "lost")?;
    let path = file.display().to_string();
    let flags = site.flags_for(site.bundle(), site.root(), &file);
    let arguments: Vec<&str> = ["serve"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let server = site.serve_for_key(site.command(&arguments), None, &lost)?;
    ensure!(server.target().get(MODELS)?.status == 200, "a key that was added is refused");
    drop(server);
    site.run(&["keys", "revoke", "lost", "--keys-file", &path])?.requires(0, &[])?;
    let server = site.serve_for_key(site.command(&arguments), None, &lost)?;
    server.target().get(MODELS)?.error(401)?.coded("invalid_api_key")?;
    let reply = server.target().send("GET", MODELS, &[("x-api-key", &kept)], None)?;
    ensure!(reply.status == 200, "the other key is answered {}", reply.status);
    Ok(())
}

fn key_file(site: &Site) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let text = std::fs::read_to_string(site.keys())?;
    let secret = site.key().trim_start_matches("amp-");
    ensure!(!secret.is_empty() && !text.contains(secret), "the key file holds the key");
    let mode = std::fs::metadata(site.keys())?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the key file has mode {mode:o}");
    let listed = site.run(&["keys", "list", "--keys-file", &site.keys().display().to_string()])?;
    listed.requires(0, &[])?;
    ensure!(
        listed.stdout.contains("conformance") && !listed.stdout.contains(secret),
        "`keys list` says {}",
        listed.stdout
    );
    Ok(())
}
