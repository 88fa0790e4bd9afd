//! A small HTTP client for the times when this binary speaks to itself: the demo's question, the health probe, and the
//! operator's commands.  It connects to one IP address, where with TLS it accepts exactly one certificate, the one that
//! this configuration serves; or to one UNIX socket.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::passing::PassingStream;

/// Why this process could not talk to a listener of its own kind.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or no TLS on it.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot speak TLS to {address}: {source}")]
    Tls {
        /// The address.
        address: String,
        /// What rustls says.
        source: rustls::Error,
    },
    /// The exchange broke.
    #[error("the exchange with {address} broke: {source}")]
    Exchange {
        /// The address.
        address: String,
        /// What hyper says.
        source: hyper::Error,
    },
    /// Nothing came in time.
    #[error("{address} did not answer within {seconds} s")]
    Timeout {
        /// The address.
        address: String,
        /// The limit.
        seconds: u64,
    },
}

/// Sends one request on a connection of its own.  `pinned` is the server's certificate when it serves TLS.
///
/// # Errors
/// [`ClientError`] with the address that was tried.
pub async fn send(
    address: SocketAddr,
    pinned: Option<CertificateDer<'static>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    let reached = reachable(address);
    let address = reached.to_string();
    let connect = |source| ClientError::Connect { address: address.clone(), source };
    let stream = TcpStream::connect(reached).await.map_err(connect)?;
    match pinned {
        None => exchange(&address, stream, request).await,
        Some(certificate) => {
            let config =
                pinning(certificate).map_err(|source| ClientError::Tls { address: address.clone(), source })?;
            let name = ServerName::IpAddress(reached.ip().into());
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(connect)?;
            exchange(&address, stream, request).await
        }
    }
}

/// Sends one request to a UNIX socket, with an open file if there is one, and reads the whole answer.
///
/// # Errors
/// [`ClientError`] with the path that was tried.
pub async fn send_to_socket(
    path: &Path,
    request: Request<Full<Bytes>>,
    attached: Option<File>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), ClientError> {
    let address = path.display().to_string();
    let answer = async {
        let connect = |source| ClientError::Connect { address: address.clone(), source };
        let stream = UnixStream::connect(path).await.map_err(connect)?;
        let stream = PassingStream::sending(stream, attached);
        let (head, body) = exchange(&address, stream, request).await?.into_parts();
        let body = body.collect().await.map_err(|source| ClientError::Exchange { address: address.clone(), source })?;
        Ok((head.status, body.to_bytes()))
    };
    let timeout = || ClientError::Timeout { address: address.clone(), seconds: patience.as_secs() };
    tokio::time::timeout(patience, answer).await.unwrap_or_else(|_| Err(timeout()))
}

/// A listener on every interface is reached through loopback.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn exchange<S>(address: &str, stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |source| ClientError::Exchange { address: address.to_owned(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // The connection ends with the response; an error on it shows up in the response's body too.
    tokio::spawn(async move { connection.await.ok() });
    sender.send_request(request).await.map_err(broken)
}

fn pinning(certificate: CertificateDer<'static>) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(PinnedCertificate { certificate, provider: Arc::clone(&provider) });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Accepts one certificate, byte for byte, and still requires that the server holds its key.  A probe of one's own
/// listener needs no authority to vouch for it, and its certificate need not name the address 127.0.0.1.
#[derive(Debug)]
struct PinnedCertificate {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
