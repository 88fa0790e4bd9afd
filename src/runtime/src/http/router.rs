//! Which path is answered by what.  The table is the whole surface; around it lie authentication and the access log.

use ampoule_bundle::statement::Endpoint;
use axum::Router;
use axum::extract::State;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::CONTENT_TYPE;
use tower::Layer;

use super::error::ApiError;
use super::state::Appliance;
use super::{access, auth, chat, completions, embeddings, health, metadata, models};
use crate::metrics;

/// The public surface with its layers, outermost first: access log and panic guard, authentication, routes.
pub(crate) fn surface(appliance: &Appliance) -> Router {
    layered(routes(appliance), appliance)
}

/// The metrics listener's surface: one page, no key, on an address of its own.
pub(crate) fn metrics_surface(appliance: &Appliance) -> Router {
    let page = async |State(appliance): State<Appliance>| {
        ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], appliance.metrics().render(&appliance.engine().stats()))
    };
    Router::new()
        .route("/metrics", get(page))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(appliance.clone())
}

fn routes(appliance: &Appliance) -> Router {
    let allowed = &appliance.served().endpoints;
    let mut routes = Router::new();
    for (endpoint, handler) in [
        (Endpoint::ChatCompletions, post(chat::create)),
        (Endpoint::Completions, post(completions::create)),
        (Endpoint::Embeddings, post(embeddings::create)),
    ] {
        // What a constraint excludes does not exist: its path is answered as any unknown one.
        if allowed.as_ref().is_none_or(|allowed| allowed.contains(&endpoint)) {
            routes = routes.route(endpoint.path(), handler);
        }
    }
    routes
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/metadata", get(metadata::metadata))
        .route("/v1/health/live", get(health::live))
        .route("/v1/health/ready", get(health::ready))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(appliance.clone())
}

/// Wraps the layers around a whole router rather than into it: a path that the router does not know passes them too.
fn layered(routes: Router, appliance: &Appliance) -> Router {
    let guarded = from_fn_with_state(appliance.clone(), auth::require_key).layer(routes);
    let observed = from_fn_with_state(appliance.clone(), access::observe).layer(guarded);
    Router::new().fallback_service(observed)
}

async fn unknown_path(method: Method) -> Response {
    ApiError::unknown_path(&method).into_response()
}

async fn method_not_allowed(method: Method) -> Response {
    ApiError::method_not_allowed(&method).into_response()
}
