//! The status page: what a person at the site sees in a browser, and the small JSON behind it.
//!
//! `GET /` is a static shell, public because a browser cannot send a key before it has a page to type it into. It is one
//! document without any outside part: style and script lie in it, and the policy that goes with it allows exactly these
//! two, by their digests, and requests to nowhere but here. So nothing that a bundle, a model or a request says can
//! become script, and the page works where there is no other network. What it shows it asks for with the key:
//! `/v1/metadata` for what is running, `/v1/status` for how it is doing, `/v1/chat/completions` to talk to it.

use std::sync::LazyLock;

use axum::Json;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::state::Appliance;

const MARKUP: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Keeps a window that opened this page, or that it opened, from reaching into it.
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

struct Page {
    document: String,
    policy: HeaderValue,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| Page {
    document: MARKUP.replace("/*page.css*/", STYLE).replace("/*page.js*/", SCRIPT),
    policy: HeaderValue::try_from(policy()).expect("the policy is ASCII"),
});

/// `GET /`
pub(crate) async fn page() -> Response {
    let headers = [
        (CONTENT_SECURITY_POLICY, PAGE.policy.clone()),
        (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (OPENER_POLICY, HeaderValue::from_static("same-origin")),
    ];
    (headers, Html(PAGE.document.as_str())).into_response()
}

/// Everything is forbidden but what the page needs, and that is named as narrowly as it can be.
fn policy() -> String {
    let source = |text: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
    [
        "default-src 'none'",
        &format!("script-src {}", source(SCRIPT)),
        &format!("style-src {}", source(STYLE)),
        "connect-src 'self'",
        // The empty icon; without one a browser asks for /favicon.ico.
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ]
    .join("; ")
}

/// `GET /v1/status`: how the appliance is doing, as counts and gauges.
pub(crate) async fn status(State(appliance): State<Appliance>) -> Json<Status> {
    let engine = appliance.engine().stats();
    let outcomes = appliance.metrics().outcomes();
    Json(Status {
        object: "status",
        state: match (appliance.is_alive(), appliance.is_ready()) {
            (false, _) => "failed",
            (true, true) => "ready",
            (true, false) => "draining",
        },
        uptime_seconds: appliance.uptime().as_secs_f64(),
        requests: Requests {
            queued: appliance.queued(),
            running: engine.running,
            ended: outcomes.ended,
            failed: outcomes.failed,
            cancelled: engine.cancelled,
        },
        tokens: Tokens {
            held: engine.tokens_held,
            budget: engine.token_budget,
            prompt: engine.prompt_tokens,
            generated: engine.completion_tokens,
        },
    })
}

#[derive(Debug, Serialize)]
pub(crate) struct Status {
    object: &'static str,
    state: &'static str,
    uptime_seconds: f64,
    requests: Requests,
    tokens: Tokens,
}

#[derive(Debug, Serialize)]
struct Requests {
    queued: usize,
    running: usize,
    ended: u64,
    failed: u64,
    cancelled: u64,
}

#[derive(Debug, Serialize)]
struct Tokens {
    held: usize,
    budget: usize,
    prompt: u64,
    generated: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_and_script_lie_in_the_document_as_they_were_digested() {
        assert!(PAGE.document.contains(&format!("<style>{STYLE}</style>")));
        assert!(PAGE.document.contains(&format!("<script>{SCRIPT}</script>")));
        // Either would end its element early, and the digest would be one of other text.
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        assert!(!format!("{STYLE}{SCRIPT}").contains('\r'), "a browser would digest another line end");
    }

    #[test]
    fn nothing_in_the_page_needs_what_the_policy_forbids() {
        for attribute in
            [" onclick", " onload", " onsubmit", " onerror", " style=", " src=", "javascript:", "http:", "https:"]
        {
            assert!(!MARKUP.contains(attribute), "{attribute}");
        }
        for sink in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "cookie"]
        {
            assert!(!SCRIPT.contains(sink), "{sink}");
        }
    }
}
