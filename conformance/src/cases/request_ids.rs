//! The identifier by which a request is found again in the log, and the headers that every answer has.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};

use super::MODELS;
use crate::catalogue::Case;
use crate::reply::Reply;
use crate::target::Target;

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-RID-01", "A harmless x-request-id comes back, also with a refusal", harmless),
    Case::served("AMP-RID-02", "An id that could forge a log line is replaced (C46)", harmful),
    Case::served("AMP-RID-03", "Every answer has an id of its own, `nosniff` and a cache policy", every_answer),
];

fn harmless(target: &Target) -> anyhow::Result<()> {
    let longest = "x".repeat(128);
    for id in ["trace-1.A_z", "7", longest.as_str()] {
        let reply = target.send("GET", MODELS, &[("x-request-id", id)], None)?;
        ensure!(reply.status == 401, "a request without a key is answered {}", reply.status);
        ensure!(reply.header("x-request-id") == Some(id), "{id} came back as {:?}", reply.header("x-request-id"));
        let probe = target.send("GET", "/livez", &[("x-request-id", id)], None)?;
        ensure!(probe.header("x-request-id") == Some(id), "{id} came back as {:?}", probe.header("x-request-id"));
    }
    Ok(())
}

fn harmful(target: &Target) -> anyhow::Result<()> {
    let too_long = "x".repeat(129);
    for id in ["a b", "<script>", "{\"forged\":true}", "a;b", "a\u{202e}b", too_long.as_str()] {
        let reply = target.send_head("GET", "/livez", &[format!("x-request-id: {id}")])?;
        let given = id_of(&reply)?;
        ensure!(given != id && is_plain(&given), "{id:?} came back as {given:?}");
    }
    let twice = target.send_head("GET", "/livez", &["x-request-id: a".to_owned(), "x-request-id: b".to_owned()])?;
    ensure!(!["a", "b"].contains(&id_of(&twice)?.as_str()), "of two ids one was taken");
    Ok(())
}

fn every_answer(target: &Target) -> anyhow::Result<()> {
    let replies = [
        target.send("GET", "/livez", &[], None)?,
        target.send("GET", "/nowhere", &[], None)?,
        target.get(MODELS)?,
        target.get("/nowhere")?,
        target.post_bytes(super::CHAT, &[], b"x")?,
    ];
    let mut ids = BTreeSet::new();
    for reply in &replies {
        let id = id_of(reply)?;
        ensure!(is_plain(&id), "the id is {id:?}");
        ids.insert(id);
        ensure!(reply.header("x-content-type-options") == Some("nosniff"), "status {}: no `nosniff`", reply.status);
        ensure!(reply.header("cache-control").is_some(), "status {}: no cache-control", reply.status);
        ensure!(reply.header("access-control-allow-origin").is_none(), "other sites' scripts are let in");
    }
    ensure!(ids.len() == replies.len(), "two answers have the same id");
    Ok(())
}

fn id_of(reply: &Reply) -> anyhow::Result<String> {
    let id = reply.header("x-request-id");
    id.map(str::to_owned).with_context(|| format!("an answer of status {} has no x-request-id", reply.status))
}

fn is_plain(id: &str) -> bool {
    let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=128).contains(&id.len()) && id.bytes().all(is_harmless)
}
