//! Which path is answered by what.  The table is the whole surface; around it lie authentication and the access log.

use ampoule_bundle::statement::Endpoint;
use ampoule_inference::LoadedAdapter;
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
use super::{access, auth, chat, completions, embeddings, health, metadata, models, status};
use crate::metrics::{self, Moment};

/// What this runtime answers as far as a bundle's constraints allow it.
pub const ENDPOINTS: [Endpoint; 3] = [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Embeddings];

const MODELS: &str = "/v1/models";
const METRICS: &str = "/metrics";

/// The public surface with its layers, outermost first: access log and panic guard, authentication, routes.
pub(crate) fn surface(appliance: &Appliance) -> Router {
    layered(routes(appliance), appliance)
}

/// The metrics listener's surface: one page, no key, on an address of its own.
pub(crate) fn metrics_surface(appliance: &Appliance) -> Router {
    let page = async |State(appliance): State<Appliance>| {
        let engine = appliance.engine();
        let digest = |adapter: &LoadedAdapter| (adapter.name().to_owned(), adapter.identity.manifest.to_string());
        let moment = Moment {
            engine: engine.stats(),
            queued: appliance.queued(),
            is_ready: appliance.is_ready(),
            now: appliance.now(),
            adapters: engine.adapters().values().map(|adapter| digest(adapter)).collect(),
            adapter_limit: engine.adapter_limit(),
            waiting_adapters: engine.waiting_adapters(),
        };
        ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], appliance.metrics().render(&moment))
    };
    Router::new()
        .route(METRICS, get(page))
        .fallback(async |method: Method| ApiError::unknown_path(&method, &[METRICS]))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(appliance.clone())
}

fn routes(appliance: &Appliance) -> Router {
    let mut routes = Router::new();
    let handlers = [post(chat::create), post(completions::create), post(embeddings::create)];
    for (endpoint, handler) in ENDPOINTS.into_iter().zip(handlers) {
        // What a constraint excludes does not exist: its path is answered as any unknown one.
        if is_allowed(appliance, endpoint) {
            routes = routes.route(endpoint.path(), handler);
        }
    }
    routes
        .route(MODELS, get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/metadata", get(metadata::metadata))
        .route("/", get(status::page))
        .route("/v1/status", get(status::status))
        .route("/v1/health/live", get(health::live))
        .route("/v1/health/ready", get(health::ready))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(unknown_path)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(appliance.clone())
}

fn is_allowed(appliance: &Appliance, endpoint: Endpoint) -> bool {
    appliance.served().endpoints.as_ref().is_none_or(|allowed| allowed.contains(&endpoint))
}

/// Wraps the layers around a whole router rather than into it: a path that the router does not know passes them too.
fn layered(routes: Router, appliance: &Appliance) -> Router {
    let guarded = from_fn_with_state(appliance.clone(), auth::require_key).layer(routes);
    let observed = from_fn_with_state(appliance.clone(), access::observe).layer(guarded);
    Router::new().fallback_service(observed)
}

async fn unknown_path(State(appliance): State<Appliance>, method: Method) -> Response {
    let allowed = ENDPOINTS.into_iter().filter(|endpoint| is_allowed(&appliance, *endpoint));
    let mut served: Vec<&str> = allowed.map(Endpoint::path).collect();
    served.push(MODELS);
    ApiError::unknown_path(&method, &served).into_response()
}

async fn method_not_allowed(method: Method) -> Response {
    ApiError::method_not_allowed(&method).into_response()
}
