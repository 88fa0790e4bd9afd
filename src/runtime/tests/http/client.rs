//! A client that shows bytes: requests are written by hand, answers are taken apart by hand, so that a test sees what
//! really crosses the connection, and can write what no decent client would.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than any answer of a tiny model takes, shorter than a person's patience.
const PATIENCE: Duration = Duration::from_secs(60);

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The error body's members, after checking that all four and no others are there.
    pub(crate) fn error(&self) -> Value {
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no error body: {body}"));
        let members: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(members, ["message", "type", "param", "code"]);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        assert!(error["type"].is_string(), "{body}");
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(1), "{body}");
        // THREATS C45: nothing of our inside.
        for leak in ["/work", "/src", ".rs:", "panicked", "::", "u32", "usize", "Option<", "0x", "backtrace"] {
            assert!(!self.text().contains(leak), "{leak:?} in {}", self.text());
        }
        body["error"].clone()
    }

    /// The events of a streamed answer, without the closing `[DONE]`, which must be there.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> =
            self.text().split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':')).collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{}", self.text());
        let json = |event: &str| {
            let data = event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?} is no event"));
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in {data:?}"))
        };
        events.into_iter().map(json).collect()
    }
}

/// Sends `bytes` on a connection of its own and reads the first answer.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Reply {
    let mut stream = connect(address);
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    read_reply(&mut stream)
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream
}

/// Reads one answer; leaves the connection where it ends.
pub(crate) fn read_reply(stream: &mut impl Read) -> Reply {
    let head = read_until(stream, b"\r\n\r\n");
    let head = String::from_utf8(head).expect("the head is UTF-8");
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
    let body = if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        read_chunks(stream)
    } else {
        let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a length"));
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("the whole body");
        body
    };
    Reply { status, headers, body }
}

fn read_chunks(stream: &mut impl Read) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = String::from_utf8(read_until(stream, b"\r\n")).expect("a chunk's size");
        let size = usize::from_str_radix(line.trim(), 16).expect("a chunk's size in hexadecimal");
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).expect("a whole chunk");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

fn read_until(stream: &mut impl Read, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end) {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            other => panic!("the connection ended ({other:?}) after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    bytes.truncate(bytes.len() - end.len());
    bytes
}
