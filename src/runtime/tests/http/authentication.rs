//! Who gets in (THREATS C42): nobody without a key, on any path, and all failures look the same.

use crate::support::{Setup, chat_body};

#[test]
fn c42_every_failure_of_authentication_is_the_same_401() {
    let server = Setup::default().start();
    let key = server.key.clone();
    let cases: Vec<Vec<(&str, String)>> = vec![
        vec![],
        vec![("authorization", "Bearer".to_owned())],
        vec![("authorization", "Bearer wrong".to_owned())],
        vec![("authorization", key.clone())],
        vec![("authorization", format!("Basic {key}"))],
        vec![("authorization", format!("Bearer {}", &key[..key.len() - 1]))],
        vec![("authorization", format!("Bearer {key}x"))],
        vec![("authorization", format!("Bearer {key}")), ("authorization", format!("Bearer {key}"))],
        vec![("x-api-key", "wrong".to_owned())],
    ];
    let mut bodies = Vec::new();
    for headers in cases {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let reply = server.raw("GET", "/v1/models", &headers, b"");
        assert_eq!(reply.status, 401, "{headers:?}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        assert_eq!(reply.error()["code"], "invalid_api_key");
        bodies.push(reply.body);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "the failures can be told apart");
}

#[test]
fn either_header_carries_the_key() {
    let server = Setup::default().start();
    let key = server.key.clone();
    let bearer = format!("bearer {key}");
    assert_eq!(server.raw("GET", "/v1/models", &[("authorization", &bearer)], b"").status, 200);
    assert_eq!(server.raw("GET", "/v1/models", &[("x-api-key", &key)], b"").status, 200);
}

#[test]
fn without_a_key_only_the_two_probes_and_the_shell_of_the_status_page_answer() {
    let server = Setup::default().start();
    for path in ["/livez", "/readyz"] {
        let reply = server.raw("GET", path, &[], b"");
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{path}");
    }
    assert_eq!(server.raw("GET", "/", &[], b"").status, 200);
    let paths = [
        "//",
        "/index.html",
        "/favicon.ico",
        "/v1/status",
        "/livez/",
        "/livez/x",
        "/Livez",
        "/readyz?x=/livez",
        "/v1/models",
        "/v1/models/demo",
        "/v1/metadata",
        "/v1/health/live",
        "/v1/health/ready",
        "/metrics",
        "/v1/chat/completions",
        "/docs",
        "/openapi.json",
        "//livez",
        "/livez/../v1/models",
        "/%6civez",
        "/admin",
        "/v1/load_lora_adapter",
    ];
    for path in paths.into_iter().filter(|path| *path != "/readyz?x=/livez") {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let reply = server.raw(method, path, &[("content-type", "application/json")], b"{}");
            assert_eq!(reply.status, 401, "{method} {path}");
        }
    }
    for path in ["/livez", "/readyz", "/"] {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            assert_eq!(server.raw(method, path, &[], b"").status, 401, "{method} {path}");
        }
    }
}

#[test]
fn metrics_are_not_on_the_public_listener() {
    let server = Setup::default().start();
    assert_eq!(server.get("/metrics").status, 404);
    let page = server.metrics();
    assert_eq!(page.status, 200);
    assert!(page.text().contains("ampoule_bundle_info{"), "{}", page.text());
}

#[test]
fn a_refused_body_does_not_break_the_connection() {
    // The client is still writing when the answer comes; it must be able to read the answer, not a reset.
    let server = Setup::default().start();
    let body = chat_body(&"word ".repeat(200_000));
    let reply = server.raw("POST", "/v1/chat/completions", &[("content-type", "application/json")], &body);
    assert_eq!(reply.status, 401);
}
