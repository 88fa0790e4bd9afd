//! Sockets that systemd binds and passes on, by its own stock tool: a request that came before the server is answered,
//! and what may not be served on an address of its own may not be served on an inherited one either.
#![allow(clippy::unwrap_used)]

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::{PATIENCE, Server, Site, exchange, get, text};

const ACTIVATOR: &str = "systemd-socket-activate";

/// Whether the tool is here; a run without it says so.
fn is_installed() -> bool {
    let found = Command::new(ACTIVATOR).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        println!("skipped: socket activation ({ACTIVATOR} is missing; `cargo xtask tools` installs it)");
    }
    found
}

/// `ampoule serve` behind sockets with these names on these addresses; it is started by the first connection.
fn activated(site: &Site, names: &str, addresses: &[SocketAddr], more: &[&str]) -> Command {
    let mut command = Command::new(ACTIVATOR);
    for address in addresses {
        command.args(["--listen", &address.to_string()]);
    }
    if !names.is_empty() {
        command.arg(format!("--fdname={names}"));
    }
    // Where it would serve if it took no notice of the sockets.
    command.arg(env!("CARGO_BIN_EXE_ampoule")).arg("serve").args(site.flags()).args(["--listen", "127.0.0.1:0"]);
    command.args(more).stdin(Stdio::null());
    command
}

/// Addresses of loopback on which nobody listens now.
fn free<const COUNT: usize>() -> [SocketAddr; COUNT] {
    let taken = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    taken.map(|listener| listener.local_addr().unwrap())
}

/// Asks as soon as somebody listens, long before a server is there.
fn ask(address: SocketAddr, request: String) -> JoinHandle<(u16, String)> {
    std::thread::spawn(move || {
        let started = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", address.port())) {
                Ok(mut stream) => return exchange(&mut stream, &request),
                Err(_) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => panic!("nobody listens on {address}: {error}"),
            }
        }
    })
}

#[test]
fn a_request_that_came_before_the_server_is_answered() {
    if !is_installed() {
        return;
    }
    let site = Site::new();
    for names in ["api", ""] {
        let [address] = free();
        let early = ask(address, get("/v1/models", Some(&site.key)));
        let server = Server::start(activated(&site, names, &[address], &[]));
        assert_eq!(server.address, address, "{names:?}: the inherited address is the one that serves");
        let (status, body) = early.join().unwrap();
        assert_eq!(status, 200, "{body}");
        server.signal("TERM");
        assert_eq!(server.end().0, Some(0));
    }
}

#[test]
fn metrics_have_a_socket_of_their_own() {
    if !is_installed() {
        return;
    }
    let site = Site::new();
    let [metrics, api] = free();
    let early = ask(metrics, get("/metrics", None));
    let server = Server::start(activated(&site, "metrics:api", &[metrics, api], &[]));
    assert_eq!(server.address, api);
    let (status, page) = early.join().unwrap();
    assert!(status == 200 && page.contains("ampoule_ready 1"), "{page}");
    assert_eq!(ask(api, get("/readyz", None)).join().unwrap().0, 200);
    assert_eq!(ask(api, get("/metrics", None)).join().unwrap().0, 401);
}

#[test]
fn an_inherited_socket_keeps_the_rules_of_a_configured_one() {
    if !is_installed() {
        return;
    }
    let site = Site::new();
    let [first, second] = free();
    let open = SocketAddr::from(([0, 0, 0, 0], first.port()));
    let (flag, opt_out) = ("--allow-plain-http-beyond-loopback", "allow_plain_http_beyond_loopback");
    for (names, addresses, more, code, words) in [
        ("api", &[open][..], &[][..], 78, &["`listen` is 0.0.0.0", "the inherited socket", "no TLS", opt_out][..]),
        ("metrics", &[open], &[], 78, &["0.0.0.0", "the inherited socket", "allow_metrics_beyond_loopback"]),
        ("web", &[first], &[], 30, &["`web`", "FileDescriptorName=api"]),
        ("api:api", &[first, second], &[], 30, &["two inherited sockets are called `api`"]),
        ("api:other", &[first, second], &[], 30, &["`other`"]),
    ] {
        let child = activated(&site, names, addresses, more).stderr(Stdio::piped()).spawn().unwrap();
        let waker = std::thread::spawn(move || wake(first));
        let output = child.wait_with_output().unwrap();
        waker.join().unwrap();
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{names}: {told}");
        for word in words {
            assert!(told.contains(word), "{names}: missing {word} in {told}");
        }
    }
    // With the opt-out it is served, and the log says what that means.
    let early = ask(open, get("/readyz", None));
    let server = Server::start(activated(&site, "api", &[open], &[flag]));
    assert_eq!(early.join().unwrap().0, 200);
    assert!(server.told.iter().any(|line| line.contains("plain HTTP that other hosts can reach")), "{:?}", server.told);
}

/// Connects, so that the tool starts what it guards.
fn wake(address: SocketAddr) {
    let started = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(started.elapsed() < PATIENCE, "nobody listens on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn variables_that_are_for_another_process_have_no_effect() {
    let site = Site::new();
    let mut command = support::ampoule();
    command.arg("serve").args(site.flags()).args(["--listen", "127.0.0.1:0"]);
    command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "web");
    let server = Server::start(command);
    assert_eq!(ask(server.address, get("/readyz", None)).join().unwrap().0, 200);
}
