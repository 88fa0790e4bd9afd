//! One log line and one set of measurements for each request: who, what, how long, how many tokens; never what was
//! said (THREATS C46).
//!
//! This is the outermost layer.  It also turns a panic of anything inside it into a 500 (THREATS C47), gives every
//! answer its `x-request-id`, and closes connections on which the next request's beginning could be disputed.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONNECTION, HOST, HeaderValue, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Uri, Version};
use http_body::{Body as _, Frame, SizeHint};

use super::error::{ApiError, InternalCause, Param};
use super::request_id::{RequestId, X_REQUEST_ID};
use super::state::Appliance;
use crate::metrics::{Endpoint, Metrics};

/// What is known of a request when its line is written; handlers fill it in as they learn it.
#[derive(Debug, Clone)]
pub(crate) struct RequestRecord(Arc<Facts>);

#[derive(Debug)]
struct Facts {
    started: Instant,
    key: OnceLock<(u64, String)>,
    first_token: OnceLock<Duration>,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    late_failure: OnceLock<String>,
}

impl RequestRecord {
    fn new(started: Instant) -> RequestRecord {
        RequestRecord(Arc::new(Facts {
            started,
            key: OnceLock::new(),
            first_token: OnceLock::new(),
            prompt_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            late_failure: OnceLock::new(),
        }))
    }

    /// When the request's head was read.
    pub(crate) fn started(&self) -> Instant {
        self.0.started
    }

    /// Whose key the request carries; nobody's on the public paths.
    pub(crate) fn key_name(&self) -> Option<&str> {
        self.0.key.get().map(|(_, name)| name.as_str())
    }

    /// The number of the key, for the engine, which knows no names; nothing is computed for nobody.
    pub(crate) fn tenant(&self) -> u64 {
        self.0.key.get().map_or(u64::MAX, |(number, _)| *number)
    }

    pub(crate) fn set_key(&self, number: u64, name: &str) {
        let _ = self.0.key.set((number, name.to_owned()));
    }

    /// Only the first call counts.
    pub(crate) fn set_first_token(&self, after: Duration) {
        let _ = self.0.first_token.set(after);
    }

    /// Notes the cause of a failure that came after the answer's head was sent.
    pub(crate) fn set_late_failure(&self, cause: String) {
        let _ = self.0.late_failure.set(cause);
    }

    pub(crate) fn add_prompt_tokens(&self, count: u64) {
        self.0.prompt_tokens.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_completion_tokens(&self, count: u64) {
        self.0.completion_tokens.fetch_add(count, Ordering::Relaxed);
    }
}

/// The outermost layer around the router.
pub(crate) async fn observe(State(appliance): State<Appliance>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::from_headers(request.headers());
    let endpoint = Endpoint::of(request.uri().path());
    let method = request.method().clone();
    let version = request.version();
    let disputable = has_disputable_end(request.headers());
    let record = RequestRecord::new(started);
    request.extensions_mut().insert(record.clone());

    let mut response = if names_its_host(version, request.uri(), request.headers()) {
        without_panic(next.run(request)).await
    } else {
        ApiError::invalid(Param::NONE, "The request must name one host, in `Host`.").closing().into_response()
    };

    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, id.header_value());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if version == Version::HTTP_2 {
        headers.remove(CONNECTION);
    } else if disputable {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let line = AccessLine {
        id,
        endpoint,
        method: method.to_string().chars().take(16).collect(),
        status: response.status().as_u16(),
        cause: response.extensions_mut().remove::<InternalCause>().map(|cause| cause.0),
        record,
        metrics: appliance.metrics().clone(),
        // An empty body is at its end before anybody asks for it.
        ended: if response.body().is_end_stream() { BodyEnd::Complete } else { BodyEnd::Dropped },
    };
    response.map(|body| Body::new(ObservedBody { body, line }))
}

/// The answer, or a 500 if its making panics.  The panic's message goes to the log by the process's panic hook.
async fn without_panic(answer: impl Future<Output = Response>) -> Response {
    match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(response) => response,
        Err(_) => ApiError::internal("a handler panicked").into_response(),
    }
}

/// RFC 9112 §3.2: a proxy and we could otherwise mean different hosts by the same request.
fn names_its_host(version: Version, target: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next(), target.authority()) {
        (None, _, authority) => version != Version::HTTP_11 || authority.is_some(),
        (Some(_), Some(_), _) => false,
        (Some(host), None, Some(authority)) => host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()),
        (Some(_), None, None) => true,
    }
}

/// Whether another reader of the same bytes could think that this request ends elsewhere: a chunked body, and above
/// all one with a length beside it, whose length hyper drops before we see it (THREATS C38).
fn has_disputable_end(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyEnd {
    /// Every byte was handed over for sending.
    Complete,
    /// The body was dropped before its end: the client left.
    Dropped,
}

/// Writes its line when it is dropped, which is when the last byte of the answer was handed over or given up.
#[derive(Debug)]
struct AccessLine {
    id: RequestId,
    endpoint: Endpoint,
    method: String,
    status: u16,
    cause: Option<String>,
    record: RequestRecord,
    metrics: Metrics,
    ended: BodyEnd,
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        let duration = self.record.started().elapsed();
        self.metrics.request_ended(self.endpoint, self.status, duration);
        let facts = &self.record.0;
        if facts.late_failure.get().is_some() {
            self.metrics.stream_broke(self.endpoint);
        }
        let cause = self.cause.as_deref().or(facts.late_failure.get().map(String::as_str));
        tracing::info!(
            request_id = self.id.as_str(),
            key = self.record.key_name(),
            endpoint = self.endpoint.as_str(),
            method = self.method,
            status = self.status,
            duration_seconds = duration.as_secs_f64(),
            first_token_seconds = facts.first_token.get().map(Duration::as_secs_f64),
            prompt_tokens = facts.prompt_tokens.load(Ordering::Relaxed),
            completion_tokens = facts.completion_tokens.load(Ordering::Relaxed),
            complete = self.ended == BodyEnd::Complete,
            cause,
            "a request was answered",
        );
    }
}

struct ObservedBody {
    body: Body,
    line: AccessLine,
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.line.ended = BodyEnd::Complete;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::CONTENT_LENGTH;

    use super::*;

    #[tokio::test]
    async fn c47_a_panic_becomes_a_500_that_tells_nothing() {
        let response = without_panic(async { panic!("a secret in a panic's message") }).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 4096).await.expect("a small body");
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("internal_error") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn c38_chunked_requests_end_their_connection() {
        let with = |pairs: &[(http::HeaderName, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(name, HeaderValue::from_static(value));
            }
            has_disputable_end(&headers)
        };
        assert!(with(&[(TRANSFER_ENCODING, "chunked")]));
        assert!(!with(&[(CONTENT_LENGTH, "1")]) && !with(&[]));
    }
}
