//! Clients that mean harm, or behave as if they did: too much, too slow, too clever (THREATS C35 to C40).

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use ampoule::http::HttpLimits;
use serde_json::json;

use crate::client::{connect, exchange, read_reply};
use crate::support::{Running, Setup, again, chat, chat_body, request};

fn head(server: &Running, rest: &str) -> String {
    let key = &server.key;
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{rest}"
    )
}

#[test]
fn c36_a_body_too_long_is_refused_unread() {
    let server = Setup::default().start();
    // Declared: refused by the length alone, though not a byte of it ever comes.
    for length in ["2097153", "9223372036854775808"] {
        let reply = exchange(server.address, head(&server, &format!("content-length: {length}\r\n\r\n")).as_bytes());
        assert_eq!((reply.status, &reply.error()["code"]), (413, &json!("request_too_large")), "{length}");
        assert_eq!(reply.header("connection"), Some("close"));
    }
    // A length beyond 64 bits is no length: hyper refuses the head itself.
    let reply = exchange(server.address, head(&server, "content-length: 99999999999999999999999\r\n\r\n").as_bytes());
    assert_eq!(reply.status, 400);
    // Sent in full by a client that reads its answer only then: it still gets to read it.
    let reply = server.post_bytes("/v1/chat/completions", &chat_body(&"a".repeat(3 << 20)));
    assert_eq!((reply.status, &reply.error()["code"]), (413, &json!("request_too_large")));
    server.still_serves();
}

#[test]
fn c35_a_body_in_many_chunks_is_bounded() {
    let server = Setup::default().start();
    let mut stream = connect(server.address);
    stream.write_all(head(&server, "transfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    // Three million bytes, one a chunk: past the limit of two the server answers and stops reading.
    let chunks = b"1\r\na\r\n".repeat(10_000);
    for _ in 0..300 {
        if stream.write_all(&chunks).is_err() {
            break;
        }
    }
    let reply = read_reply(&mut stream);
    assert_eq!((reply.status, &reply.error()["code"]), (413, &json!("request_too_large")));
    let mut stream = connect(server.address);
    stream.write_all(head(&server, "transfer-encoding: chunked\r\n\r\n").as_bytes()).unwrap();
    stream.write_all(format!("1;{}\r\na\r\n", "x".repeat(100_000)).as_bytes()).unwrap();
    let _ = stream.write_all(b"0\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    server.still_serves();
}

#[test]
fn c38_a_request_with_two_ends_is_the_last_of_its_connection() {
    let server = Setup::default().start();
    let smuggled = "GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n";
    for (rest, what) in [
        ("content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "length, then chunked"),
        ("transfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n0\r\n\r\n", "chunked, then length"),
        ("content-length: 1\r\ncontent-length: 2\r\n\r\nxx", "two lengths"),
        ("content-length: 2, 2\r\n\r\nxx", "a list of lengths"),
        ("content-length: +2\r\n\r\nxx", "a signed length"),
        ("transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", "an unknown encoding"),
        ("transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", "chunked not last"),
        ("transfer-encoding : chunked\r\n\r\n0\r\n\r\n", "a space before the colon"),
        ("content-length: 2\r\n x\r\n\r\nxx", "a folded line"),
        ("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n", "a chunk size beyond 64 bits"),
        ("transfer-encoding: chunked\r\n\r\n-1\r\n", "a negative chunk size"),
    ] {
        let mut stream = connect(server.address);
        stream.write_all(head(&server, rest).as_bytes()).unwrap();
        let _ = stream.write_all(smuggled.as_bytes());
        let mut answers = String::new();
        let _ = stream.read_to_string(&mut answers);
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{what}: a second answer in {answers}");
        assert!(answers.is_empty() || answers.starts_with("HTTP/1.1 4"), "{what}: {answers}");
        assert!(!answers.contains("\"object\":\"list\""), "{what}");
    }
    server.still_serves();
}

#[test]
fn c38_heads_that_are_no_http_are_refused() {
    let server = Setup::default().start();
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1000));
    for bytes in [
        &b"nonsense\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET http://b/livez HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\na\rb: c\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = connect(server.address);
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{shown}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    server.still_serves();
}

#[test]
fn c39_slow_heads_and_bodies_are_given_up() {
    let limits = HttpLimits {
        header_deadline: Duration::from_millis(200),
        body_deadline: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let server = Setup { limits, ..Setup::default() }.start();
    let started = Instant::now();
    let mut silent = connect(server.address);
    let mut slow_head = connect(server.address);
    slow_head.write_all(b"GET /livez HTTP/1.1\r\nx: ").unwrap();
    let mut idle = connect(server.address);
    assert_eq!(again(&mut idle, &request("GET", "/livez", &[], b"")).status, 200);
    for (stream, what) in [(&mut silent, "silent"), (&mut slow_head, "slow head"), (&mut idle, "idle")] {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(started.elapsed() < Duration::from_secs(10), "{what} was kept");
    }
    let mut slow_body = connect(server.address);
    slow_body.write_all(head(&server, "content-length: 100\r\n\r\n{").as_bytes()).unwrap();
    let reply = read_reply(&mut slow_body);
    assert_eq!((reply.status, &reply.error()["code"]), (408, &json!("request_timeout")));
    server.still_serves();
}

#[test]
fn c39_bodies_in_memory_are_bounded_over_all_connections() {
    let limits = HttpLimits { max_buffered_body_bytes: 2 << 20, ..HttpLimits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let promised = [(); 4].map(|()| {
        let mut promised = connect(server.address);
        promised.write_all(head(&server, "content-length: 2000000\r\n\r\n{").as_bytes()).unwrap();
        promised
    });
    std::thread::sleep(Duration::from_millis(200));
    let reply = server.post_bytes("/v1/chat/completions", &chat_body(&"a".repeat(1 << 20)));
    assert_eq!(reply.status, 400, "what is only promised takes memory: {}", reply.text());
    drop(promised);
    let hold = || {
        let mut held = connect(server.address);
        held.write_all(head(&server, "content-length: 2000000\r\n\r\n{").as_bytes()).unwrap();
        held.write_all(&vec![b' '; 1_500_000]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        held
    };
    let mut held = hold();
    let started = Instant::now();
    loop {
        let reply = server.post_bytes("/v1/chat/completions", &chat_body(&"a".repeat(1 << 20)));
        if reply.status == 429 {
            assert_eq!(reply.header("retry-after"), Some("1"));
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{}", reply.text());
        // It was not read yet, or it was the one that found no memory.
        held = hold();
    }
    drop(held);
    server.still_serves();
}

#[test]
fn connections_beyond_the_limit_wait_their_turn() {
    let limits = HttpLimits { max_connections: 2, ..HttpLimits::default() };
    let server = Setup { limits, ..Setup::default() }.start();
    let mut first = connect(server.address);
    let mut second = connect(server.address);
    for stream in [&mut first, &mut second] {
        assert_eq!(again(stream, &request("GET", "/livez", &[], b"")).status, 200);
    }
    let mut third = connect(server.address);
    third.write_all(&request("GET", "/livez", &[], b"")).unwrap();
    third.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(third.read(&mut [0]).is_err(), "the third connection was served beside two others");
    drop(first);
    third.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert_eq!(read_reply(&mut third).status, 200);
}

#[test]
fn a_full_queue_answers_429_at_once() {
    let engine = ampoule_inference::EngineConfig { queue_capacity: 0, max_running: 1, ..Default::default() };
    let server = Setup { engine, ..Setup::default() }.start();
    let mut busy = chat("hello");
    busy["stream"] = json!(true);
    busy["logit_bias"] = json!({ "38": 100 });
    let started = Instant::now();
    loop {
        let running = server.begin("/v1/chat/completions", &busy);
        let reply = server.post("/v1/chat/completions", &busy);
        drop(running);
        if reply.status == 429 {
            assert_eq!(
                (reply.header("retry-after"), &reply.error()["code"]),
                (Some("1"), &json!("rate_limit_exceeded"))
            );
            break;
        }
        // The first answer ended before the second request came; try again.
        assert!(started.elapsed() < Duration::from_secs(20), "never overloaded: {}", reply.status);
    }
    // The places come back as soon as the engine has noticed that their clients left.
    let started = Instant::now();
    let mut short = chat("hello");
    short["max_tokens"] = json!(1);
    while server.post("/v1/chat/completions", &short).status != 200 {
        assert!(started.elapsed() < Duration::from_secs(10), "still overloaded: {:?}", server.engine.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
}
