//! `POST /v1/embeddings`.

use ampoule_inference::{EmbeddingRequest as EngineRequest, ModelKind};
use axum::extract::State;
use axum::{Extension, Json as JsonReply};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::access::RequestRecord;
use super::error::{ApiError, echo};
use super::generation::refusal;
use super::limits::Json;
use super::openai::embeddings::{EmbeddingItem, EmbeddingList, EmbeddingRequest, EmbeddingUsage, EmbeddingValue};
use super::parameters::integer;
use super::prompt;
use super::state::Appliance;

pub(crate) async fn create(
    State(appliance): State<Appliance>,
    Extension(record): Extension<RequestRecord>,
    Json(request, memory): Json<EmbeddingRequest>,
) -> Result<JsonReply<EmbeddingList>, ApiError> {
    appliance.require_model_of(ModelKind::Encoder, &request.model)?;
    let encoding = Encoding::of(request.encoding_format.as_deref())?;
    check_dimensions(&appliance, &request)?;
    let most = appliance.limits().max_embedding_inputs;
    if request.input.len() > most {
        let message = format!("One request may hold {most} inputs; found {}.", request.input.len());
        return Err(ApiError::invalid("input", message));
    }
    let read = move |appliance: &Appliance| prompt::embedding_tokens(appliance, &request.input);
    let inputs = appliance.off_thread(&record, memory, read).await?;
    let ticket = appliance.engine().embed(EngineRequest { inputs }).map_err(|error| refusal("input", error))?;
    let embeddings = ticket.wait().await.map_err(ApiError::internal)?;
    let prompt_tokens = embeddings.usage.prompt_tokens;
    record.add_prompt_tokens(prompt_tokens);
    appliance.metrics().add_prompt_tokens(prompt_tokens);
    let item = |(index, vector)| EmbeddingItem { object: "embedding", index, embedding: encoding.write(vector) };
    Ok(JsonReply(EmbeddingList {
        object: "list",
        data: embeddings.vectors.into_iter().enumerate().map(item).collect(),
        model: appliance.served().name.clone(),
        usage: EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens },
    }))
}

/// A shorter vector is only meaningful for models that were trained for it, so any other length than the model's own
/// is refused.
fn check_dimensions(appliance: &Appliance, request: &EmbeddingRequest) -> Result<(), ApiError> {
    let Some(asked) = integer::<usize>("dimensions", request.dimensions, 1..=1 << 20)? else { return Ok(()) };
    match appliance.engine().profile().embedding_dimension {
        Some(dimension) if dimension != asked => {
            let message = format!("This model's embeddings have {dimension} dimensions and cannot be shortened.");
            Err(ApiError::invalid("dimensions", message))
        }
        _ => Ok(()),
    }
}

/// How vectors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Float,
    Base64,
}

impl Encoding {
    fn of(word: Option<&str>) -> Result<Encoding, ApiError> {
        match word {
            None | Some("float") => Ok(Encoding::Float),
            Some("base64") => Ok(Encoding::Base64),
            Some(other) => {
                let message = format!("`encoding_format` must be \"float\" or \"base64\"; found {}.", echo(other));
                Err(ApiError::invalid("encoding_format", message))
            }
        }
    }

    fn write(self, vector: Vec<f32>) -> EmbeddingValue {
        match self {
            Encoding::Float => EmbeddingValue::Floats(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                EmbeddingValue::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn base64_holds_little_endian_floats() {
        let EmbeddingValue::Base64(text) = Encoding::Base64.write(vec![1.0, -2.5]) else { panic!("base64") };
        let bytes = STANDARD.decode(text).unwrap();
        assert_eq!(bytes, [0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
    }

    #[test]
    fn other_encodings_are_refused() {
        assert_eq!(Encoding::of(None).unwrap(), Encoding::Float);
        let error = Encoding::of(Some("int8")).unwrap_err().body().error;
        assert_eq!(error.param.as_deref(), Some("encoding_format"));
    }
}
