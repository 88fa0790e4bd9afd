//! `cargo xtask soak`: a server under mixed load for a long time, with clients that leave in the middle of their answers.
//! What it holds must be the same at the end as it was after the first minute: memory, descriptors, blocks of keys and values.
//!
//! `test` runs it for half a minute; before a release it runs for thirty (`--minutes 30`).

mod client;
mod server;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use client::{Ask, Outcome};
use server::{Sample, Server};

/// How much more memory a server may have at the end than after the warm-up: what an allocator keeps of the widest moment
/// differs by some mebibytes from one moment to the next.
const MEMORY_SLACK_BYTES: u64 = 24 << 20;
/// Descriptors that come and go with connections that are just being closed.
const DESCRIPTOR_SLACK: u64 = 4;

/// How long and how hard.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long the load lasts.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// How many clients ask at a time.
    #[arg(long, default_value_t = 12)]
    clients: usize,
    /// The sealed bundle to serve.
    #[arg(long, value_name = "FILE", default_value = "bundles/fixtures/serve/generator.bundle")]
    bundle: PathBuf,
    /// The root that its signers are held against.
    #[arg(long, value_name = "FILE", default_value = "bundles/fixtures/serve/root.json")]
    trust_root: PathBuf,
    /// The binary to load.
    #[arg(long, value_name = "FILE", default_value = "target/x86_64-unknown-linux-gnu/release/ampoule")]
    binary: PathBuf,
    /// Write the table into this file too.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Options {
    /// Half a minute.
    pub(crate) fn short() -> Options {
        Options {
            minutes: 0.5,
            clients: 12,
            bundle: "bundles/fixtures/serve/generator.bundle".into(),
            trust_root: "bundles/fixtures/serve/root.json".into(),
            binary: "target/x86_64-unknown-linux-gnu/release/ampoule".into(),
            out: None,
        }
    }
}

/// What the clients have seen.
#[derive(Default)]
struct Counts {
    finished: AtomicU64,
    left: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// Serves, asks, and holds the end against the beginning.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let server = Server::start(&options.binary, &options.bundle, &options.trust_root)?;
    let duration = Duration::from_secs_f64(options.minutes * 60.0);
    let (counts, ending) = (Counts::default(), AtomicBool::new(false));
    let began = Instant::now();
    let samples = thread::scope(|scope| {
        for number in 0..options.clients {
            let (server, counts, ending) = (&server, &counts, &ending);
            scope.spawn(move || ask_until(number as u64, server, counts, ending));
        }
        let samples = watch(&server, duration);
        ending.store(true, Ordering::Relaxed);
        samples
    })?;
    let quiet = server.quiet()?;
    let table = table(options, began.elapsed(), &counts, &samples, quiet);
    print!("{table}");
    if let Some(path) = &options.out {
        fs::write(path, &table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    judge(&counts, &samples, quiet)
}

/// Looks at the server ten times, the first time when a tenth of the time has passed.
fn watch(server: &Server, duration: Duration) -> anyhow::Result<Vec<Sample>> {
    (0..10)
        .map(|_| {
            thread::sleep(duration / 10);
            server.sample()
        })
        .collect()
}

/// One client after another asks, each something else: every third one leaves after some tokens.
fn ask_until(client: u64, server: &Server, counts: &Counts, ending: &AtomicBool) {
    let mut turn = client;
    while !ending.load(Ordering::Relaxed) {
        // Any fixed mixture will do; the constants are prime, so that no two clients keep step.
        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let draw = turn >> 33;
        let ask = Ask {
            words: 1 + draw % 61,
            begins_alike: draw % 5 < 2,
            tokens: 1 + draw % 61,
            streamed: !draw.is_multiple_of(4),
            leaves_after: draw.is_multiple_of(3).then_some(draw % 7),
            seed: draw,
        };
        let count = match ask.send(server.address(), server.key()) {
            Ok(Outcome::Finished) => &counts.finished,
            Ok(Outcome::Left) => &counts.left,
            Ok(Outcome::Refused) => &counts.refused,
            Err(error) => {
                eprintln!("a request failed: {error:#}");
                &counts.failed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn table(options: &Options, took: Duration, counts: &Counts, samples: &[Sample], quiet: Sample) -> String {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut table = format!(
        "# Soak of {:.1} minutes with {} clients\n\n{} answers, {} that their clients left, {} refused, {} failed.\n\n\
         | at | resident MiB | descriptors | tokens held | running | queued |\n|---|---|---|---|---|---|\n",
        took.as_secs_f64() / 60.0,
        options.clients,
        count(&counts.finished),
        count(&counts.left),
        count(&counts.refused),
        count(&counts.failed),
    );
    let tenth = |index: usize| format!("{} %", 10 * (index + 1));
    let rows = samples.iter().enumerate().map(|(index, sample)| (tenth(index), sample));
    for (at, sample) in rows.chain([("afterwards".to_owned(), &quiet)]) {
        let Sample { resident_bytes, descriptors, tokens_held, running, queued } = sample;
        let mebibytes = resident_bytes >> 20;
        table += &format!("| {at} | {mebibytes} | {descriptors} | {tokens_held} | {running} | {queued} |\n");
    }
    table
}

/// What must hold.
fn judge(counts: &Counts, samples: &[Sample], quiet: Sample) -> anyhow::Result<()> {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { bail!("the server was never looked at") };
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    if count(&counts.failed) > 0 || count(&counts.finished) == 0 || count(&counts.left) == 0 {
        bail!("requests failed, or none was answered, or no client left");
    }
    if last.resident_bytes > first.resident_bytes + MEMORY_SLACK_BYTES {
        bail!("memory grew from {} to {} MiB", first.resident_bytes >> 20, last.resident_bytes >> 20);
    }
    if quiet.descriptors > first.descriptors + DESCRIPTOR_SLACK {
        bail!("descriptors grew from {} to {}", first.descriptors, quiet.descriptors);
    }
    if quiet.tokens_held + quiet.running + quiet.queued > 0 {
        bail!("memory for {} tokens is held and {} requests run though nobody asks", quiet.tokens_held, quiet.running);
    }
    Ok(())
}
