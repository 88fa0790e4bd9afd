//! Streams a generation as server-sent events: `data: {json}` per event, `data: [DONE]` at the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use serde::Serialize;
use tokio::time::timeout;

use super::error::ApiError;
use super::generation::{ChoiceEvent, Generation};
use super::openai::Usage;
use super::openai::chat::StreamOptions;
use super::openai::value::Object;

/// How long a stream may be silent before a comment is sent: proxies close connections that look dead, and only a
/// write tells that the client has left.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Tells nginx not to collect the answer before passing it on.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Whether the answer is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streamed {
    No,
    Yes { usage: bool },
}

impl Streamed {
    pub(crate) fn of(stream: Option<bool>, options: Option<&Object<StreamOptions>>) -> Result<Streamed, ApiError> {
        match (stream.unwrap_or(false), options) {
            (false, Some(_)) => Err(ApiError::invalid("stream_options", "`stream_options` needs `stream` to be true.")),
            (false, None) => Ok(Streamed::No),
            (true, options) => {
                Ok(Streamed::Yes { usage: options.and_then(|Object(options)| options.include_usage).unwrap_or(false) })
            }
        }
    }
}

/// Turns what happens into one endpoint's events.
pub(crate) trait Narrator: Send + 'static {
    /// An event of this endpoint's stream.
    type Event: Serialize;

    /// The event with which a choice begins, if it begins with one.
    fn opening(&mut self, choice: usize) -> Option<Self::Event>;

    /// The event for something that happened to a choice, if it is worth one.
    fn event(&mut self, choice: usize, event: ChoiceEvent) -> Option<Self::Event>;

    /// The last event, if the client asked for usage.
    fn usage(&mut self, usage: Usage) -> Option<Self::Event>;
}

/// The streamed answer.
pub(crate) fn respond<N: Narrator>(generation: Generation, narrator: N) -> Response {
    let headers =
        [(CONTENT_TYPE, "text/event-stream; charset=utf-8"), (CACHE_CONTROL, "no-cache"), (X_ACCEL_BUFFERING, "no")];
    let mut story = Story { generation, narrator, waiting: VecDeque::new(), ended: false };
    for choice in 0..story.generation.choices() {
        if let Some(event) = story.narrator.opening(choice) {
            story.tell(&event);
        }
    }
    let body = unfold(story, |mut story| async move {
        let bytes = story.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), story))
    });
    (headers, Body::from_stream(body)).into_response()
}

struct Story<N> {
    generation: Generation,
    narrator: N,
    waiting: VecDeque<Bytes>,
    ended: bool,
}

impl<N: Narrator> Story<N> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.waiting.pop_front() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            match timeout(KEEP_ALIVE_INTERVAL, self.generation.next()).await {
                Err(_) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Ok(Some(Ok((choice, event)))) => {
                    if let Some(event) = self.narrator.event(choice, event) {
                        self.tell(&event);
                    }
                }
                Ok(Some(Err(error))) => self.fail(&error),
                Ok(None) => {
                    if let Some(event) = self.narrator.usage(self.generation.usage()) {
                        self.tell(&event);
                    }
                    self.waiting.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
                    self.ended = true;
                }
            }
        }
    }

    fn tell(&mut self, event: &impl Serialize) {
        match line(event) {
            Ok(bytes) => self.waiting.push_back(bytes),
            Err(error) => self.fail(&ApiError::internal(error)),
        }
    }

    /// The status line has gone, so the error becomes an event; clients raise on it.  No `[DONE]` follows.
    fn fail(&mut self, error: &ApiError) {
        let body = error.body();
        let cause = error.internal_cause().unwrap_or(&body.error.message);
        self.generation.record().set_late_failure(cause.to_owned());
        // A body of four short members cannot fail to be written; if it did, the stream would end without `[DONE]`.
        self.waiting.extend(line(&body).ok());
        self.ended = true;
    }
}

fn line(event: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut bytes = b"data: ".to_vec();
    // JSON escapes line breaks, so an event is always a single line.
    serde_json::to_writer(&mut bytes, event)?;
    bytes.extend_from_slice(b"\n\n");
    Ok(bytes.into())
}
