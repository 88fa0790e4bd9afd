//! A served bundle from outside: over plain HTTP on loopback, over TLS with a private authority, asked to stop, and the
//! demo as its reader types it.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::{Server, Site, ampoule, chat, chat_about, code, exchange, get, refused, run, text};

fn over_http(address: SocketAddr, request: &str) -> (u16, String) {
    exchange(&mut TcpStream::connect(address).unwrap(), request)
}

#[test]
fn a_sealed_model_is_served_to_whoever_has_a_key() {
    let site = Site::new();
    let server = site.serve(&["--metrics-listen", "127.0.0.1:0", "--model-name", "helper"]);
    let (status, body) = over_http(server.address, &get("/v1/metadata", Some(&site.key)));
    assert_eq!(status, 200, "{body}");
    let verified = run(&["verify", &site.bundle, "--trust-root", &site.root, "--json"]);
    let verified: serde_json::Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert!(body.contains(verified["bundle"]["digest"].as_str().unwrap()), "{body}");
    assert!(body.contains(verified["bundle"]["signers"][0].as_str().unwrap()), "{body}");
    let (status, body) = over_http(server.address, &chat("helper", &site.key, 4));
    assert_eq!(status, 200, "{body}");
    assert_eq!(over_http(server.address, &get("/v1/metadata", None)).0, 401);
    assert_eq!(over_http(server.address, &get("/metrics", Some(&site.key))).0, 404, "metrics have their own listener");
    let serving = server.told.iter().find(|line| line.contains("\"serving\"")).unwrap();
    let serving: serde_json::Value = serde_json::from_str(serving).unwrap();
    let metrics: SocketAddr = serving["metrics_address"].as_str().unwrap().parse().unwrap();
    let (status, page) = over_http(metrics, &get("/metrics", None));
    assert_eq!(status, 200);
    assert!(page.contains("ampoule_bundle_info{"), "{page}");
}

#[test]
fn the_configuration_that_is_shown_and_checked_is_the_one_that_serves() {
    let site = Site::new();
    let server = site.serve(&[]);
    let (_, served) = over_http(server.address, &get("/v1/metadata", Some(&site.key)));
    let served: serde_json::Value = serde_json::from_str(&served).unwrap();
    let digest = served["config_digest"].as_str().unwrap();
    let with_flags = |command: &[&str]| {
        let output = run(&[command, &site.flags(), &["--listen", "127.0.0.1:0"]].concat());
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(with_flags(&["config", "check"]).contains(digest));
    let shown: serde_json::Value = serde_json::from_str(&with_flags(&["config", "show", "--json"])).unwrap();
    assert_eq!((&shown["digest"], &shown["without_bundle"]), (&digest.into(), &serde_json::Value::Null));
}

#[test]
fn the_log_is_json_and_holds_neither_prompt_nor_key() {
    let site = Site::new();
    let server = site.serve(&["--log-level", "trace", "--model-name", "helper"]);
    let request = chat_about("canary-7f", "helper", &site.key, 4);
    assert_eq!(over_http(server.address, &request).0, 200);
    server.signal("TERM");
    let (code, log) = server.end();
    assert_eq!(code, Some(0), "{log:#?}");
    for line in &log {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(!line.contains("canary-7f") && !line.contains(&site.key), "{line}");
    }
}

#[test]
fn health_tells_a_container_whether_the_server_is_ready() {
    let site = Site::new();
    let server = site.serve(&[]);
    let address = server.address.to_string();
    let output = run(&["health", "--listen", &address]);
    assert_eq!(code(&output), 0, "{}", text(&output.stdout));
    drop(server);
    assert_eq!(code(&run(&["health", "--listen", &address])), 3);
}

#[test]
fn a_stop_drains_and_is_no_failure() {
    for signal in ["TERM", "INT"] {
        let site = Site::new();
        let server = site.serve(&["--model-name", "helper"]);
        let (address, key) = (server.address, site.key.clone());
        let running = std::thread::spawn(move || over_http(address, &chat("helper", &key, 48)));
        // Long enough that the request is under way, short enough that it is not over.
        std::thread::sleep(Duration::from_millis(50));
        server.signal(signal);
        let (code, log) = server.end();
        assert_eq!(code, Some(0), "{signal}: {log:#?}");
        assert!(log.iter().any(|line| line.contains("\"drained\"")), "{log:#?}");
        let (status, body) = running.join().unwrap();
        assert!(status == 200 || status == 503, "{status} {body}");
    }
}

#[test]
fn exit_30_an_address_that_somebody_has() {
    let site = Site::new();
    let server = site.serve(&[]);
    let address = server.address.to_string();
    let arguments = [&["serve"], &site.flags()[..], &["--listen", &address]].concat();
    refused(&arguments, 30, &["cannot listen on", &address]);
}

/// A private authority and one certificate that it signed.
struct Authority {
    root: CertificateDer<'static>,
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        Authority { root: issuer.der().clone(), certificate: leaf.pem(), key: key.serialize_pem() }
    }

    /// Writes certificate and key into the site's folder and returns the flags that name them.
    fn flags(&self, site: &Site) -> Vec<String> {
        let certificate = site.folder.path().join("chain.pem");
        let key = site.folder.path().join("key.pem");
        fs::write(&certificate, &self.certificate).unwrap();
        fs::write(&key, &self.key).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let path = |path: std::path::PathBuf| path.display().to_string();
        vec!["--tls-certificate-file".into(), path(certificate), "--tls-key-file".into(), path(key)]
    }

    /// One exchange with a client that trusts only this authority.
    fn exchange(&self, address: SocketAddr, request: &str) -> Result<(u16, String), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut socket) {
                let inner = error.into_inner().and_then(|inner| inner.downcast::<rustls::Error>().ok());
                return Err(*inner.expect("the handshake fails for a reason of TLS"));
            }
        }
        Ok(exchange(&mut StreamOwned::new(connection, socket), request))
    }
}

#[test]
fn tls_with_a_private_authority_end_to_end() {
    let site = Site::new();
    let authority = Authority::new();
    let flags = authority.flags(&site);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = site.serve(&flags);
    let (status, body) = authority.exchange(server.address, &get("/v1/models", Some(&site.key))).unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(Authority::new().exchange(server.address, &get("/v1/models", None)).is_err(), "another authority");
    let address = server.address.to_string();
    let health = run(&[&["health", "--listen", &address][..], &flags[..]].concat());
    assert_eq!(code(&health), 0, "{}", text(&health.stdout));
    // The probe accepts this server's certificate alone.
    let other = Authority::new().flags(&site);
    let other: Vec<&str> = other.iter().map(String::as_str).collect();
    let health = run(&[&["health", "--listen", &address][..], &other[..]].concat());
    assert_eq!(code(&health), 3, "{}", text(&health.stdout));
}

#[test]
fn exit_30_tls_files_that_cannot_serve() {
    let site = Site::new();
    let (authority, other) = (Authority::new(), Authority::new());
    let flags = authority.flags(&site);
    let (certificate, key) = (&flags[1], &flags[3]);
    let with = |more: &[&str]| -> Vec<String> {
        [&["serve"], &site.flags()[..], &["--tls-certificate-file", certificate, "--tls-key-file", key], more]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    let check = |words: &[&str]| {
        let arguments = with(&[]);
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 30, words);
    };
    for (mode, found) in [(0o644, "mode 0644"), (0o660, "mode 0660")] {
        fs::set_permissions(key, fs::Permissions::from_mode(mode)).unwrap();
        check(&["the private key", found, "chmod 640"]);
    }
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(key, &other.key).unwrap();
    check(&["cannot serve TLS"]);
    fs::write(key, &authority.certificate).unwrap();
    check(&["holds no private key"]);
    fs::write(key, &authority.key).unwrap();
    fs::write(certificate, "no PEM at all").unwrap();
    check(&["holds no certificate"]);
    fs::write(certificate, authority.certificate.replace("MII", "***")).unwrap();
    check(&["chain.pem", "not valid PEM"]);
    fs::remove_file(certificate).unwrap();
    check(&["cannot read the TLS file"]);
}

#[test]
fn the_demo_answers_its_question_and_ends() {
    let output = run(&["demo", "--once", "--listen", "127.0.0.1:0"]);
    let (told, noise) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(code(&output), 0, "{told}\n{noise}");
    assert_eq!(noise, "", "the demo is quiet");
    let line = |label: &str| {
        let found = told.lines().find_map(|line| line.trim_start().strip_prefix(label));
        found.unwrap_or_else(|| panic!("no {label} in {told}")).trim().to_owned()
    };
    assert!(line("Answer").len() > 20, "{told}");
    assert!(line("Digest").starts_with("sha256:"));
    assert!(line("API key").starts_with("amp-"));
    for word in ["Bundle", "Signed by", "Question", "curl -sN http://127.0.0.1:"] {
        assert!(told.contains(word), "missing: {word}\nin: {told}");
    }
}

#[test]
fn the_demo_goes_on_serving_with_the_key_that_it_printed() {
    let mut command = ampoule();
    command.args(["demo", "--listen", "127.0.0.1:0", "--question", "Who are you?"]);
    let mut demo = Server::start_demo(command);
    let key = demo.wait_for_label("API key");
    let (status, body) = over_http(demo.address, &get("/v1/models", Some(&key)));
    assert_eq!(status, 200, "{body}");
    assert_eq!(over_http(demo.address, &get("/v1/models", Some("amp-wrong"))).0, 401);
    demo.wait_for_label("Serving");
    demo.signal("INT");
    assert_eq!(demo.end().0, Some(0));
}
