//! What the appliance measures about itself, in Prometheus terms and base units.
//!
//! The recorder is held here rather than installed globally, so that the set of series is this file and nothing else.
//! Every label's values come from a closed list or from the sealed bundle, never from a request: the number of series
//! does not grow with what clients send (THREATS C48).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ampoule_bundle::BundleIdentity;
use ampoule_inference::EngineStats;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

/// The content type of Prometheus' text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds in seconds: from a cached answer of a small model to a long one of a large model.
const LATENCY_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// The paths that are counted apart.  Everything else is `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
    /// `/v1/models` and `/v1/models/{id}`
    Models,
    /// `/livez`, `/readyz` and `/v1/health/…`
    Health,
    /// `/v1/metadata`
    Metadata,
    /// Whatever is not served.
    Other,
}

impl Endpoint {
    /// The endpoint that a path belongs to.
    pub fn of(path: &str) -> Endpoint {
        match path {
            "/v1/chat/completions" => Endpoint::ChatCompletions,
            "/v1/completions" => Endpoint::Completions,
            "/v1/embeddings" => Endpoint::Embeddings,
            "/livez" | "/readyz" | "/v1/health/live" | "/v1/health/ready" => Endpoint::Health,
            "/v1/metadata" => Endpoint::Metadata,
            path if path == "/v1/models" || path.starts_with("/v1/models/") => Endpoint::Models,
            _ => Endpoint::Other,
        }
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Endpoint::ChatCompletions => "chat_completions",
            Endpoint::Completions => "completions",
            Endpoint::Embeddings => "embeddings",
            Endpoint::Models => "models",
            Endpoint::Health => "health",
            Endpoint::Metadata => "metadata",
            Endpoint::Other => "other",
        }
    }
}

/// The measurements of one process; clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Instruments>);

struct Instruments {
    recorder: PrometheusRecorder,
    queued: Gauge,
    running: Gauge,
    tokens_held: Gauge,
    token_budget: Gauge,
    token_utilization: Gauge,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    first_token: Histogram,
    inter_token: Histogram,
}

const METADATA: Metadata<'static> = Metadata::new("ampoule", Level::INFO, None);

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
        let counter = |name: &'static str, about: &'static str| {
            recorder.describe_counter(KeyName::from_const_str(name), None, SharedString::const_str(about));
            recorder.register_counter(&Key::from_static_name(name), &METADATA)
        };
        let histogram = |name: &'static str, about: &'static str| {
            let unit = Some(Unit::Seconds);
            recorder.describe_histogram(KeyName::from_const_str(name), unit, SharedString::const_str(about));
            recorder.register_histogram(&Key::from_static_name(name), &METADATA)
        };
        let instruments = Instruments {
            queued: gauge("ampoule_requests_queued", "Requests that wait for the engine."),
            running: gauge("ampoule_requests_running", "Requests that the engine works on."),
            tokens_held: gauge("ampoule_tokens_held", "Tokens for which running requests hold cache memory."),
            token_budget: gauge("ampoule_token_budget", "Tokens for which there is cache memory."),
            token_utilization: gauge("ampoule_token_utilization_ratio", "Tokens held, as a share of the budget."),
            prompt_tokens: counter("ampoule_prompt_tokens_total", "Prompt tokens of answered requests."),
            generation_tokens: counter("ampoule_generation_tokens_total", "Tokens that were generated."),
            first_token: histogram("ampoule_time_to_first_token_seconds", "From a request to its first token."),
            inter_token: histogram("ampoule_inter_token_latency_seconds", "From one token of an answer to the next."),
            recorder,
        };
        let described = |name: &'static str| KeyName::from_const_str(name);
        let recorder = &instruments.recorder;
        recorder.describe_counter(
            described("ampoule_requests_total"),
            None,
            SharedString::const_str("Requests by endpoint and status."),
        );
        recorder.describe_histogram(
            described("ampoule_request_duration_seconds"),
            Some(Unit::Seconds),
            SharedString::const_str("From a request's head to the last byte of its answer, by endpoint."),
        );
        Metrics(Arc::new(instruments))
    }

    /// States which bundle and which configuration run here.
    pub fn set_running(&self, bundle: &BundleIdentity, config_digest: &str) {
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
        if let Some(expires) = &bundle.expires {
            let about = "When the bundle expires, in seconds since 1970.";
            self.set_gauge("ampoule_bundle_expiry_timestamp_seconds", about, Vec::new(), expires.as_second() as f64);
        }
    }

    /// Counts one finished request.
    pub fn request_ended(&self, endpoint: Endpoint, status: u16, duration: Duration) {
        let endpoint = Label::from_static_parts("endpoint", endpoint.as_str());
        let status = Label::new("status", status.to_string());
        let key = Key::from_parts("ampoule_requests_total", vec![endpoint.clone(), status]);
        self.0.recorder.register_counter(&key, &METADATA).increment(1);
        let key = Key::from_parts("ampoule_request_duration_seconds", vec![endpoint]);
        self.0.recorder.register_histogram(&key, &METADATA).record(duration.as_secs_f64());
    }

    /// Counts the tokens of a prompt.
    pub fn add_prompt_tokens(&self, count: u64) {
        self.0.prompt_tokens.increment(count);
    }

    /// Counts generated tokens.
    pub fn add_generation_tokens(&self, count: u64) {
        self.0.generation_tokens.increment(count);
    }

    /// Records how long a request waited for its first token.
    pub fn first_token_after(&self, duration: Duration) {
        self.0.first_token.record(duration.as_secs_f64());
    }

    /// Records the time between two tokens of one answer.
    pub fn next_token_after(&self, duration: Duration) {
        self.0.inter_token.record(duration.as_secs_f64());
    }

    /// The page for a scraper, with the engine's gauges as of now.
    pub fn render(&self, engine: &EngineStats) -> String {
        self.0.queued.set(engine.queued as f64);
        self.0.running.set(engine.running as f64);
        self.0.tokens_held.set(engine.tokens_held as f64);
        self.0.token_budget.set(engine.token_budget as f64);
        self.0.token_utilization.set(engine.tokens_held as f64 / (engine.token_budget as f64).max(1.0));
        self.0.recorder.handle().render()
    }

    /// Folds the samples collected since the last call into their buckets.  To be called every few seconds: without it
    /// a server that nobody scrapes would keep every sample.
    pub fn fold_samples(&self) {
        self.0.recorder.handle().run_upkeep();
    }

    fn set_gauge(&self, name: &'static str, about: &'static str, labels: Vec<Label>, value: f64) {
        let recorder = &self.0.recorder;
        recorder.describe_gauge(KeyName::from_const_str(name), None, SharedString::const_str(about));
        recorder.register_gauge(&Key::from_parts(name, labels), &METADATA).set(value);
    }
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
        for n in 0..10_000 {
            metrics.request_ended(Endpoint::of(&format!("/v1/models/{n}")), 404, Duration::ZERO);
            metrics.request_ended(Endpoint::of(&format!("/{n}")), 404, Duration::ZERO);
        }
        metrics.fold_samples();
        let page = metrics.render(&EngineStats::default());
        let series = page.lines().filter(|line| line.starts_with("ampoule_requests_total{")).count();
        assert_eq!(series, 2, "{page}");
        assert!(page.contains("ampoule_requests_total{endpoint=\"models\",status=\"404\"} 10000"), "{page}");
        assert!(page.contains("ampoule_request_duration_seconds_bucket{endpoint=\"other\",le=\"0.001\"} 10000"));
    }

    #[test]
    fn tokens_and_latencies_are_in_base_units() {
        let metrics = Metrics::new();
        metrics.add_prompt_tokens(7);
        metrics.add_generation_tokens(3);
        metrics.first_token_after(Duration::from_millis(20));
        metrics.next_token_after(Duration::from_millis(3));
        let page = metrics.render(&EngineStats::default());
        for line in [
            "ampoule_prompt_tokens_total 7",
            "ampoule_generation_tokens_total 3",
            "ampoule_time_to_first_token_seconds_bucket{le=\"0.025\"} 1",
            "ampoule_time_to_first_token_seconds_bucket{le=\"0.01\"} 0",
            "ampoule_inter_token_latency_seconds_count 1",
            "ampoule_requests_queued 0",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
    }
}
