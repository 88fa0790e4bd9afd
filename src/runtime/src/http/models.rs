//! `GET /v1/models` and `GET /v1/models/{id}`: the one model that is served.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};

use super::error::ApiError;
use super::openai::models::{Model, ModelList};
use super::state::Appliance;

pub(crate) async fn list(State(appliance): State<Appliance>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: vec![model(&appliance)] })
}

pub(crate) async fn one(
    State(appliance): State<Appliance>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Model>, ApiError> {
    // A name that is no text at all is, for the client, a name that is not served.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    appliance.require_model(&id)?;
    Ok(Json(model(&appliance)))
}

fn model(appliance: &Appliance) -> Model {
    let served = appliance.served();
    Model {
        id: served.name.clone(),
        object: "model",
        // When its vendor sealed it, so that the list is the same after each start.
        created: served.bundle.issued_at.as_second(),
        owned_by: "ampoule".to_owned(),
        max_model_len: appliance.engine().context_limit(),
    }
}
