//! Connections and the server's own life: keep-alive, clients that leave, draining.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use ampoule::http::{HttpLimits, ServeError};
use serde_json::{Value, json};

use crate::client::{connect, read_reply};
use crate::support::{Setup, again, chat, request};

/// A request whose answer is as long as the context.
fn long() -> Value {
    let mut body = chat("hello");
    body["logit_bias"] = json!({ "38": 100 });
    body["temperature"] = json!(0);
    body
}

#[test]
fn one_connection_carries_several_requests() {
    let server = Setup::default().start();
    let bearer = format!("Bearer {}", server.key);
    let mut stream = connect(server.address);
    for _ in 0..3 {
        let reply = again(&mut stream, &request("GET", "/v1/models", &[("authorization", &bearer)], b""));
        assert_eq!(reply.status, 200);
    }
    let reply = again(&mut stream, &request("GET", "/v1/models", &[], b""));
    assert_eq!(reply.status, 401, "a key counts for its request, not for its connection");
    let reply = again(&mut stream, &request("GET", "/v1/models", &[("authorization", &bearer)], b""));
    assert_eq!(reply.status, 200);
}

#[test]
fn c41_work_for_a_client_that_left_is_cancelled() {
    let server = Setup::default().start();
    for stage in ["before the answer", "in the stream", "whole"] {
        let cancelled = server.engine.stats().cancelled;
        let started = Instant::now();
        // A fast machine may finish before the client has left; then it is tried again.
        while server.engine.stats().cancelled == cancelled {
            assert!(started.elapsed() < Duration::from_secs(30), "nothing was ever cancelled {stage}");
            let mut body = long();
            body["stream"] = json!(stage != "whole");
            let mut stream = server.begin("/v1/chat/completions", &body);
            if stage == "in the stream" {
                stream.read_exact(&mut [0; 400]).unwrap();
            } else {
                server.waits_for(Duration::from_secs(10), "a request", |engine| {
                    engine.stats().running > 0 || engine.stats().completion_tokens > 0
                });
            }
            drop(stream);
            server.becomes_idle_within(Duration::from_secs(10));
        }
    }
    assert_eq!(server.engine.stats().tokens_held, 0);
    server.still_serves();
}

#[test]
fn c41_many_leavers_leave_nothing_behind() {
    let server = Setup::default().start();
    for _ in 0..200 {
        drop(server.begin("/v1/chat/completions", &long()));
    }
    server.becomes_idle_within(Duration::from_secs(60));
    assert_eq!(server.engine.stats().tokens_held, 0);
    server.still_serves();
}

#[test]
fn draining_ends_what_runs_and_takes_nothing_new() {
    let limits = HttpLimits { readiness_grace: Duration::from_secs(4), ..HttpLimits::default() };
    let mut server = Setup { limits, ..Setup::default() }.start();
    let mut body = long();
    body["stream"] = json!(true);
    let mut running = server.begin("/v1/chat/completions", &body);
    let mut kept = connect(server.address);
    assert_eq!(again(&mut kept, &request("GET", "/readyz", &[], b"")).status, 200);
    server.begin_stop();
    let started = Instant::now();
    while server.raw("GET", "/readyz", &[], b"").status != 503 {
        assert!(started.elapsed() < Duration::from_secs(4), "readiness did not turn");
    }
    // Within the grace: alive, not ready, and everything is served, because somebody may not have noticed yet.
    assert_eq!(server.raw("GET", "/livez", &[], b"").status, 200);
    let ready = server.get("/v1/health/ready");
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("unavailable")));
    server.still_serves();
    let reply = read_reply(&mut running);
    assert_eq!(reply.events().last().unwrap()["choices"][0]["finish_reason"], "length");
    let address = server.address;
    server.ended().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err(), "the listener is closed");
    let mut rest = Vec::new();
    let _ = kept.read_to_end(&mut rest);
    assert!(rest.is_empty(), "the idle connection was closed");
}

#[test]
fn the_drain_deadline_cuts_off_what_does_not_end() {
    let limits = HttpLimits { drain_deadline: Duration::from_millis(300), ..HttpLimits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let mut never_ending = connect(server.address);
    let head = request(
        "POST",
        "/v1/chat/completions",
        &[("authorization", &format!("Bearer {}", server.key)), ("content-type", "application/json")],
        b"",
    );
    let head = String::from_utf8(head).unwrap().replace("content-length: 0", "content-length: 1000");
    never_ending.write_all(head.as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let started = Instant::now();
    server.ended().unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn an_answer_that_is_cut_off_says_so() {
    let limits = HttpLimits { drain_deadline: Duration::ZERO, ..HttpLimits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let mut body = long();
    body["stream"] = json!(true);
    let mut running = server.begin("/v1/chat/completions", &body);
    running.read_exact(&mut [0; 64]).unwrap();
    assert_eq!(server.ended().unwrap().cut_off, 1);
    let mut rest = String::new();
    let _ = running.read_to_string(&mut rest);
    assert!(rest.contains("The server stopped before the answer ended."), "{rest}");
    assert!(!rest.contains("[DONE]"), "{rest}");
}

#[test]
fn an_engine_that_ends_ends_the_server() {
    let server = Setup::default().start();
    server.engine.stop();
    let address = server.address;
    let started = Instant::now();
    while std::net::TcpStream::connect(address).is_ok() {
        assert!(started.elapsed() < Duration::from_secs(10), "the server went on without an engine");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(matches!(server.ended(), Err(ServeError::EngineEnded)));
}

#[test]
fn plain_http_beyond_loopback_is_refused() {
    use ampoule::http::Listener;
    // Port 0 on every address: nobody learns the port, and the server must refuse before it accepts anything.
    let outcome = Setup::default().run_on(Listener::LoopbackPlain, "0.0.0.0:0");
    assert!(matches!(outcome, Err(ServeError::PlainBeyondLoopback { .. })));
}
