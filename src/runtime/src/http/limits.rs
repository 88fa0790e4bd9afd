//! Every limit of the HTTP surface, each with its reason, and the one way in which a body is read.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::openai::parse::parse;
use super::state::{Appliance, BodyMemory};

/// The limits of the HTTP surface.  Nothing that a client sends is unbounded in size, number or time.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpLimits {
    /// The longest request body in bytes.  2 MiB hold a prompt of some 500 000 tokens.
    pub max_body_bytes: usize,
    /// How many bytes of bodies may be in memory at once, over all connections; beyond it the answer is 429.
    pub max_buffered_body_bytes: usize,
    /// How long a body may take to arrive.
    pub body_deadline: Duration,
    /// How long a request may wait for a core that tokenises its prompt; then the answer is 429.
    pub prompt_queue_deadline: Duration,
    /// How long a request's head may take to arrive, and how long an HTTP/1 connection may idle between requests.
    pub header_deadline: Duration,
    /// The longest request head in bytes.
    pub max_header_bytes: usize,
    /// How long a TLS handshake may take.
    pub handshake_deadline: Duration,
    /// How long a client may leave an answer unread before its connection is closed, and how long an HTTP/2 connection
    /// may idle between requests.
    pub write_deadline: Duration,
    /// How many connections may be open; further ones wait in the system's backlog.
    pub max_connections: usize,
    /// How many of them one client may have, by its address; further ones are closed at once.
    pub max_connections_per_client: usize,
    /// How many requests one HTTP/2 connection may have open.
    pub max_streams_per_connection: u32,
    /// After the signal to stop: how long readiness already says no while requests are still served, so that a load
    /// balancer can notice.
    pub readiness_grace: Duration,
    /// After the listener closed: how long running requests may take to end.
    pub drain_deadline: Duration,
    /// The most answers that one request may ask for: its prompts times its `n`.
    pub max_choices: usize,
    /// The longest answer in tokens, where bundle or configuration limit it beyond the model's context.
    pub max_output_tokens: Option<u32>,
    /// The most inputs of one embedding request; OpenAI's own limit by default.
    pub max_embedding_inputs: usize,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            max_body_bytes: 2 << 20,
            max_buffered_body_bytes: 128 << 20,
            body_deadline: Duration::from_secs(30),
            prompt_queue_deadline: Duration::from_secs(10),
            header_deadline: Duration::from_secs(10),
            max_header_bytes: 32 << 10,
            handshake_deadline: Duration::from_secs(10),
            write_deadline: Duration::from_secs(60),
            max_connections: 1024,
            max_connections_per_client: 768,
            max_streams_per_connection: 64,
            readiness_grace: Duration::ZERO,
            drain_deadline: Duration::from_secs(30),
            max_choices: 16,
            max_output_tokens: None,
            max_embedding_inputs: 2048,
        }
    }
}

/// A request body that is one JSON object of type `T`, read within the limits, and the memory that it has taken from the
/// budget for bodies: [`Appliance::off_thread`] gives it back when the object has been used up.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T, pub(crate) BodyMemory);

impl<T: DeserializeOwned> FromRequest<Appliance> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, appliance: &Appliance) -> Result<Json<T>, ApiError> {
        if appliance.is_draining() {
            return Err(ApiError::unavailable("The server is shutting down."));
        }
        let limits = appliance.limits();
        check_encoding(request.headers())?;
        let declared = declared_length(request.headers());
        // Refused by its declared length, before a byte of it is read (THREATS C36).
        if declared.is_some_and(|length| length > limits.max_body_bytes as u64) {
            return Err(ApiError::body_too_large(limits.max_body_bytes));
        }
        let mut memory = appliance.body_memory();
        let reading = read(request.into_body(), limits.max_body_bytes, &mut memory);
        let body = tokio::time::timeout(limits.body_deadline, reading).await;
        let body = body.unwrap_or_else(|_| Err(ApiError::body_too_slow(limits.body_deadline.as_secs())))?;
        Ok(Json(parse(&body)?, memory))
    }
}

/// Memory is taken as bytes arrive: a promise to send much, and then nothing, takes none from others (THREATS C39).
async fn read(mut body: Body, limit: usize, memory: &mut BodyMemory) -> Result<BytesMut, ApiError> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // The client went away or broke the framing; nobody may read this answer.
        let cut_short = |_| ApiError::invalid(super::error::Param::NONE, "The request body was cut short.").closing();
        let Ok(data) = frame.map_err(cut_short)?.into_data() else { continue };
        if data.len() > limit - collected.len() {
            return Err(ApiError::body_too_large(limit));
        }
        memory.grow(collected.len() + data.len())?;
        collected.extend_from_slice(&data);
    }
    Ok(collected)
}

/// Only plain JSON is read: a compressed body could unfold to any size (THREATS C22), and a form or a text body is
/// what a browser may send across sites without asking.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    for value in headers.get_all(CONTENT_ENCODING) {
        if !value.as_bytes().eq_ignore_ascii_case(b"identity") {
            return Err(ApiError::unsupported_media_type("Compressed request bodies are not accepted."));
        }
    }
    let essence = |value: &str| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(essence) {
        Some(kind) if kind == "application/json" => Ok(()),
        _ => Err(ApiError::unsupported_media_type("The request needs the header `Content-Type: application/json`.")),
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How much of a body that nobody read is read and dropped after the answer, in bytes and in time.
const LINGER_BYTES: usize = 8 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// A request body that, when it is dropped unread, is drained for a moment in the background.
///
/// A refusal such as 401 or 413 is sent while the client may still be writing.  Closing at once would answer its next
/// packet with a reset, and the client would report a broken connection in place of the error it was sent.
#[derive(Debug)]
pub(crate) struct LingeringBody<B: Lingers>(Option<B>);

/// A body that may be drained by a task of its own.
pub(crate) trait Lingers: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static {}
impl<B: http_body::Body<Data = Bytes, Error: Send> + Send + Unpin + 'static> Lingers for B {}

impl<B: Lingers> LingeringBody<B> {
    pub(crate) fn new(body: B) -> LingeringBody<B> {
        LingeringBody(Some(body))
    }
}

impl<B: Lingers> http_body::Body for LingeringBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.0 {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), http_body::Body::size_hint)
    }
}

impl<B: Lingers> Drop for LingeringBody<B> {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(LINGER_TIME, async move {
            let mut left = LINGER_BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len).max(1));
                if left == 0 {
                    return;
                }
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn c22_only_plain_json_is_read() {
        let check = |kind: Option<&'static str>, encoding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(kind) = kind {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            if let Some(encoding) = encoding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            check_encoding(&headers).is_ok()
        };
        assert!(check(Some("application/json"), None));
        assert!(check(Some("Application/JSON; charset=utf-8"), Some("identity")));
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")] {
            assert!(!check(kind, None), "{kind:?}");
        }
        for encoding in ["gzip", "br", "zstd", "deflate", "gzip, identity", "x-unknown"] {
            assert!(!check(Some("application/json"), Some(encoding)), "{encoding}");
        }
    }
}
