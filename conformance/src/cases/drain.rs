//! A stop is orderly: what runs is finished, nothing new is taken, and the exit code is 0.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use serde_json::{Value, json};

use super::{CHAT, COMPLETIONS, lasting, with};
use crate::catalogue::{Case, Skipped};
use crate::site::Site;
use crate::target::Target;

pub(super) const CASES: &[Case] = &[
    Case::installed("AMP-DRN-01", "Streams that run at SIGTERM are finished, then the exit code is 0", running_streams),
    Case::installed("AMP-DRN-02", "In the readiness grace /readyz says 503 and requests are served", readiness_grace),
    Case::installed(
        "AMP-DRN-03",
        "At the drain deadline an answer that still runs is told that it was cut off",
        cut_off,
    ),
];

/// How many answers are under way when the signal comes.
const STREAMS: usize = 8;

/// How long they should take together: much longer than a signal takes to arrive, much shorter than the deadline.
const WORK: Duration = Duration::from_secs(2);

fn running_streams(site: &Site) -> anyhow::Result<()> {
    // One at a time, so that most are still to come when the signal does.
    let settings = ["--set", "limits.running_requests=1", "--set", "drain_deadline_seconds=120"];
    let server = site.serve(&settings)?;
    let target = server.target();
    let facts = target.generator()?;
    let fields = with(lasting(target, facts)?, json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let tokens = tokens_for(target, WORK / STREAMS as u32)?;
    let request = with(facts.chat("hello", tokens), fields);
    let begun = Barrier::new(STREAMS + 1);
    let outcomes: Vec<anyhow::Result<(Vec<Value>, Instant)>> = thread::scope(|scope| {
        let readers: Vec<_> = (0..STREAMS)
            .map(|_| {
                scope.spawn(|| {
                    let begun_here = target.stream(CHAT, &request).and_then(|mut stream| {
                        stream.next()?.context("the stream is empty")?;
                        Ok(stream)
                    });
                    // Reached whatever came of it, because the others wait here.
                    begun.wait();
                    let events = begun_here?.rest()?;
                    Ok((events, Instant::now()))
                })
            })
            .collect();
        begun.wait();
        let signalled = Instant::now();
        let sent = server.signal("TERM");
        let join = |reader: thread::ScopedJoinHandle<'_, anyhow::Result<_>>| {
            reader.join().unwrap_or_else(|_| Err(anyhow!("a reader panicked")))
        };
        let outcomes: Vec<_> = readers.into_iter().map(join).collect();
        sent.map(|()| (outcomes, signalled))
    })
    .map(|(outcomes, signalled)| {
        let is_late = |outcome: &anyhow::Result<(Vec<Value>, Instant)>| match outcome {
            Ok((_, ended)) => *ended > signalled,
            Err(_) => true,
        };
        ensure!(outcomes.iter().any(is_late), Skipped("every stream had ended before the signal came".to_owned()));
        Ok(outcomes)
    })??;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let (events, _) = outcome.with_context(|| format!("stream {number} of {STREAMS}"))?;
        let finish = events.iter().find_map(|event| event["choices"][0]["finish_reason"].as_str());
        ensure!(finish == Some("length"), "stream {number} finished with {finish:?}");
        let counted = events.last().map(|event| event["usage"]["completion_tokens"].clone()).unwrap_or_default();
        ensure!(counted == tokens, "stream {number} has {counted} tokens where {tokens} were asked for");
    }
    let ended = server.ended()?;
    ensure!(ended.code == Some(0), "the server ended with {:?}", ended.code);
    Ok(())
}

fn readiness_grace(site: &Site) -> anyhow::Result<()> {
    let server = site.serve(&["--set", "readiness_grace_seconds=3"])?;
    let target = server.target();
    target.facts()?;
    server.signal("TERM")?;
    let signalled = Instant::now();
    while target.send("GET", "/readyz", &[], None)?.status == 200 {
        ensure!(signalled.elapsed() < Duration::from_secs(2), "/readyz still says 200 two seconds after the signal");
        thread::sleep(Duration::from_millis(10));
    }
    ensure!(target.send("GET", "/readyz", &[], None)?.status == 503, "/readyz does not say 503");
    ensure!(target.send("GET", "/livez", &[], None)?.status == 200, "/livez fails while the server drains");
    let ready = target.get("/v1/health/ready")?;
    ensure!(ready.status == 503, "/v1/health/ready says {}", ready.status);
    target.still_serves().context("in the grace")?;
    let url = target.url();
    let ended = server.ended()?;
    ensure!(ended.code == Some(0), "the server ended with {:?}", ended.code);
    ensure!(signalled.elapsed() >= Duration::from_secs(3), "the grace was cut short");
    ensure!(Target::new(&url, None, None)?.reach().is_err(), "somebody still listens");
    Ok(())
}

fn cut_off(site: &Site) -> anyhow::Result<()> {
    let settings = ["drain_deadline_seconds=0", "limits.running_requests=1", "limits.queued_requests=1024"];
    let server = site.serve(&settings.map(|setting| ["--set", setting]).concat())?;
    let target = server.target();
    let facts = target.generator()?;
    let fields = with(lasting(target, facts)?, json!({ "stream": true, "n": 16 }));
    let request = with(facts.chat("hello", tokens_for(target, WORK)?), fields);
    // Several, because the answers of a small model are short: the last one's has yet to begin when the signal comes.
    let begin = |_| {
        let mut stream = target.stream(CHAT, &request)?;
        stream.next()?.context("the stream is empty")?;
        Ok(stream)
    };
    let streams: Vec<_> = (0..STREAMS).map(begin).collect::<anyhow::Result<_>>()?;
    let (last, took) = thread::scope(|scope| {
        let readers: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| stream.rest())).collect();
        server.signal("TERM")?;
        let signalled = Instant::now();
        let rests = readers.into_iter().map(|reader| reader.join().map_err(|_| anyhow!("a reader panicked")));
        let last = rests.collect::<anyhow::Result<Vec<_>>>()?.pop().context("there are streams")?;
        anyhow::Ok((last, signalled.elapsed()))
    })?;
    ensure!(last.is_err() || took < WORK / 4, "the answers ran on for {took:?}");
    let ended = server.ended()?;
    ensure!(ended.code == Some(0), "the server ended with {:?}", ended.code);
    match last {
        Ok(_) => Err(Skipped("the streams had ended before the signal came".to_owned()).into()),
        Err(error) => {
            let told = format!("{error:#}");
            ensure!(told.contains("carries an error") && told.contains("stopped"), "the client was told: {told}");
            Ok(())
        }
    }
}

/// About how many tokens the model makes in this time, within what its context holds.
fn tokens_for(target: &Target, time: Duration) -> anyhow::Result<u64> {
    const SAMPLE: u64 = 16;
    let facts = target.generator()?;
    let request = with(facts.completion("a", SAMPLE), lasting(target, facts)?);
    let started = Instant::now();
    target.post(COMPLETIONS, &request)?.json(200)?;
    let per_token = started.elapsed().as_secs_f64() / SAMPLE as f64;
    let wanted = (time.as_secs_f64() / per_token) as u64;
    // Room for the prompt of a chat, whose template may be long.
    Ok(wanted.clamp(SAMPLE, (facts.context_length / 2).max(SAMPLE)))
}
