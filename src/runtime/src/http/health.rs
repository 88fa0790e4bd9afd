//! Liveness and readiness.  The short paths answer anybody with a status and nothing else; the long ones say why, to
//! holders of a key.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

use super::state::Appliance;

/// `GET /livez`: 200 unless the engine has failed, when only a restart helps.
pub(crate) async fn livez(State(appliance): State<Appliance>) -> StatusCode {
    status(appliance.is_alive())
}

/// `GET /readyz`: 200 while requests are taken: loaded, proven by its known answers, and not draining.
pub(crate) async fn readyz(State(appliance): State<Appliance>) -> StatusCode {
    status(appliance.is_ready())
}

/// `GET /v1/health/live`
pub(crate) async fn live(State(appliance): State<Appliance>) -> Response {
    respond(appliance.is_alive(), if appliance.is_alive() { "The service is live." } else { "The engine has failed." })
}

/// `GET /v1/health/ready`
pub(crate) async fn ready(State(appliance): State<Appliance>) -> Response {
    let message = match (appliance.is_ready(), appliance.is_draining()) {
        (true, _) => "The service is ready.",
        (false, true) => "The service is shutting down.",
        (false, false) => "The engine takes no requests.",
    };
    respond(appliance.is_ready(), message)
}

#[derive(Serialize)]
struct HealthResponse {
    object: &'static str,
    message: &'static str,
    status: &'static str,
}

fn respond(good: bool, message: &'static str) -> Response {
    let body = HealthResponse { object: "health.response", message, status: if good { "ok" } else { "unavailable" } };
    (status(good), Json(body)).into_response()
}

fn status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
