//! Accepts connections, speaks HTTP on them within limits, and ends without cutting off who is being answered.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::admin::{self, Admin};
use super::connections::{OpenRequests, Peers};
use super::limits::{HttpLimits, LingeringBody};
use super::listener::{Listener, WriteDeadline};
use super::router;
use super::state::{Appliance, ServerParts};

/// What a TLS configuration should offer by ALPN, best first.  HTTP/2 is spoken only where a client asked for it so.
pub const ALPN_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// How often the samples of the histograms are folded into their buckets.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How long accepting pauses after an error of the system such as "too many open files".
pub(super) const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// How much of a request is read ahead, per connection.
const CONNECTION_BUFFER_BYTES: usize = 64 << 10;

/// How many connections the metrics listener holds at once: a scraper or two.
const MAX_METRICS_CONNECTIONS: usize = 16;

/// HTTP/2's own flood limits (THREATS C40), beside the number of streams in [`HttpLimits`].
const MAX_PENDING_ACCEPT_RESET_STREAMS: usize = 20;
const MAX_LOCAL_ERROR_RESET_STREAMS: usize = 64;
const HTTP2_SEND_BUFFER_BYTES: usize = 256 << 10;
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long requests that are cut off may take to tell their clients so.
const FAREWELL_TIME: Duration = Duration::from_secs(1);

/// Where a server is reached.
pub struct Listeners {
    /// The API.
    pub api: Listener,
    /// The metrics page, if one is served.
    pub metrics: Option<TcpListener>,
    /// Administration, if it is served.
    pub admin: Option<Admin>,
}

/// How the server ended when it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Connections whose requests did not end within the drain deadline.
    pub cut_off: usize,
}

/// Why the server could not start or did not end as it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The engine ended, by a failure of its own or because somebody stopped it, while requests were served.
    #[error("the engine ended while requests were served; the log says why")]
    EngineEnded,
    /// The listener's own address cannot be told.
    #[error("the listener is not usable: {0}")]
    Listener(#[source] io::Error),
    /// Plain HTTP was asked for on an address that others can reach.
    #[error("plain HTTP on {found} would be readable on the network: listen on a loopback address, or use TLS")]
    PlainBeyondLoopback {
        /// The listener's address.
        found: SocketAddr,
    },
}

/// A server that is ready to run.
#[derive(Debug)]
pub struct Server {
    appliance: Appliance,
}

impl Server {
    /// Puts the parts together.  Nothing is opened and nothing runs yet.
    pub fn new(parts: ServerParts) -> Server {
        Server { appliance: Appliance::new(parts) }
    }

    /// Serves until `shutdown` completes, then drains: readiness says no, after the grace nothing new is accepted,
    /// open requests may end within the drain deadline, and what is left is told so and cut off.
    ///
    /// # Errors
    /// [`ServeError`]; a single connection's failure is none.
    pub async fn run(self, listeners: Listeners, shutdown: impl Future<Output = ()>) -> Result<Ended, ServeError> {
        let Listeners { api: listener, metrics, admin } = listeners;
        if let Listener::LoopbackPlain(socket) = &listener {
            let found = socket.local_addr().map_err(ServeError::Listener)?;
            if !found.ip().to_canonical().is_loopback() {
                return Err(ServeError::PlainBeyondLoopback { found });
            }
        }
        let mut helpers = JoinSet::new();
        if let Some(socket) = metrics {
            helpers.spawn(serve_metrics(self.appliance.clone(), socket));
        }
        if let Some(admin) = admin {
            let listener = admin.socket.listener().map_err(ServeError::Listener)?;
            helpers.spawn(admin::serve(self.appliance.clone(), listener, admin));
        }
        helpers.spawn(keep_metrics_folded(self.appliance.clone()));

        let appliance = &self.appliance;
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(appliance.limits().max_connections));
        let peers = Peers::new(appliance.limits().max_connections_per_client);
        let mut connections = JoinSet::new();
        let engine_ended = appliance.engine().ended();
        let outcome = tokio::select! {
            never = accept(appliance, &listener, &places, &peers, &graceful, &mut connections) => match never {},
            () = shutdown => Ok(()),
            _ = engine_ended => Err(ServeError::EngineEnded),
        };
        appliance.withdraw_readiness();
        if outcome.is_ok() && !appliance.limits().readiness_grace.is_zero() {
            let accepting = accept(appliance, &listener, &places, &peers, &graceful, &mut connections);
            let _ = timeout(appliance.limits().readiness_grace, accepting).await;
        }
        appliance.start_draining();
        drop(listener);
        let drained = timeout(appliance.limits().drain_deadline, graceful.shutdown()).await;
        while connections.try_join_next().is_some() {}
        let cut_off = if drained.is_err() { connections.len() } else { 0 };
        if cut_off > 0 {
            // The engine tells each open request that it was cancelled, so that nobody takes a part for the whole.
            appliance.engine().stop();
            let _ = timeout(FAREWELL_TIME, async { while connections.join_next().await.is_some() {} }).await;
        }
        connections.shutdown().await;
        helpers.shutdown().await;
        outcome.map(|()| Ended { cut_off })
    }
}

enum Never {}

/// Accepts for as long as it is polled.
async fn accept(
    appliance: &Appliance,
    listener: &Listener,
    places: &Arc<Semaphore>,
    peers: &Peers,
    graceful: &GracefulShutdown,
    connections: &mut JoinSet<()>,
) -> Never {
    let tls = listener.tls().map(TlsAcceptor::from);
    let router = router::surface(appliance);
    loop {
        // A place is taken before accepting, so that connections beyond the limit wait in the system's backlog.
        let place = Arc::clone(places).acquire_owned().await.expect("nobody closes this semaphore");
        let Some((stream, address)) = accept_one(listener.socket()).await else { continue };
        let Some(peer_place) = peers.enter(address.ip()) else {
            tracing::debug!(%address, "A connection is closed: its client has as many as one may have.");
            continue;
        };
        while connections.try_join_next().is_some() {}
        let (tls, router, watcher) = (tls.clone(), router.clone(), graceful.watcher());
        let limits = appliance.limits().clone();
        connections.spawn(async move {
            serve_connection(stream, tls, router, &limits, watcher).await;
            drop((place, peer_place));
        });
    }
}

async fn accept_one(socket: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match socket.accept().await {
        Ok((stream, address)) => {
            // Tokens are small packets that should leave at once; a socket that cannot do this still works.
            let _ = stream.set_nodelay(true);
            Some((stream, address))
        }
        Err(error) => {
            tracing::warn!(%error, "A connection could not be accepted.");
            sleep(ACCEPT_RETRY_DELAY).await;
            None
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: &HttpLimits,
    watcher: Watcher,
) {
    let Some(tls) = tls else {
        return serve_http1(stream, router, limits, watcher).await;
    };
    match timeout(limits.handshake_deadline, tls.accept(stream)).await {
        Ok(Ok(stream)) => match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => serve_http2(stream, router, limits, watcher).await,
            _ => serve_http1(stream, router, limits, watcher).await,
        },
        Ok(Err(error)) => tracing::debug!(%error, "A TLS handshake failed."),
        Err(_) => tracing::debug!("A TLS handshake took too long."),
    }
}

pub(super) async fn serve_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: &HttpLimits,
    watcher: Watcher,
) {
    let io = TokioIo::new(WriteDeadline::new(stream, limits.write_deadline));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_deadline)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(CONNECTION_BUFFER_BYTES.max(limits.max_header_bytes))
        .serve_connection(io, service_fn(move |request| respond(router.clone(), request)));
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "A connection ended with an error.");
    }
}

async fn serve_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: &HttpLimits,
    watcher: Watcher,
) {
    let io = TokioIo::new(WriteDeadline::new(stream, limits.write_deadline));
    let requests = OpenRequests::none();
    let tracker = requests.clone();
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.max_streams_per_connection)
        .max_pending_accept_reset_streams(MAX_PENDING_ACCEPT_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_LOCAL_ERROR_RESET_STREAMS)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(limits.header_deadline)
        .serve_connection(io, service_fn(move |request| respond_tracked(router.clone(), request, tracker.clone())));
    tokio::select! {
        outcome = watcher.watch(connection) => {
            if let Err(error) = outcome {
                tracing::debug!(%error, "A connection ended with an error.");
            }
        }
        () = requests.idle_for(limits.write_deadline) => tracing::debug!("An idle connection is closed."),
    }
}

async fn respond(router: Router, request: Request<Incoming>) -> Result<Response, Infallible> {
    router.oneshot(request.map(|body| Body::new(LingeringBody::new(body)))).await
}

async fn respond_tracked(
    router: Router,
    request: Request<Incoming>,
    requests: OpenRequests,
) -> Result<Response, Infallible> {
    Ok(requests.track(respond(router, request).map(|Ok(response)| response)).await)
}

/// Serves the metrics page, plainly and without a key; who may reach it is decided by the address it is bound to.
async fn serve_metrics(appliance: Appliance, socket: TcpListener) {
    let router = router::metrics_surface(&appliance);
    let places = Arc::new(Semaphore::new(MAX_METRICS_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes this semaphore");
        let Some((stream, _)) = accept_one(&socket).await else { continue };
        while connections.try_join_next().is_some() {}
        let (router, watcher, limits) = (router.clone(), graceful.watcher(), appliance.limits().clone());
        connections.spawn(async move {
            serve_http1(stream, router, &limits, watcher).await;
            drop(place);
        });
    }
}

async fn keep_metrics_folded(appliance: Appliance) {
    loop {
        sleep(METRICS_UPKEEP_INTERVAL).await;
        appliance.metrics().fold_samples();
    }
}
