//! HTTP/2 as no decent client speaks it: floods of frames that are cheap to send and dear to answer (THREATS C40).
//!
//! The frames are written by hand (RFC 9113 §6, header blocks by RFC 7541), so that a test can say what no library would.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use ampoule::http::HttpLimits;

use crate::support::{Running, Setup, chat_body};
use crate::tls::{TlsStream, authority, client, server_config};

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;

const NO_FLAGS: u8 = 0x0;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// The longest frame that a peer takes unless it says otherwise.
const MAX_FRAME_BYTES: usize = 16_384;

/// Far more than any buffer between client and server holds: who can send this unanswered is not held back at all.
const FLOOD_BYTES: usize = 64 << 20;

struct Client {
    stream: TlsStream,
}

/// A frame as it was received.
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Client {
    fn connect(limits: HttpLimits) -> (Running, Client) {
        let authority = authority();
        let server = Setup { tls: Some(server_config(&authority)), limits, ..Setup::default() }.start();
        let mut stream = client(&server, &authority, &[b"h2"]);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(SETTINGS, NO_FLAGS, 0, &[])).unwrap();
        (server, Client { stream })
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends `bytes` again and again until the server has had enough; says how much it took, at most [`FLOOD_BYTES`].
    fn flood(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < FLOOD_BYTES && self.stream.write_all(bytes).is_ok() {
            sent += bytes.len();
        }
        sent
    }

    /// The next frame; `None` when the server has closed the connection.
    fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        self.read(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.stream.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the server neither answers nor closes")
            }
            Err(_) => None,
        }
    }

    /// Everything that the server still sends until it closes the connection.
    fn rest(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.receive()).collect()
    }

    /// The status of the answer on `stream`, or the code with which the stream was reset.
    fn answer(&mut self, stream: u32) -> Result<u16, Vec<u8>> {
        loop {
            let frame = self.receive().expect("the connection stays open");
            match frame.kind {
                HEADERS if frame.stream == stream => return Ok(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Err(frame.payload),
                GOAWAY => panic!("the server went away: {:?}", frame.payload),
                _ => {}
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal field without indexing, its name from the static table.
fn field(name: u8, value: &str) -> Vec<u8> {
    let mut bytes = if name < 15 { vec![name] } else { vec![15, name - 15] };
    bytes.push(u8::try_from(value.len()).unwrap());
    assert!(value.len() < 127, "a longer value needs a longer length");
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

const METHOD_GET: u8 = 0x82;
const METHOD_POST: u8 = 0x83;
const SCHEME_HTTPS: u8 = 0x87;

fn get(path: &str) -> Vec<u8> {
    [&[METHOD_GET, SCHEME_HTTPS][..], &field(1, "localhost"), &field(4, path)].concat()
}

fn post(server: &Running, path: &str) -> Vec<u8> {
    let bearer = format!("Bearer {}", server.key);
    [
        &[METHOD_POST, SCHEME_HTTPS][..],
        &field(1, "localhost"),
        &field(4, path),
        &field(23, &bearer),
        &field(31, "application/json"),
    ]
    .concat()
}

/// The status at the beginning of an answer's header block.
fn status(block: &[u8]) -> u16 {
    match block {
        [indexed @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)],
        // A literal status: three digits, Huffman-coded or plain.
        [0x08 | 0x48, 0x03, digits @ ..] => std::str::from_utf8(&digits[..3]).unwrap().parse().unwrap(),
        [0x08 | 0x48, 0x82, code @ ..] => huffman_digits(u16::from_be_bytes([code[0], code[1]])),
        other => panic!("no status in {other:02x?}"),
    }
}

/// Three digits of RFC 7541's code: `0`, `1` and `2` have five bits, the others six.
fn huffman_digits(code: u16) -> u16 {
    let (mut number, mut left) = (0, u32::from(code) << 16);
    for _ in 0..3 {
        let (digit, bits) = match left >> 27 {
            short @ 0..=2 => (short, 5),
            _ => ((left >> 26) - 0x19 + 3, 6),
        };
        number = number * 10 + u16::try_from(digit).unwrap();
        left <<= bits;
    }
    number
}

fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

#[test]
fn frames_written_by_hand_are_understood() {
    let (server, mut client) = Client::connect(HttpLimits::default());
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/livez")));
    assert_eq!(client.answer(1), Ok(200));
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &get("/v1/models")));
    assert_eq!(client.answer(3), Ok(401));
    client.send(&frame(HEADERS, END_HEADERS, 5, &post(&server, "/v1/chat/completions")));
    client.send(&frame(DATA, END_STREAM, 5, &chat_body("hello")));
    assert_eq!(client.answer(5), Ok(200));
}

#[test]
fn c40_rapid_reset_leaves_no_work_behind() {
    let (server, mut client) = Client::connect(HttpLimits::default());
    let head = post(&server, "/v1/chat/completions");
    let body = chat_body("hello");
    for stream in streams().take(5_000) {
        let begun = [
            frame(HEADERS, END_HEADERS, stream, &head),
            frame(DATA, END_STREAM, stream, &body),
            frame(RST_STREAM, NO_FLAGS, stream, &CANCEL),
        ];
        if client.stream.write_all(&begun.concat()).is_err() {
            break;
        }
    }
    server.becomes_idle_within(Duration::from_secs(20));
}

#[test]
fn c40_a_header_block_without_end_is_cut_off() {
    let (_server, mut client) = Client::connect(HttpLimits::default());
    client.send(&frame(HEADERS, NO_FLAGS, 1, &get("/livez")));
    let more = field(32, &"x".repeat(100)).repeat(MAX_FRAME_BYTES / 103);
    let sent = client.flood(&frame(CONTINUATION, NO_FLAGS, 1, &more));
    assert!(sent < FLOOD_BYTES, "a header block of {sent} bytes was taken");
}

#[test]
fn c40_a_small_block_that_unfolds_to_a_large_one_is_refused() {
    let (_server, mut client) = Client::connect(HttpLimits::default());
    // One field of 4000 bytes enters the dynamic table, and is named 8000 times by one byte each: 32 MB.
    let value = [&[0x7f, 0xa1, 0x1e][..], &[b'x'; 4000]].concat();
    let entry = [&[0x40, 0x01, b'x'][..], &value].concat();
    let block = [get("/livez"), entry, vec![0xbe; 8000]].concat();
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &block));
    let frames = client.rest();
    assert!(!frames.iter().any(|frame| frame.kind == HEADERS), "the request was answered");
    assert!(frames.iter().any(|frame| frame.kind == GOAWAY), "the connection was not ended for it");
}

#[test]
fn c40_who_asks_without_reading_is_held_back() {
    for (kind, payload, answer) in [(PING, &[7; 8][..], "pong"), (SETTINGS, &[][..], "acknowledgement")] {
        let limits = HttpLimits { write_deadline: Duration::from_millis(300), ..HttpLimits::default() };
        let (_server, mut client) = Client::connect(limits);
        let sent = client.flood(&frame(kind, NO_FLAGS, 0, payload).repeat(1000));
        assert!(sent < FLOOD_BYTES, "{sent} bytes were taken and no {answer} was read");
    }
}

#[test]
fn c39_who_never_opens_the_window_is_given_up() {
    let limits = HttpLimits { write_deadline: Duration::from_millis(300), ..HttpLimits::default() };
    let (_server, mut client) = Client::connect(limits);
    const NO_INITIAL_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
    client.send(&frame(SETTINGS, NO_FLAGS, 0, &NO_INITIAL_WINDOW));
    client.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/v1/models")));
    let started = Instant::now();
    let frames = client.rest();
    assert!(frames.iter().any(|frame| frame.kind == HEADERS), "the head needs no window");
    assert!(!frames.iter().any(|frame| frame.kind == DATA && !frame.payload.is_empty()));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn c40_pings_that_are_read_are_answered() {
    let (_server, mut client) = Client::connect(HttpLimits::default());
    for _ in 0..1000 {
        client.send(&frame(PING, NO_FLAGS, 0, b"01234567"));
        loop {
            let reply = client.receive().expect("the connection stays open");
            if (reply.kind, reply.flags) == (PING, ACK) {
                assert_eq!(reply.payload, b"01234567");
                break;
            }
        }
    }
}

#[test]
fn c40_empty_data_frames_do_not_keep_a_request_alive() {
    let deadline = Duration::from_millis(300);
    let limits = HttpLimits { body_deadline: deadline, header_deadline: deadline, ..HttpLimits::default() };
    let (server, mut client) = Client::connect(limits);
    client.send(&frame(HEADERS, END_HEADERS, 1, &post(&server, "/v1/chat/completions")));
    let (started, empty) = (Instant::now(), frame(DATA, NO_FLAGS, 1, &[]).repeat(1000));
    let mut is_open = true;
    while is_open && started.elapsed() < 5 * deadline {
        is_open = client.stream.write_all(&empty).is_ok();
    }
    // Either the request was answered, or its connection was ended for it.
    let is_answered = client.rest().iter().any(|frame| frame.kind == HEADERS && status(&frame.payload) == 408);
    assert!(is_answered || !is_open, "the request outlived its deadline");
}

#[test]
fn c40_streams_beyond_the_limit_are_refused() {
    let (server, mut client) = Client::connect(HttpLimits { max_streams_per_connection: 4, ..HttpLimits::default() });
    let head = post(&server, "/v1/chat/completions");
    for stream in streams().take(4) {
        client.send(&frame(HEADERS, END_HEADERS, stream, &head));
    }
    client.send(&frame(HEADERS, END_HEADERS, 9, &head));
    assert_eq!(client.answer(9), Err(REFUSED_STREAM.to_vec()));
    for stream in streams().take(4) {
        client.send(&frame(DATA, END_STREAM, stream, &chat_body("hello")));
        assert_eq!(client.answer(stream), Ok(200));
    }
}

#[test]
fn c40_frames_that_no_request_explains_end_the_connection() {
    for (what, bytes) in [
        ("data on a stream that was never opened", frame(DATA, NO_FLAGS, 7, b"x")),
        ("a header block on stream 0", frame(HEADERS, END_HEADERS, 0, &get("/livez"))),
        ("a ping of seven bytes", frame(PING, NO_FLAGS, 0, &[0; 7])),
        ("a frame longer than was agreed", frame(DATA, NO_FLAGS, 1, &[0; MAX_FRAME_BYTES + 1])),
        ("a header block that is no HPACK", frame(HEADERS, END_HEADERS, 1, &[0xff; 64])),
    ] {
        let (_server, mut client) = Client::connect(HttpLimits::default());
        client.send(&bytes);
        assert!(client.rest().iter().any(|frame| frame.kind == GOAWAY), "{what}");
    }
}
