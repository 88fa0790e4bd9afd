//! One chat completion, asked over HTTP and streamed: what any client does, in the few lines that the demo needs.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::client::{self, ClientError};
use crate::error::Error;

/// A refusal is a short JSON object; whatever is longer is not worth printing.
const REFUSAL_LIMIT_BYTES: usize = 16 * 1024;

/// Asks and hands on each piece of the answer as it arrives.
pub(super) async fn ask(
    address: SocketAddr,
    key: &str,
    model: &str,
    question: &str,
    mut piece: impl FnMut(&str) -> Result<(), Error>,
) -> Result<(), Error> {
    let body = json!({ "model": model, "stream": true, "messages": [{ "role": "user", "content": question }] });
    let request = Request::post("/v1/chat/completions")
        .header("host", address.to_string())
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("the address and the key are plain text");
    let response = client::send(address, None, request).await?;
    let status = response.status();
    let mut body = response.into_body();
    let mut events = Events::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ClientError::Exchange { address: address.to_string(), source })?;
        let Some(data) = frame.data_ref() else { continue };
        events.received.extend_from_slice(data);
        if status != StatusCode::OK {
            if events.received.len() > REFUSAL_LIMIT_BYTES {
                break;
            }
            continue;
        }
        while let Some(event) = events.next() {
            if let Some(text) = content(&event) {
                piece(&text)?;
            }
        }
    }
    if status == StatusCode::OK {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&events.received).into_owned();
    Err(Error::DemoRefused { status: status.as_u16(), body })
}

/// A command that asks another question, to be pasted into a shell.
pub(super) fn curl(address: SocketAddr, key: &str, model: &str) -> String {
    let body = json!({
        "model": model,
        "stream": true,
        "messages": [{ "role": "user", "content": "How is a bundle verified?" }],
    });
    format!(
        "  curl -sN http://{address}/v1/chat/completions \\\n    -H 'Authorization: Bearer {key}' \\\n    \
         -H 'Content-Type: application/json' \\\n    -d '{body}'"
    )
}

/// Cuts a stream of bytes into server-sent events.
#[derive(Default)]
struct Events {
    received: Vec<u8>,
}

impl Events {
    /// The data of the next event that is complete.
    fn next(&mut self) -> Option<String> {
        let end = self.received.windows(2).position(|pair| pair == b"\n\n")?;
        let event: Vec<u8> = self.received.drain(..end + 2).collect();
        let lines = String::from_utf8_lossy(&event).into_owned();
        Some(lines.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).collect())
    }
}

/// The text that an event adds to the answer.  The last one, `[DONE]`, adds none and is no JSON.
fn content(event: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Chunk {
        choices: Vec<Choice>,
    }
    #[derive(Deserialize)]
    struct Choice {
        delta: Delta,
    }
    #[derive(Deserialize)]
    struct Delta {
        content: Option<String>,
    }
    let chunk: Chunk = serde_json::from_str(event).ok()?;
    chunk.choices.into_iter().next()?.delta.content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_wherever_the_network_cut_the_bytes() {
        let stream = "data: {\"choices\":[{\"delta\":{\"content\":\"Gr\u{fc}\"}}]}\n\n: ping\n\n\
                      data: {\"choices\":[{\"delta\":{\"content\":\"ezi\"}}]}\n\ndata: {\"choices\":[]}\n\ndata: [DONE]\n\n";
        for piece in [1, 2, 3, 7, 1000] {
            let mut events = Events::default();
            let mut answer = String::new();
            for bytes in stream.as_bytes().chunks(piece) {
                events.received.extend_from_slice(bytes);
                while let Some(event) = events.next() {
                    answer.push_str(&content(&event).unwrap_or_default());
                }
            }
            assert_eq!(answer, "Gr\u{fc}ezi", "pieces of {piece} bytes");
        }
    }

    #[test]
    fn the_curl_command_survives_a_shell() {
        let command = curl(([127, 0, 0, 1], 8080).into(), "amp-abc", "helper");
        assert!(!command.contains("''"), "{command}");
        assert_eq!(command.matches('\'').count(), 6, "{command}");
    }
}
