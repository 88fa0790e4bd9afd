//! What the appliance measures about itself, in Prometheus terms and base units.
//!
//! The recorder is held here rather than installed globally, so that the set of series is this file and nothing else;
//! `packaging/observability/README.md` documents each of them, and a test compares that table with a live page.
//! Every label's values come from a closed list or from the sealed bundle, never from a request: the number of series
//! does not grow with what clients send (THREATS C48).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ampoule_bundle::BundleIdentity;
use ampoule_inference::EngineStats;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use crate::sandbox::{Layer, Report};

mod adapters;
mod endpoint;

pub use endpoint::Endpoint;

/// The content type of Prometheus' text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds in seconds: from a cached answer of a small model to a long one of a large model.
const LATENCY_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// The statuses that exist, as zeros, before the first request.  A counter that appears with its first failure hides
/// that failure from `rate()`, which sees only how a series grows.
const STATUSES_FROM_THE_START: [u16; 3] = [200, 500, 503];

/// The measurements of one process; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Instruments>);

struct Instruments {
    recorder: PrometheusRecorder,
    ready: Gauge,
    queued: Gauge,
    running: Gauge,
    tokens_held: Gauge,
    token_budget: Gauge,
    token_utilization: Gauge,
    cancelled: Counter,
    prefix_tokens: Counter,
    draft_tokens: Counter,
    draft_tokens_right: Counter,
    preemptions: Counter,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    queue_time: Histogram,
    first_token: Histogram,
    inter_token: Histogram,
    /// The two sums of [`Outcomes`] once more: the recorder's own cells can be written, not read.
    ended: AtomicU64,
    failed: AtomicU64,
}

/// What is true at the moment of a scrape, as opposed to what was counted until then.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// The engine's counters.
    pub engine: EngineStats,
    /// Requests that wait for the engine: in its queue, or for a core that reads their prompts.
    pub queued: usize,
    /// Whether requests are taken.
    pub is_ready: bool,
    /// The time.
    pub now: jiff::Timestamp,
    /// The adapters that may be asked for: the digest of each by its name.
    pub adapters: BTreeMap<String, String>,
    /// How many there may be.
    pub adapter_limit: usize,
    /// The names of those for which a request waits.
    pub waiting_adapters: BTreeSet<String>,
}

/// How the requests for work have ended since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Requests that ended, however they did.
    pub ended: u64,
    /// Those among them that failed by the appliance's fault: answered with 5xx, or broken off in the stream.
    pub failed: u64,
}

const METADATA: Metadata<'static> = Metadata::new("ampoule", Level::INFO, None);

const REQUESTS: &str = "ampoule_requests_total";
const BROKEN_STREAMS: &str = "ampoule_broken_streams_total";
const DURATION: &str = "ampoule_request_duration_seconds";

impl Metrics {
    /// Measurements that all begin at zero.
    pub fn new() -> Metrics {
        let recorder = PrometheusBuilder::new()
            .set_buckets(&LATENCY_BUCKETS)
            .expect("the list of buckets is not empty")
            .build_recorder();
        let gauge = |name: &'static str, about: &'static str| {
            recorder.describe_gauge(KeyName::from_const_str(name), None, SharedString::const_str(about));
            recorder.register_gauge(&Key::from_static_name(name), &METADATA)
        };
        let describe_counter = |name: &'static str, about: &'static str| {
            recorder.describe_counter(KeyName::from_const_str(name), None, SharedString::const_str(about));
        };
        let counter = |name: &'static str, about: &'static str| {
            describe_counter(name, about);
            recorder.register_counter(&Key::from_static_name(name), &METADATA)
        };
        let describe_histogram = |name: &'static str, about: &'static str| {
            let unit = Some(Unit::Seconds);
            recorder.describe_histogram(KeyName::from_const_str(name), unit, SharedString::const_str(about));
        };
        let histogram = |name: &'static str, about: &'static str| {
            describe_histogram(name, about);
            recorder.register_histogram(&Key::from_static_name(name), &METADATA)
        };
        describe_counter(REQUESTS, "Requests that ended, by endpoint and status.");
        describe_counter(BROKEN_STREAMS, "Streamed answers that failed after their status 200 had been sent.");
        describe_histogram(DURATION, "From a request's head to the last byte of its answer, by endpoint.");
        let instruments = Instruments {
            ready: gauge("ampoule_ready", "1 while requests are taken, 0 while draining or failed."),
            queued: gauge("ampoule_requests_queued", "Requests that wait for the engine or to be read."),
            running: gauge("ampoule_requests_running", "Requests that the engine works on."),
            tokens_held: gauge("ampoule_tokens_held", "Tokens for which running requests hold cache memory."),
            token_budget: gauge("ampoule_token_budget", "Tokens for which there is cache memory."),
            token_utilization: gauge("ampoule_token_utilization_ratio", "Tokens held, as a share of the budget."),
            prefix_tokens: counter(
                "ampoule_prefix_cache_tokens_total",
                "Tokens found computed by a request of the same key: of prompts, and of answers that are computed anew.",
            ),
            draft_tokens: counter(
                "ampoule_draft_tokens_total",
                "Tokens that were guessed and computed together with the one before them.",
            ),
            draft_tokens_right: counter("ampoule_draft_tokens_accepted_total", "Guessed tokens that were right."),
            preemptions: counter(
                "ampoule_preemptions_total",
                "Times that a running request had to wait again for lack of cache memory.",
            ),
            cancelled: counter("ampoule_requests_cancelled_total", "Requests that ended because their client left."),
            prompt_tokens: counter("ampoule_prompt_tokens_total", "Prompt tokens of requests that the engine took."),
            generation_tokens: counter("ampoule_generation_tokens_total", "Tokens that were generated."),
            queue_time: histogram(
                "ampoule_queue_time_seconds",
                "How long a generation waited for the engine to begin.",
            ),
            first_token: histogram("ampoule_time_to_first_token_seconds", "From a request to its first token."),
            inter_token: histogram("ampoule_inter_token_latency_seconds", "From one token of an answer to the next."),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            recorder,
        };
        let metrics = Metrics(Arc::new(instruments));
        for endpoint in Endpoint::WORKING {
            for status in STATUSES_FROM_THE_START {
                drop(metrics.requests(endpoint, status));
            }
            drop((metrics.broken_streams(endpoint), metrics.durations(endpoint)));
        }
        metrics
    }

    /// States which bundle and which configuration run here, and since when.
    pub fn set_running(&self, bundle: &BundleIdentity, config_digest: &str, started: jiff::Timestamp) {
        let signers: Vec<String> = bundle.signers.iter().map(ToString::to_string).collect();
        let labels = vec![
            Label::new("name", bundle.name.to_string()),
            Label::new("version", bundle.version.to_string()),
            Label::new("digest", bundle.manifest.to_string()),
            Label::new("signer", signers.join(",")),
            Label::new("counter", bundle.counter.to_string()),
        ];
        self.set_gauge("ampoule_bundle_info", "The sealed bundle that is served.", labels, 1.0);
        let digest = vec![Label::new("digest", config_digest.to_owned())];
        self.set_gauge("ampoule_config_info", "The effective configuration.", digest, 1.0);
        let version = vec![Label::new("version", env!("CARGO_PKG_VERSION"))];
        self.set_gauge("ampoule_build_info", "The runtime that serves.", version, 1.0);
        let about = "When this process began to serve, in seconds since 1970.";
        self.set_gauge("ampoule_start_time_seconds", about, Vec::new(), started.as_millisecond() as f64 / 1e3);
        if let Some(expires) = &bundle.expires {
            let about = "When the bundle expires, in seconds since 1970.";
            self.set_gauge("ampoule_bundle_expiry_timestamp_seconds", about, Vec::new(), expires.as_second() as f64);
        }
    }

    /// Tells which layers of the sandbox are up.
    pub fn set_sandbox(&self, report: &Report) {
        let about = "1 for a layer of the sandbox that is up, 0 for one that is missing.";
        for Layer { name, state } in &report.layers {
            let layer = vec![Label::new("layer", name.as_str())];
            let is_applied = if state.is_applied() { 1.0 } else { 0.0 };
            self.set_gauge("ampoule_sandbox_layer_applied", about, layer, is_applied);
        }
    }

    /// Counts one finished request.
    pub fn request_ended(&self, endpoint: Endpoint, status: u16, duration: Duration) {
        self.requests(endpoint, status).increment(1);
        self.durations(endpoint).record(duration.as_secs_f64());
        if Endpoint::WORKING.contains(&endpoint) {
            self.0.ended.fetch_add(1, Ordering::Relaxed);
            if status >= 500 {
                self.0.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts one streamed answer that failed after its head was sent; its status can no longer tell.
    pub fn stream_broke(&self, endpoint: Endpoint) {
        self.broken_streams(endpoint).increment(1);
        self.0.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// How the requests for work have ended so far.
    pub fn outcomes(&self) -> Outcomes {
        let failed = self.0.failed.load(Ordering::Relaxed);
        Outcomes { ended: self.0.ended.load(Ordering::Relaxed), failed }
    }

    /// Counts the tokens of a prompt.
    pub fn add_prompt_tokens(&self, count: u64) {
        self.0.prompt_tokens.increment(count);
    }

    /// Counts generated tokens.
    pub fn add_generation_tokens(&self, count: u64) {
        self.0.generation_tokens.increment(count);
    }

    /// Records how long a generation waited until the engine began with it.
    pub fn began_after(&self, duration: Duration) {
        self.0.queue_time.record(duration.as_secs_f64());
    }

    /// Records how long a request waited for its first token.
    pub fn first_token_after(&self, duration: Duration) {
        self.0.first_token.record(duration.as_secs_f64());
    }

    /// Records the time between two tokens of one answer.
    pub fn next_token_after(&self, duration: Duration) {
        self.0.inter_token.record(duration.as_secs_f64());
    }

    /// The page for a scraper, as of this moment.
    pub fn render(&self, moment: &Moment) -> String {
        let Moment { engine, queued, is_ready, .. } = moment;
        self.0.ready.set(if *is_ready { 1.0 } else { 0.0 });
        self.0.queued.set(*queued as f64);
        self.0.running.set(engine.running as f64);
        self.0.tokens_held.set(engine.tokens_held as f64);
        self.0.token_budget.set(engine.token_budget as f64);
        self.0.token_utilization.set(engine.tokens_held as f64 / (engine.token_budget as f64).max(1.0));
        self.0.cancelled.absolute(engine.cancelled);
        self.0.prefix_tokens.absolute(engine.prompt_tokens_found);
        self.0.draft_tokens.absolute(engine.draft_tokens);
        self.0.draft_tokens_right.absolute(engine.draft_tokens_right);
        self.0.preemptions.absolute(engine.preemptions);
        self.0.recorder.handle().render() + &adapters::render(moment)
    }

    /// Folds the samples collected since the last call into their buckets.  To be called every few seconds: without it
    /// a server that nobody scrapes would keep every sample.
    pub fn fold_samples(&self) {
        self.0.recorder.handle().run_upkeep();
    }

    fn requests(&self, endpoint: Endpoint, status: u16) -> Counter {
        let labels = vec![endpoint_label(endpoint), Label::new("status", status.to_string())];
        self.0.recorder.register_counter(&Key::from_parts(REQUESTS, labels), &METADATA)
    }

    fn broken_streams(&self, endpoint: Endpoint) -> Counter {
        self.0.recorder.register_counter(&Key::from_parts(BROKEN_STREAMS, vec![endpoint_label(endpoint)]), &METADATA)
    }

    fn durations(&self, endpoint: Endpoint) -> Histogram {
        self.0.recorder.register_histogram(&Key::from_parts(DURATION, vec![endpoint_label(endpoint)]), &METADATA)
    }

    fn set_gauge(&self, name: &'static str, about: &'static str, labels: Vec<Label>, value: f64) {
        let recorder = &self.0.recorder;
        recorder.describe_gauge(KeyName::from_const_str(name), None, SharedString::const_str(about));
        recorder.register_gauge(&Key::from_parts(name, labels), &METADATA).set(value);
    }
}

fn endpoint_label(endpoint: Endpoint) -> Label {
    Label::from_static_parts("endpoint", endpoint.as_str())
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c48_paths_of_requests_do_not_become_series() {
        let metrics = Metrics::new();
        let count = |page: &str| page.lines().filter(|line| line.starts_with("ampoule_requests_total{")).count();
        let before = count(&metrics.render(&Moment::default()));
        for n in 0..10_000 {
            metrics.request_ended(Endpoint::of(&format!("/v1/models/{n}")), 404, Duration::ZERO);
            metrics.request_ended(Endpoint::of(&format!("/{n}")), 404, Duration::ZERO);
        }
        metrics.fold_samples();
        let page = metrics.render(&Moment::default());
        assert_eq!(count(&page), before + 2, "{page}");
        assert!(page.contains("ampoule_requests_total{endpoint=\"models\",status=\"404\"} 10000"), "{page}");
        assert!(page.contains("ampoule_request_duration_seconds_bucket{endpoint=\"other\",le=\"0.001\"} 10000"));
        assert_eq!(metrics.outcomes(), Outcomes::default(), "nobody asked the model for anything");
    }

    #[test]
    fn tokens_and_latencies_are_in_base_units() {
        let metrics = Metrics::new();
        metrics.add_prompt_tokens(7);
        metrics.add_generation_tokens(3);
        metrics.began_after(Duration::from_millis(2));
        metrics.first_token_after(Duration::from_millis(20));
        metrics.next_token_after(Duration::from_millis(3));
        let page = metrics.render(&Moment::default());
        for line in [
            "ampoule_prompt_tokens_total 7",
            "ampoule_generation_tokens_total 3",
            "ampoule_queue_time_seconds_bucket{le=\"0.0025\"} 1",
            "ampoule_time_to_first_token_seconds_bucket{le=\"0.025\"} 1",
            "ampoule_time_to_first_token_seconds_bucket{le=\"0.01\"} 0",
            "ampoule_inter_token_latency_seconds_count 1",
            "ampoule_requests_queued 0",
            "ampoule_ready 0",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
    }

    #[test]
    fn failures_are_zero_before_they_happen_and_count_in_either_form() {
        let metrics = Metrics::new();
        let page = metrics.render(&Moment::default());
        assert!(page.contains("ampoule_requests_total{endpoint=\"chat_completions\",status=\"500\"} 0"), "{page}");
        assert!(page.contains("ampoule_broken_streams_total{endpoint=\"completions\"} 0"), "{page}");
        metrics.request_ended(Endpoint::ChatCompletions, 200, Duration::ZERO);
        metrics.request_ended(Endpoint::ChatCompletions, 503, Duration::ZERO);
        metrics.request_ended(Endpoint::Health, 503, Duration::ZERO);
        metrics.stream_broke(Endpoint::ChatCompletions);
        assert_eq!(metrics.outcomes(), Outcomes { ended: 2, failed: 2 });
    }

    #[test]
    fn the_share_of_the_budget_is_between_zero_and_one() {
        let engine = EngineStats { tokens_held: 512, token_budget: 2048, cancelled: 4, ..EngineStats::default() };
        let page = Metrics::new().render(&Moment { engine, is_ready: true, ..Moment::default() });
        for line in ["ampoule_token_utilization_ratio 0.25", "ampoule_requests_cancelled_total 4", "ampoule_ready 1"] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
    }
}
