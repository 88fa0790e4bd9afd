//! One request over a connection of its own, so that leaving is closing it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;

/// What is asked, and how.
pub(super) struct Ask {
    /// The length of the prompt.
    pub(super) words: u64,
    /// Whether it begins as others do, so that something of it was computed before.
    pub(super) begins_alike: bool,
    /// The longest answer.
    pub(super) tokens: u64,
    pub(super) streamed: bool,
    /// After how many lines of the answer the client leaves.
    pub(super) leaves_after: Option<u64>,
    pub(super) seed: u64,
}

/// How it ended.
pub(super) enum Outcome {
    Finished,
    Left,
    /// All places were taken, which the server says at once.
    Refused,
}

impl Ask {
    pub(super) fn send(&self, address: SocketAddr, key: &str) -> anyhow::Result<Outcome> {
        let mut stream = TcpStream::connect(address).context("cannot connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let body = self.body();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next().context("the connection was closed without an answer")??;
        if status.contains(" 429 ") {
            return Ok(Outcome::Refused);
        }
        if !status.contains(" 200 ") {
            bail!("the answer begins with {status}");
        }
        let mut whole = String::new();
        for (seen, line) in (0..).zip(lines) {
            if self.leaves_after.is_some_and(|most| seen >= most) {
                return Ok(Outcome::Left);
            }
            whole += &line?;
        }
        // A streamed answer ends with its mark, a whole one with what it cost.
        match whole.contains(if self.streamed { "[DONE]" } else { "\"usage\"" }) {
            true => Ok(Outcome::Finished),
            false => bail!("the answer ended early: {whole}"),
        }
    }

    fn body(&self) -> String {
        let first = if self.begins_alike { 0 } else { self.seed };
        let words: Vec<String> = (0..self.words).map(|word| format!("w{}", (first + word * 31) % 997)).collect();
        let content = words.join(" ");
        json!({
            "model": "demo",
            "messages": [{ "role": "user", "content": content }],
            "max_tokens": self.tokens,
            "temperature": if self.seed.is_multiple_of(2) { 0.0 } else { 1.0 },
            "seed": self.seed,
            "stream": self.streamed,
        })
        .to_string()
    }
}
