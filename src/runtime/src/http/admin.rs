//! Administration: which adapters are loaded, over a UNIX socket of its own and never over the network.
//!
//! The socket's permissions are the authentication, and the kernel tells who it is: whoever comes past them without being
//! this server's user or root is refused all the same (THREATS C44).  The file of an adapter comes over the socket open.
//! Each request, refused or not, is one event in the log: who, what, which digest.  Who connects and asks for nothing is
//! soon left, and gives way to whoever comes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ampoule_inference::{IfTaken, LoadedAdapter};
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path as PathOf, State};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Json, Router};
use http::StatusCode;
use hyper_util::server::graceful::GracefulShutdown;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connections::{Busy, YieldingPlaces};
use super::limits::HttpLimits;
use super::server::{ACCEPT_RETRY_DELAY, serve_http1};
use super::state::Appliance;
use crate::adapters::{AdapterDesk, AdapterFile};
use crate::admin_socket::AdminSocket;
use crate::error::Error;
use crate::exit::Exit;
use crate::passing::{Mailbox, PassingStream};
use crate::report;

/// How many connections there may be: an operator, some scripts, and some that were forgotten.
const MAX_CONNECTIONS: usize = 16;

/// How long a request's head may take, and its body: whoever asks is on this host and sends all at once.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);

/// A request holds a path and a switch.
const MAX_BODY_BYTES: usize = 64 << 10;

/// The socket, and what is administered.
pub struct Admin {
    /// Where operators connect.
    pub socket: AdminSocket,
    /// What they load and unload.
    pub desk: AdapterDesk,
}

/// What `POST /adapters` takes, beside the open file.  The path is what the file is called in the log and in refusals.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LoadRequest {
    path: PathBuf,
    #[serde(default)]
    replace: bool,
}

/// What an operator is told when something is refused: the words that a command would print, and its exit code.
#[derive(Debug, Serialize)]
struct Refusal {
    #[serde(skip)]
    status: StatusCode,
    message: String,
    exit_code: u8,
}

/// What the handlers share.
#[derive(Clone)]
struct Office {
    appliance: Appliance,
    desk: Arc<AdapterDesk>,
}

/// Who asks.
#[derive(Debug, Clone)]
struct Caller {
    peer: UCred,
    /// Held while a request is carried out, so that its connection is kept.
    busy: Busy,
    /// Where the file is that came with a request.
    mailbox: Mailbox,
}

/// Serves the socket for as long as it is polled; its file goes with it.
pub(super) async fn serve(appliance: Appliance, listener: UnixListener, admin: Admin) {
    let Admin { socket: _file, desk } = admin;
    let router = surface(Office { appliance: appliance.clone(), desk: Arc::new(desk) });
    let limits = HttpLimits {
        header_deadline: REQUEST_DEADLINE,
        write_deadline: REQUEST_DEADLINE,
        ..appliance.limits().clone()
    };
    let mut places = YieldingPlaces::new(MAX_CONNECTIONS);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = match listener.accept().await.and_then(|(stream, _)| with_peer(stream)) {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "A connection to the admin socket could not be accepted.");
                sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let place = places.take().await;
        let (stream, mailbox) = PassingStream::receiving(stream);
        let router = if may_administer(peer.uid()) { router.clone() } else { refusal_of_others() };
        let caller = Caller { peer, busy: places.mark(), mailbox };
        let busy = caller.busy.clone();
        let (router, watcher, limits) = (router.layer(Extension(caller)), graceful.watcher(), limits.clone());
        let task = connections.spawn(async move {
            serve_http1(stream, router, &limits, watcher).await;
            drop(place);
        });
        places.is_taken_by(task, busy);
    }
}

fn with_peer(stream: UnixStream) -> std::io::Result<(UnixStream, UCred)> {
    let peer = stream.peer_cred()?;
    Ok((stream, peer))
}

/// This server's own user may, and root, who could take its place anyway.
fn may_administer(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

fn refusal_of_others() -> Router {
    Router::new().fallback(async |Extension(caller): Extension<Caller>, uri: Uri| {
        let message = format!("user {} may not administer; this server's own user and root may", caller.peer.uid());
        Refusal::wrong(StatusCode::FORBIDDEN, message).logged("none", &caller.peer, uri.path())
    })
}

fn surface(office: Office) -> Router {
    Router::new()
        .route("/adapters", get(list).post(load))
        .route("/adapters/{name}", delete(unload))
        .fallback(async |Extension(caller): Extension<Caller>, method: Method, uri: Uri| {
            let served = "GET /adapters, POST /adapters and DELETE /adapters/NAME";
            let message = format!("nothing is here for {method}; served are {served}");
            Refusal::wrong(StatusCode::NOT_FOUND, message).logged("none", &caller.peer, uri.path())
        })
        .method_not_allowed_fallback(async |Extension(caller): Extension<Caller>, method: Method, uri: Uri| {
            let message = format!("this path does not answer {method}");
            Refusal::wrong(StatusCode::METHOD_NOT_ALLOWED, message).logged("none", &caller.peer, uri.path())
        })
        .with_state(office)
}

async fn list(State(office): State<Office>, Extension(Caller { peer, .. }): Extension<Caller>) -> Json<Value> {
    let engine = office.appliance.engine();
    let adapters = engine.adapters();
    tracing::info!(action = "list", peer_uid = peer.uid(), peer_pid = peer.pid(), "administration");
    let data: Vec<Value> = adapters.values().map(|adapter| report::json(&adapter.identity)).collect();
    Json(json!({ "object": "list", "limit": engine.adapter_limit(), "data": data }))
}

async fn load(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let read = timeout(REQUEST_DEADLINE, read(body)).await;
    let seconds = REQUEST_DEADLINE.as_secs();
    let slow = || Refusal::wrong(StatusCode::REQUEST_TIMEOUT, format!("no request within {seconds} s"));
    let request = read.unwrap_or_else(|_| Err(slow()));
    let LoadRequest { path, replace } = request.map_err(|refusal| refusal.logged("load", &caller.peer, ""))?;
    let if_taken = if replace { IfTaken::Replace } else { IfTaken::Refuse };
    let asked = path.display().to_string();
    let Some(file) = caller.mailbox.take() else {
        let message = "no file came with the request: `ampoule adapters load` opens it and sends it along (SCM_RIGHTS)";
        return Err(Refusal::wrong(StatusCode::BAD_REQUEST, message.to_owned()).logged("load", &caller.peer, &asked));
    };
    let name = asked.clone();
    change("load", caller, asked, move || office.desk.load(AdapterFile::passed(file, &name)?, if_taken)).await
}

async fn unload(
    State(office): State<Office>,
    Extension(caller): Extension<Caller>,
    name: Result<PathOf<String>, PathRejection>,
) -> Result<Json<Value>, Refusal> {
    // A name that is no text at all is one that is not loaded.
    let name = name.map_or_else(|_| String::new(), |PathOf(name)| name);
    change("unload", caller, name.clone(), move || office.desk.unload(&name)).await
}

/// Carries out a change on a thread that may wait, and writes its event there: the work goes on when whoever asked for it
/// has left.
async fn change(
    action: &'static str,
    Caller { peer, busy, .. }: Caller,
    asked: String,
    work: impl FnOnce() -> Result<Arc<LoadedAdapter>, Error> + Send + 'static,
) -> Result<Json<Value>, Refusal> {
    let Some(_busy) = busy.begin() else {
        let message = "this connection gave way to a newer one; ask again".to_owned();
        return Err(Refusal::wrong(StatusCode::SERVICE_UNAVAILABLE, message).logged(action, &peer, &asked));
    };
    let done = tokio::task::spawn_blocking(move || match work() {
        Ok(adapter) => {
            let identity = &adapter.identity;
            tracing::info!(
                action,
                peer_uid = peer.uid(),
                peer_pid = peer.pid(),
                asked,
                adapter = %identity.name,
                version = %identity.version,
                digest = %identity.manifest,
                "administration"
            );
            Ok(Json(report::json(identity)))
        }
        Err(error) => Err(Refusal::of(&error).logged(action, &peer, &asked)),
    });
    done.await.unwrap_or_else(|_| Err(Refusal::of(&Error::Defect)))
}

async fn read(body: Body) -> Result<LoadRequest, Refusal> {
    let wrong = |reason: &dyn std::fmt::Display| {
        let wanted = r#"wanted is {"path": "/what/the/file/is/called"}, and "replace": true where a name may be taken"#;
        Refusal::wrong(StatusCode::BAD_REQUEST, format!("the request is not understood: {reason}; {wanted}"))
    };
    let bytes = axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| wrong(&error))?;
    let request: LoadRequest = serde_json::from_slice(&bytes).map_err(|error| wrong(&error))?;
    // Relative to what?  Only the operator's shell knows its folder.
    if request.path.is_absolute() { Ok(request) } else { Err(wrong(&"the path is relative")) }
}

impl Refusal {
    /// A request that means nothing here.
    fn wrong(status: StatusCode, message: String) -> Refusal {
        Refusal { status, message, exit_code: Exit::Failure.code() }
    }

    /// A refusal of the line that every adapter goes through, in its own words.
    fn of(error: &Error) -> Refusal {
        let status = match error {
            Error::Defect => StatusCode::INTERNAL_SERVER_ERROR,
            Error::NoSuchAdapter { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Refusal { status, message: error.to_string(), exit_code: error.exit().code() }
    }

    fn logged(self, action: &'static str, peer: &UCred, asked: &str) -> Refusal {
        let Refusal { message, exit_code, .. } = &self;
        let (peer_uid, peer_pid) = (peer.uid(), peer.pid());
        tracing::warn!(action, peer_uid, peer_pid, asked, exit_code, reason = message, "administration refused");
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self }))).into_response()
    }
}
