//! What was verified, told once: as lines for a person, as JSON for a program, as one log line for the record.

use ampoule_bundle::{BundleIdentity, Examination, Fact, Finding, Verdict};
use serde_json::{Value as Json, json};

use crate::error::Error;

/// The lines that a person reads, each a label and its text.
pub fn lines(identity: &BundleIdentity) -> Vec<(&'static str, String)> {
    let numbers = format!("channel {}, counter {}, epoch {}", identity.channel, identity.counter, identity.epoch);
    let mut lines = vec![
        ("Bundle", format!("{} {} ({numbers})", identity.name, identity.version)),
        ("Kind", identity.kind.to_string()),
        ("Digest", identity.manifest.to_string()),
    ];
    lines.extend(identity.signers.iter().map(|signer| ("Signed by", format!("key {signer}"))));
    let expires = identity.expires.as_ref().map_or("never expires".to_owned(), |time| format!("expires {time}"));
    lines.push(("Issued", format!("{}, {expires}", identity.issued_at)));
    lines.push(("Trust root", format!("version {}, {}", identity.root_version, identity.root_digest)));
    lines.push(("Revoked", revocations(identity)));
    lines
}

/// The same for programs.
pub fn json(identity: &BundleIdentity) -> Json {
    json!({
        "name": identity.name.to_string(),
        "version": identity.version.to_string(),
        "kind": identity.kind.name(),
        "base": identity.kind.base().map(|base| base.to_string()),
        "channel": identity.channel.to_string(),
        "counter": identity.counter.0,
        "epoch": identity.epoch.0,
        "digest": identity.manifest.to_string(),
        "signers": identity.signers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "issued_at": identity.issued_at.to_string(),
        "expires": identity.expires.as_ref().map(ToString::to_string),
        "trust_root": identity.root_digest.to_string(),
        "trust_root_version": identity.root_version,
        "revocation_list_version": revocation_version(identity),
    })
}

/// The version of the revocation list, if there is one.
pub fn revocation_version(identity: &BundleIdentity) -> Option<u64> {
    (identity.revocation_version > 0).then_some(identity.revocation_version)
}

fn revocations(identity: &BundleIdentity) -> String {
    let version = revocation_version(identity);
    version.map_or("nothing: no revocation list".to_owned(), |version| format!("as list version {version} says"))
}

/// One log line.
pub fn log(identity: &BundleIdentity) {
    let signers: Vec<String> = identity.signers.iter().map(ToString::to_string).collect();
    tracing::info!(
        name = %identity.name,
        version = %identity.version,
        counter = identity.counter.0,
        epoch = identity.epoch.0,
        digest = %identity.manifest,
        signers = signers.join(","),
        trust_root = %identity.root_digest,
        trust_root_version = identity.root_version,
        revocation_list_version = revocation_version(identity),
        "the signatures of the bundle hold; each weight is held against its digest while it is loaded"
    );
}

/// What came of each rule, a line each, for a person.
pub fn rule_lines(examination: &Examination) -> impl Iterator<Item = String> + '_ {
    examination.findings().iter().map(|Finding { rule, verdict, found, required }| {
        format!("{verdict:8} {:24} found {found}; required {required}", rule.name())
    })
}

/// The same for programs.
pub fn rules_json(examination: &Examination) -> Json {
    let side = |fact: &Fact| json!({ "text": fact.text, "from": fact.origin.to_string() });
    let rule = |Finding { rule, verdict, found, required }: &Finding| {
        json!({
            "rule": rule.name(),
            "verdict": verdict.to_string(),
            "found": side(found),
            "required": side(required),
            "remedy": (*verdict == Verdict::Broken).then(|| rule.remedy()),
        })
    };
    examination.findings().iter().map(rule).collect()
}

/// A refusal for programs.
pub fn refusal(error: &Error) -> Json {
    json!({
        "exit_code": error.exit().code(),
        "error_id": error.id(),
        "error": error.to_string(),
    })
}
