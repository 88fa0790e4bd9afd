//! `GET /v1/models` and `GET /v1/models/{id}`: the model that is served, and the adapters beside it.

use ampoule_bundle::BundleIdentity;
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};

use super::error::ApiError;
use super::openai::models::{Model, ModelList};
use super::state::Appliance;

pub(crate) async fn list(State(appliance): State<Appliance>) -> Json<ModelList> {
    let adapters = appliance.engine().adapters();
    let adapters = adapters.values().map(|adapter| model(&appliance, &adapter.identity, adapter.name().to_owned()));
    let served = appliance.served();
    let data = std::iter::once(model(&appliance, &served.bundle, served.name.clone())).chain(adapters).collect();
    Json(ModelList { object: "list", data })
}

pub(crate) async fn one(
    State(appliance): State<Appliance>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    // A name that is no text at all is, for the client, a name that is not served.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let target = appliance.require_model(&id)?;
    let identity = target.adapter.as_ref().map_or(&appliance.served().bundle, |adapter| &adapter.identity);
    Ok(Json(model(&appliance, identity, id)))
}

fn model(appliance: &Appliance, identity: &BundleIdentity, id: String) -> Model {
    Model {
        id,
        object: "model",
        // When its vendor sealed it, so that the list is the same after each start.
        created: identity.issued_at.as_second(),
        owned_by: "ampoule".to_owned(),
        max_model_len: appliance.engine().context_limit(),
    }
}
