//! HTTPS: the right CA is needed, both protocol versions are spoken, a handshake that does not end is given up
//! (THREATS C40, C49).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ampoule::http::{ALPN_PROTOCOLS, HttpLimits};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use crate::client::{connect, read_reply};
use crate::support::{Running, Setup, request};

pub(crate) struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority { certificate, issuer: Issuer::new(params, key) }
}

pub(crate) fn server_config(authority: &Authority) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    config.alpn_protocols = ALPN_PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// A client's connection, encrypted.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn client(server: &Running, authority: &Authority, alpn: &[&[u8]]) -> TlsStream {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, connect(server.address))
}

#[test]
fn https_answers_whoever_trusts_its_ca() {
    let authority = authority();
    let server = Setup { tls: Some(server_config(&authority)), ..Setup::default() }.start();
    for alpn in [vec![], vec![&b"http/1.1"[..]]] {
        let mut stream = client(&server, &authority, &alpn);
        let bearer = format!("Bearer {}", server.key);
        stream.write_all(&request("GET", "/v1/models", &[("authorization", &bearer)], b"")).unwrap();
        assert_eq!(read_reply(&mut stream).status, 200);
    }
    let stranger = self::authority();
    let mut stream = client(&server, &stranger, &[]);
    assert!(stream.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").is_err());
    // Plain HTTP on the TLS port is no way in.
    let mut plain = connect(server.address);
    plain.write_all(&request("GET", "/livez", &[], b"")).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
}

#[test]
fn http2_is_spoken_to_those_who_ask_for_it() {
    let authority = authority();
    let server = Setup { tls: Some(server_config(&authority)), ..Setup::default() }.start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = hyper_util::rt::TokioIo::new(stream);
        let executor = hyper_util::rt::TokioExecutor::new();
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
        let driver = tokio::spawn(connection);
        for (path, status) in [("/livez", 200), ("/v1/models", 401)] {
            let request = http::Request::get(format!("https://localhost{path}"));
            let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
            let reply = sender.send_request(request).await.unwrap();
            assert_eq!((reply.status().as_u16(), reply.version()), (status, http::Version::HTTP_2), "{path}");
            assert!(reply.headers().get("connection").is_none());
        }
        driver.abort();
    });
}

#[test]
fn c49_a_handshake_that_does_not_end_is_given_up() {
    let authority = authority();
    let limits = HttpLimits { handshake_deadline: Duration::from_millis(200), ..HttpLimits::default() };
    let server = Setup { tls: Some(server_config(&authority)), limits, ..Setup::default() }.start();
    let mut silent = connect(server.address);
    let started = Instant::now();
    let _ = silent.read_to_end(&mut Vec::new());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
