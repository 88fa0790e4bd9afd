//! Bytes that no HTTP client would send: each gets one refusal or a closed connection, never a second answer (C38).
//!
//! A proxy in front could read such bytes as one request where the appliance reads two.  So what matters is not which
//! refusal comes but that nothing which follows is taken for a request.

use anyhow::ensure;

use super::CHAT;
use crate::catalogue::Case;
use crate::target::{Target, first_bytes};

pub(super) const CASES: &[Case] = &[
    Case::served(
        "AMP-FRM-01",
        "A request whose end can be disputed is the last of its connection (C38)",
        disputed_ends,
    ),
    Case::served("AMP-FRM-02", "A head that is no HTTP is refused or closed, and harms nothing (C38)", broken_heads),
    Case::served("AMP-FRM-03", "A request must name one host (RFC 9112)", one_host),
];

fn disputed_ends(target: &Target) -> anyhow::Result<()> {
    let smuggled = "GET /livez HTTP/1.1\r\nhost: smuggled\r\n\r\n";
    for (rest, what) in [
        ("content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "a length, then chunked"),
        ("transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n", "chunked, then a length"),
        ("content-length: 1\r\ncontent-length: 2\r\n\r\nxx", "two lengths"),
        ("content-length: 2, 2\r\n\r\nxx", "a list of lengths"),
        ("content-length: +2\r\n\r\nxx", "a signed length"),
        ("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", "an unknown encoding"),
        ("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", "chunked not last"),
        ("transfer-encoding : chunked\r\n\r\n0\r\n\r\n", "a space before the colon"),
        ("content-length: 2\r\n x\r\n\r\nxx", "a folded line"),
        ("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "a chunk longer than 64 bits can tell"),
        ("transfer-encoding: chunked\r\n\r\n-1\r\n", "a chunk of negative length"),
    ] {
        let bytes = format!("{}{rest}{smuggled}", target.head_of_post(CHAT)?);
        let answer = target.connect()?.exchange(bytes.as_bytes());
        let text = String::from_utf8_lossy(&answer);
        let answers = text.matches("HTTP/1.1 ").count();
        ensure!(answers <= 1, "{what}: {answers} answers on one connection");
        ensure!(answer.is_empty() || text.starts_with("HTTP/1.1 4"), "{what}: answered with {}", first_bytes(&answer));
    }
    target.still_serves()
}

fn broken_heads(target: &Target) -> anyhow::Result<()> {
    let long = format!("GET /livez HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET /livez HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(1000));
    for bytes in [
        &b"nonsense\r\n\r\n"[..],
        b"GET /livez HTTP/9.9\r\nhost: a\r\n\r\n",
        b"GET /livez\x00 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\na\rb: c\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let answer = target.connect()?.exchange_all(bytes);
        let is_refused = answer.is_empty() || answer.starts_with(b"HTTP/1.1 4");
        ensure!(is_refused, "{} is answered with {}", first_bytes(bytes), first_bytes(&answer));
    }
    target.still_serves()
}

fn one_host(target: &Target) -> anyhow::Result<()> {
    for bytes in [
        &b"GET /livez HTTP/1.1\r\nconnection: close\r\n\r\n"[..],
        b"GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
        b"GET http://b/livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    ] {
        let answer = target.connect()?.exchange(bytes);
        ensure!(answer.starts_with(b"HTTP/1.1 400"), "{} is answered {}", first_bytes(bytes), first_bytes(&answer));
    }
    let good = b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = target.connect()?.exchange(good);
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "one host is answered {}", first_bytes(&answer));
    Ok(())
}
