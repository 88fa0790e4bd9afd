//! `/v1/metadata`: what runs here, by digest: the answer that an auditor keeps and compares.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::METADATA;
use crate::catalogue::Case;
use crate::site::Site;
use crate::target::Target;

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-META-01", "The metadata name runtime, bundle, signers and configuration by digest", digests),
    Case::served("AMP-META-02", "The metadata say that nothing leaves: `egress` is `none`", no_egress),
    Case::installed("AMP-META-03", "The metadata's digests are those of `verify` and `config check`", same_digests),
];

fn digests(target: &Target) -> anyhow::Result<()> {
    let body = target.get(METADATA)?.json(200)?;
    for name in ["/bundle/digest", "/bundle/trust_root", "/config_digest"] {
        let digest = text(&body, name)?;
        let hex = digest.strip_prefix("sha256:").with_context(|| format!("{name} is {digest}"))?;
        ensure!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()), "{name} is {digest}");
    }
    for name in
        ["/runtime/name", "/runtime/version", "/bundle/name", "/bundle/version", "/bundle/issued_at", "/model/id"]
    {
        ensure!(!text(&body, name)?.is_empty(), "{name} is empty");
    }
    let signers = body["bundle"]["signers"].as_array().context("`bundle.signers` is no array")?;
    let is_key_id = |signer: &Value| signer.as_str().is_some_and(|signer| signer.len() == 64);
    ensure!(!signers.is_empty() && signers.iter().all(is_key_id), "the signers are {signers:?}");
    ensure!(body["bundle"]["counter"].is_u64() && body["bundle"]["epoch"].is_u64(), "the bundle has no counter");
    Ok(())
}

fn no_egress(target: &Target) -> anyhow::Result<()> {
    let body = target.get(METADATA)?.json(200)?;
    ensure!(body["egress"] == "none", "`egress` is {}", body["egress"]);
    Ok(())
}

fn same_digests(site: &Site) -> anyhow::Result<()> {
    let server = site.serve(&[])?;
    let address = server.target().url();
    let address = address.trim_start_matches("http://");
    let served = server.target().get(METADATA)?.json(200)?;
    let (bundle, root) = (site.bundle().display().to_string(), site.root().display().to_string());
    let verified = site.run(&["verify", &bundle, "--trust-root", &root, "--json"])?.json()?;
    ensure!(
        verified["bundle"]["digest"] == served["bundle"]["digest"],
        "`verify` says {}, the server {}",
        verified["bundle"]["digest"],
        served["bundle"]["digest"]
    );
    ensure!(verified["bundle"]["signers"] == served["bundle"]["signers"], "`verify` and the server name other signers");
    let flags = site.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--listen", address]).collect();
    let checked = site.run(&[&["config", "check"], &flags[..]].concat())?;
    checked.requires(0, &[])?;
    let digest = text(&served, "/config_digest")?;
    ensure!(checked.stdout.contains(digest), "`config check` does not say {digest}: {}", checked.stdout);
    Ok(())
}

fn text<'a>(body: &'a Value, pointer: &str) -> anyhow::Result<&'a str> {
    body.pointer(pointer).and_then(Value::as_str).with_context(|| format!("the metadata have no {pointer}: {body}"))
}
