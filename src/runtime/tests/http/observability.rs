//! What operators see: metadata, models, request ids, metrics, and a log that never holds a prompt.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::{MODEL, Setup, chat};

/// Everything that is logged in this process, as JSON lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture() -> Log {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Log::default();
            let subscriber =
                tracing_subscriber::fmt().json().with_writer(log.clone()).with_max_level(tracing::Level::TRACE);
            tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
            log
        })
        .clone()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The access line of one request; it is written when the answer's last byte was handed over, so it may be late.
    fn line_of(&self, request_id: &str) -> Value {
        let started = Instant::now();
        loop {
            let found = self
                .text()
                .lines()
                .find(|line| line.contains(&format!("\"request_id\":\"{request_id}\"")))
                .map(str::to_owned);
            if let Some(line) = found {
                return serde_json::from_str(&line).unwrap();
            }
            assert!(started.elapsed() < Duration::from_secs(10), "no line for {request_id}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

#[test]
fn c46_the_log_tells_all_but_what_was_said() {
    let log = Log::capture();
    let server = Setup::default().start();
    let canary = "canary-prompt-5e1f";
    let mut body = chat(canary);
    body["max_tokens"] = json!(30);
    body["user"] = json!("canary-user-5e1f\r\n{\"forged\":true}");
    let headers = [("content-type", "application/json"), ("x-request-id", "access-line-1")];
    let reply = server.send("POST", "/v1/chat/completions", &headers, body.to_string().as_bytes());
    assert_eq!((reply.status, reply.header("x-request-id")), (200, Some("access-line-1")));
    let answer = reply.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let line = log.line_of("access-line-1");
    let fields = &line["fields"];
    assert_eq!(
        (&fields["endpoint"], &fields["status"], &fields["key"]),
        (&json!("chat_completions"), &json!(200), &json!("test"))
    );
    assert_eq!((&fields["method"], &fields["complete"]), (&json!("POST"), &json!(true)));
    assert_eq!(fields["prompt_tokens"], reply.json()["usage"]["prompt_tokens"]);
    assert_eq!(fields["completion_tokens"], reply.json()["usage"]["completion_tokens"]);
    assert!(fields["duration_seconds"].as_f64().unwrap() >= fields["first_token_seconds"].as_f64().unwrap());

    // Refusals too: the value that is at fault is the client's, and stays out of the log.
    for (number, (path, body)) in [
        ("/v1/chat/completions", json!({ "model": "canary-model-5e1f", "messages": [] })),
        ("/v1/chat/completions", json!({ "model": MODEL, "messages": canary })),
        ("/v1/completions", json!({ "model": MODEL, "prompt": canary, "max_tokens": 3, "stream": true })),
        ("/v1/canary-path-5e1f", json!({})),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("said-{number}");
        let headers = [("content-type", "application/json"), ("x-request-id", id.as_str())];
        server.send("POST", path, &headers, body.to_string().as_bytes());
        log.line_of(&id);
    }
    let text = log.text();
    assert!(!text.contains("5e1f"), "a canary is in the log");
    assert!(!text.contains(&server.key), "the key is in the log");
    assert!(answer.len() < 8 || !text.contains(&answer), "the answer is in the log");
    assert!(!server.metrics().text().contains("5e1f"));
}

#[test]
fn an_unfit_request_id_is_replaced() {
    let server = Setup::default().start();
    for sent in ["a b", "<script>", &"x".repeat(200)] {
        let reply = server.send("GET", "/v1/models", &[("x-request-id", sent)], b"");
        let given = reply.header("x-request-id").unwrap().to_owned();
        assert!(given != sent && given.len() == 32, "{given}");
    }
    let reply = server.raw("GET", "/nowhere", &[("x-request-id", "kept-1")], b"");
    assert_eq!((reply.status, reply.header("x-request-id")), (401, Some("kept-1")));
}

#[test]
fn metadata_says_what_runs_by_digest() {
    let server = Setup::default().start();
    let body = server.get("/v1/metadata").json();
    let bundle = &body["bundle"];
    assert_eq!((&bundle["name"], &bundle["version"], &bundle["counter"]), (&json!(MODEL), &json!("1.0.0"), &json!(1)));
    assert!(bundle["digest"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(bundle["signers"][0].as_str().unwrap().len(), 64);
    assert_eq!(
        (&bundle["issued_at"], &bundle["expires"]),
        (&json!("2026-11-23T00:00:00Z"), &json!("2100-01-01T00:00:00Z"))
    );
    assert_eq!(
        (&body["model"]["id"], &body["model"]["kind"], &body["egress"]),
        (&json!(MODEL), &json!("generator"), &json!("none"))
    );
    assert!(body["config_digest"].as_str().unwrap().starts_with("sha256:"));
    let mut request = chat("x");
    request["max_tokens"] = json!(1);
    assert_eq!(server.post("/v1/chat/completions", &request).json()["system_fingerprint"], body["system_fingerprint"]);
    let models = server.get("/v1/models").json();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&json!("list"), &json!(MODEL)));
    assert_eq!(server.get(&format!("/v1/models/{MODEL}")).json(), models["data"][0]);
    let live = server.get("/v1/health/live").json();
    assert_eq!((&live["object"], &live["status"]), (&json!("health.response"), &json!("ok")));
    assert_eq!(server.get("/v1/health/ready").status, 200);
}

#[test]
fn metrics_follow_the_requests() {
    let server = Setup::default().start();
    let mut body = chat("hello");
    body["max_tokens"] = json!(5);
    let completion = server.post("/v1/chat/completions", &body).json()["usage"]["completion_tokens"].clone();
    server.get("/v1/nowhere");
    let wanted = [
        "ampoule_requests_total{endpoint=\"chat_completions\",status=\"200\"} 1".to_owned(),
        "ampoule_requests_total{endpoint=\"other\",status=\"404\"} 1".to_owned(),
        "ampoule_prompt_tokens_total 9".to_owned(),
        format!("ampoule_generation_tokens_total {completion}"),
        "ampoule_queue_time_seconds_count 1".to_owned(),
        "ampoule_time_to_first_token_seconds_count 1".to_owned(),
        "ampoule_request_duration_seconds_count{endpoint=\"chat_completions\"} 1".to_owned(),
        "ampoule_ready 1".to_owned(),
        "ampoule_requests_running 0".to_owned(),
        "ampoule_requests_queued 0".to_owned(),
        "ampoule_tokens_held 0".to_owned(),
        "ampoule_token_budget 32768".to_owned(),
        "ampoule_bundle_expiry_timestamp_seconds 4102444800".to_owned(),
    ];
    let started = Instant::now();
    loop {
        let page = server.metrics();
        assert_eq!(page.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        match wanted.iter().find(|line| !page.text().lines().any(|found| found == line.as_str())) {
            None => break,
            // The last request's line is counted when its answer has left.
            Some(line) => assert!(started.elapsed() < Duration::from_secs(10), "{line} is missing in\n{}", page.text()),
        }
    }
    let page = server.metrics();
    assert!(page.text().contains("version=\"1.0.0\"") && page.text().contains("counter=\"1\""), "{}", page.text());
}

#[test]
fn tokens_of_a_client_that_left_are_counted() {
    let server = Setup::default().start();
    let mut body = chat("hello");
    body["stream"] = json!(true);
    body["logit_bias"] = json!({ "38": 100 });
    let mut leaver = server.begin("/v1/chat/completions", &body);
    let mut seen = Vec::new();
    while seen.windows(7).filter(|window| window == b"\"delta\"").count() < 4 {
        let mut bytes = [0; 256];
        let read = leaver.read(&mut bytes).unwrap();
        seen.extend_from_slice(&bytes[..read]);
    }
    drop(leaver);
    server.becomes_idle_within(Duration::from_secs(20));
    let page = server.metrics();
    let counted = page.text().lines().find_map(|line| line.strip_prefix("ampoule_generation_tokens_total "));
    assert!(counted.unwrap().parse::<u64>().unwrap() >= 3, "{}", page.text());
    // A fast machine may have finished before the client left.
    let cancelled = format!("ampoule_requests_cancelled_total {}", server.engine.stats().cancelled);
    assert!(page.text().lines().any(|line| line == cancelled), "{cancelled} is missing in\n{}", page.text());
}
