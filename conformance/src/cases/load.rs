//! More than the appliance can do at once: it says so at once, keeps what it promised, and recovers by itself.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure};
use serde_json::{Value, json};

use super::{CHAT, lasting, with};
use crate::catalogue::Case;
use crate::reply::Reply;
use crate::site::Site;
use crate::target::Target;

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-LOAD-01", "A full queue is 429 with Retry-After, and nobody waits in vain", full_queue),
    Case::installed("AMP-LOAD-02", "A client that leaves frees its place (C41)", leavers),
];

/// Many more than the places that the case leaves.
const CLIENTS: usize = 16;

/// How often they are sent until one is refused.
const ROUNDS: usize = 5;

fn full_queue(site: &Site) -> anyhow::Result<()> {
    let server = site.serve(&["--set", "limits.running_requests=1", "--set", "limits.queued_requests=1"])?;
    let target = server.target();
    let facts = target.generator()?;
    let tokens = (facts.context_length / 2).clamp(1, 400);
    let request = with(facts.chat("hello", tokens), lasting(target, facts)?);
    // On a busy machine the clients may come one after another; then they are sent again.
    for _ in 0..ROUNDS {
        let refused = refused_of_many(target, &request)?;
        ensure!(refused < CLIENTS, "nobody was served");
        if refused > 0 {
            return target.still_serves();
        }
    }
    bail!("{CLIENTS} clients at once were all served, where one may run and one may wait");
}

/// Sends a request from many clients at once and counts those that were refused, each in the right way.
fn refused_of_many(target: &Target, request: &Value) -> anyhow::Result<usize> {
    let replies: Vec<anyhow::Result<Reply>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| target.post(CHAT, request))).collect();
        clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err(anyhow!("a client panicked")))).collect()
    });
    let mut refused = 0;
    for reply in replies {
        let reply = reply?;
        if reply.status == 200 {
            continue;
        }
        let error = reply.error(429)?.coded("rate_limit_exceeded")?;
        ensure!(error.kind == "rate_limit_error", "the type is {:?}", error.kind);
        let after = reply.header("retry-after").and_then(|value| value.parse::<u64>().ok());
        ensure!(after.is_some_and(|seconds| seconds >= 1), "Retry-After is {:?}", reply.header("retry-after"));
        refused += 1;
    }
    Ok(refused)
}

fn leavers(site: &Site) -> anyhow::Result<()> {
    let server = site.serve(&["--set", "limits.running_requests=1", "--set", "limits.queued_requests=1"])?;
    let target = server.target();
    let facts = target.generator()?;
    let fields = with(lasting(target, facts)?, json!({ "stream": true }));
    let request = with(facts.chat("hello", (facts.context_length / 2).max(1)), fields);
    let patience = Duration::from_secs(60);
    for _ in 0..20 {
        let started = Instant::now();
        // Refused as long as the engine has not noticed that the one before has left.
        let mut stream = loop {
            match target.stream(CHAT, &request) {
                Ok(stream) => break stream,
                Err(error) => ensure!(started.elapsed() < patience, "a place never became free: {error:#}"),
            }
            thread::sleep(Duration::from_millis(5));
        };
        stream.next()?;
        drop(stream);
    }
    let started = Instant::now();
    while target.still_serves().is_err() {
        ensure!(started.elapsed() < patience, "the places of those who left are still taken");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
