//! The same request with the same seed has the same answer, to the last bit of its probabilities: alone, in company,
//! after a restart, and on another number of threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::ensure;
use serde_json::{Value, json};

use super::{CHAT, EMBEDDINGS, with};
use crate::catalogue::Case;
use crate::site::Site;
use crate::target::{Kind, Target};

pub(super) const CASES: &[Case] = &[
    Case::served("AMP-DET-01", "The same seed gives the same tokens and probabilities", same_seed),
    Case::served("AMP-DET-02", "The same seed gives the same tokens beside other requests", in_company),
    Case::served("AMP-DET-03", "Different seeds give different answers", other_seeds),
    Case::installed(
        "AMP-DET-04",
        "The same seed gives the same tokens after a restart, on one thread too",
        after_restart,
    ),
];

/// How many requests run beside the one that is compared.
const COMPANY: usize = 4;

/// How often an answer is compared.
const REPEATS: usize = 3;

fn same_seed(target: &Target) -> anyhow::Result<()> {
    let first = answer(target)?;
    for _ in 0..REPEATS {
        let again = answer(target)?;
        ensure!(again == first, "one request was answered {first}, then {again}");
    }
    Ok(())
}

fn in_company(target: &Target) -> anyhow::Result<()> {
    let alone = answer(target)?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let company: Vec<_> = (0..COMPANY)
            .map(|number| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let (path, request) = other_request(target, number)?;
                    let mut answered = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        // Overload is an answer too: it means that others are being worked on.
                        let status = target.post(path, &request)?.status;
                        ensure!(status == 200 || status == 429, "a request of the company is answered {status}");
                        answered += usize::from(status == 200);
                    }
                    Ok(answered)
                })
            })
            .collect();
        let compared = (0..REPEATS).try_for_each(|_| {
            let beside = answer(target)?;
            ensure!(beside == alone, "alone {alone}, in company {beside}");
            Ok(())
        });
        is_over.store(true, Ordering::Relaxed);
        let answered: Vec<anyhow::Result<usize>> = company
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panicked"))))
            .collect();
        compared?;
        let answered = answered.into_iter().sum::<anyhow::Result<usize>>()?;
        ensure!(answered > 0, "the company was never served, so nothing was compared in company");
        Ok(())
    })
}

fn other_seeds(target: &Target) -> anyhow::Result<()> {
    let facts = target.generator()?;
    let ask = |seed: u64| -> anyhow::Result<Value> {
        let fields = json!({ "seed": seed, "temperature": 1.5 });
        let body = target.post(CHAT, &with(facts.chat("tell me something", 16), fields))?.json(200)?;
        Ok(body["choices"][0]["message"]["content"].clone())
    };
    let first = ask(0)?;
    for seed in 1..8 {
        if ask(seed)? != first {
            return Ok(());
        }
    }
    anyhow::bail!("eight seeds gave one answer: {first}")
}

fn after_restart(site: &Site) -> anyhow::Result<()> {
    let server = site.serve(&[])?;
    let before = answer(server.target())?;
    drop(server);
    let flags = site.flags();
    let arguments: Vec<&str> = ["serve"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let settings = ["--set", "limits.running_requests=1", "--set", "inference.threads=1"];
    let command = site.command(&[&arguments[..], &settings].concat());
    let server = site.serve_command(command, None)?;
    let after = answer(server.target())?;
    ensure!(after == before, "before {before}, after {after}");
    Ok(())
}

/// What one of the company asks.
fn other_request(target: &Target, number: usize) -> anyhow::Result<(&'static str, Value)> {
    let facts = target.facts()?;
    let text = format!("something else, number {number}");
    Ok(match facts.kind {
        Kind::Encoder => (EMBEDDINGS, json!({ "model": facts.model, "input": text })),
        Kind::Generator => (CHAT, with(facts.chat(&text, 32), json!({ "seed": number, "temperature": 1.5 }))),
    })
}

/// What is compared: the choices with their log probabilities, or the vectors.
fn answer(target: &Target) -> anyhow::Result<Value> {
    let facts = target.facts()?;
    if facts.kind == Kind::Encoder {
        let request = json!({ "model": facts.model, "input": ["a text to compare", "and another"] });
        return Ok(target.post(EMBEDDINGS, &request)?.json(200)?["data"].clone());
    }
    let fields = json!({ "temperature": 1.2, "seed": 42, "logprobs": true, "top_logprobs": 4, "n": 2 });
    let body = target.post(CHAT, &with(facts.chat("tell me something", 24), fields))?.json(200)?;
    Ok(body["choices"].clone())
}
