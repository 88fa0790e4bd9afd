//! The status page: a shell that tells a stranger nothing, and figures for those who hold a key.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{MODEL, Setup, chat};

#[test]
fn the_shell_is_public_the_same_everywhere_and_holds_nothing_of_the_site() {
    let server = Setup::default().start();
    let reply = server.raw("GET", "/", &[], b"");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(server.get("/").body, reply.body, "a key changes nothing");
    assert_eq!(Setup::encoder().start().raw("GET", "/", &[], b"").body, reply.body, "another bundle changes nothing");
    let metadata = server.get("/v1/metadata").json();
    for told in [MODEL, metadata["bundle"]["digest"].as_str().unwrap(), env!("CARGO_PKG_VERSION")] {
        assert!(!reply.text().contains(told), "{told}");
    }
}

#[test]
fn the_shell_may_load_nothing_and_be_framed_by_nobody() {
    let server = Setup::default().start();
    let reply = server.raw("GET", "/", &[], b"");
    let policy = reply.header("content-security-policy").unwrap();
    for directive in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.split("; ").any(|part| part.starts_with(directive)), "{directive} is missing in {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    for (header, value) in [
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(reply.header(header), Some(value), "{header}");
    }
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[test]
fn the_status_follows_the_requests() {
    let server = Setup::default().start();
    let before = server.get("/v1/status").json();
    assert_eq!((&before["object"], &before["state"]), (&json!("status"), &json!("ready")));
    assert_eq!(before["requests"], json!({ "queued": 0, "running": 0, "ended": 0, "failed": 0, "cancelled": 0 }));
    assert_eq!(before["tokens"], json!({ "held": 0, "budget": 32768, "prompt": 0, "generated": 0 }));

    let usage = server.post("/v1/chat/completions", &chat("hello")).json()["usage"].clone();
    assert_eq!(server.post("/v1/chat/completions", &json!({})).status, 400);
    let wanted = json!({ "queued": 0, "running": 0, "ended": 2, "failed": 0, "cancelled": 0 });
    let started = Instant::now();
    let after = loop {
        let status = server.get("/v1/status").json();
        if status["requests"] == wanted {
            break status;
        }
        // A request has ended when its answer has left.
        assert!(started.elapsed() < Duration::from_secs(10), "{status}");
    };
    let tokens = &after["tokens"];
    assert_eq!((&tokens["prompt"], &tokens["generated"]), (&usage["prompt_tokens"], &usage["completion_tokens"]));
    assert!(after["uptime_seconds"].as_f64() > before["uptime_seconds"].as_f64());
}
