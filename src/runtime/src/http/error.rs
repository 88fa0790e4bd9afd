//! What a client is told when a request is refused, and what only the log is told.
//!
//! Every refusal, whatever its cause, leaves as OpenAI's error body, so that stock clients raise the right exception.
//! The message to the client is written here, for a reader who sees only the API: no paths, no type names, no
//! backtraces (THREATS C45).  The internal cause travels beside the response to the access log.

use std::borrow::Cow;

use ampoule_inference::ModelKind;
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde::Serialize;

/// How many characters of a client's own value are repeated to it.
const MAX_ECHO_CHARACTERS: usize = 64;

/// A refused or failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    detail: ErrorDetail,
    retry_after_seconds: Option<u32>,
    closes_connection: bool,
    internal: Option<String>,
}

/// The cause of a failure, for the log only; carried in the response's extensions.
#[derive(Debug, Clone)]
pub(crate) struct InternalCause(pub(crate) String);

/// OpenAI's error body.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorDetail,
}

/// The four members that OpenAI's clients read.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ErrorDetail {
    pub(crate) message: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

impl ApiError {
    /// 400: the request itself is wrong, at `param` where that can be told.
    pub(crate) fn invalid(param: impl Into<Param>, message: impl Into<String>) -> ApiError {
        let Param(param) = param.into();
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message).at(param)
    }

    /// 400: a field that this server knows and does not support, because ignoring it would change the meaning.
    pub(crate) fn unsupported(param: &str, message: impl Into<String>) -> ApiError {
        ApiError::invalid(param, message).coded("unsupported_parameter")
    }

    /// 400: the prompt, or the prompt and what was asked for, is longer than the model's context.
    pub(crate) fn context_length(param: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::invalid(param, message).coded("context_length_exceeded")
    }

    /// 400: the served model is of another kind than the endpoint needs.
    pub(crate) fn unsupported_model(found: ModelKind) -> ApiError {
        let message = format!("The served model is {found} and cannot answer this endpoint.");
        ApiError::invalid("model", message).coded("unsupported_model")
    }

    /// 401: one answer for every failure of authentication, so that it tells nothing (THREATS C42).
    pub(crate) fn unauthenticated() -> ApiError {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "invalid_request_error",
            Some("invalid_api_key"),
            "A valid API key is required: send it as `Authorization: Bearer KEY`.",
        )
    }

    /// 404: no model of that name is served.
    pub(crate) fn model_not_found(name: &str) -> ApiError {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("model_not_found"),
            format!("The model {} does not exist here; GET /v1/models lists what is served.", echo(name)),
        )
        .at(Some("model".to_owned()))
    }

    /// 404: no such path; `served` are those that a client may have meant.
    pub(crate) fn unknown_path(method: &Method, served: &[&str]) -> ApiError {
        let served = served.join(", ");
        let message = format!("There is nothing at this path for {}; served are {served}.", echo(method.as_str()));
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("unknown_url"), message)
    }

    /// 405: the path exists, the method does not.
    pub(crate) fn method_not_allowed(method: &Method) -> ApiError {
        let message = format!("This path does not answer {}.", echo(method.as_str()));
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_allowed"), message)
    }

    /// 408: the body did not arrive in time.
    pub(crate) fn body_too_slow(seconds: u64) -> ApiError {
        let message = format!("The request body did not arrive within {seconds} seconds.");
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", Some("request_timeout"), message).closing()
    }

    /// 413: the body is longer than the limit.
    pub(crate) fn body_too_large(limit_bytes: usize) -> ApiError {
        let message = format!("The request body is longer than the limit of {limit_bytes} bytes.");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("request_too_large"), message)
            .closing()
    }

    /// 415: the body is not plain JSON.
    pub(crate) fn unsupported_media_type(message: impl Into<String>) -> ApiError {
        let code = Some("unsupported_media_type");
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", code, message)
    }

    /// 429: the queue is full.
    pub(crate) fn overloaded() -> ApiError {
        let message = "The server has as many requests as it can hold; try again shortly.";
        let mut error =
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"), message);
        error.retry_after_seconds = Some(1);
        error
    }

    /// 503: the server is shutting down, or its engine has stopped.
    pub(crate) fn unavailable(message: &'static str) -> ApiError {
        let code = Some("service_unavailable");
        let mut error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", code, message);
        error.retry_after_seconds = Some(5);
        error
    }

    /// 500: our fault.  The client learns that; the log learns why.
    pub(crate) fn internal(cause: impl std::fmt::Display) -> ApiError {
        let message = "The server failed while it worked on this request; its log says more under the x-request-id.";
        let code = Some("internal_error");
        let mut error = ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", code, message);
        error.internal = Some(cause.to_string());
        error
    }

    /// What the client reads, for a stream whose status line has already gone.
    pub(crate) fn body(&self) -> ErrorBody {
        ErrorBody { error: self.detail.clone() }
    }

    /// What only the log may know.
    pub(crate) fn internal_cause(&self) -> Option<&str> {
        self.internal.as_deref()
    }

    pub(crate) fn coded(mut self, code: &'static str) -> ApiError {
        self.detail.code = Some(code);
        self
    }

    /// Adds what only the log may know.
    pub(crate) fn because(mut self, cause: impl std::fmt::Display) -> ApiError {
        self.internal = Some(cause.to_string());
        self
    }

    /// Closes the connection after the answer, because what follows on it cannot be trusted to be a request.
    pub(crate) fn closing(mut self) -> ApiError {
        self.closes_connection = true;
        self
    }

    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> ApiError {
        let detail = ErrorDetail { message: message.into(), kind, param: None, code };
        ApiError { status, detail, retry_after_seconds: None, closes_connection: false, internal: None }
    }

    fn at(mut self, param: Option<String>) -> ApiError {
        self.detail.param = param;
        self
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.detail })).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes_connection {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(cause) = self.internal {
            response.extensions_mut().insert(InternalCause(cause));
        }
        response
    }
}

/// The name of the field at fault, if there is one.
pub(crate) struct Param(Option<String>);

impl Param {
    /// For what is wrong with the request as a whole.
    pub(crate) const NONE: Param = Param(None);
}

impl From<&str> for Param {
    fn from(name: &str) -> Param {
        Param(Some(name.to_owned()))
    }
}

impl From<String> for Param {
    fn from(name: String) -> Param {
        Param(Some(name))
    }
}

impl From<Option<String>> for Param {
    fn from(name: Option<String>) -> Param {
        Param(name)
    }
}

/// A client's own value as it may be repeated to it: quoted, escaped and short.
pub(crate) fn echo(value: &str) -> String {
    let shown: Cow<'_, str> = match value.char_indices().nth(MAX_ECHO_CHARACTERS) {
        Some((end, _)) => format!("{}…", &value[..end]).into(),
        None => value.into(),
    };
    format!("`{}`", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_body_has_all_four_members() {
        let body = serde_json::to_value(ApiError::invalid(Param::NONE, "Wrong.").body()).unwrap();
        let expected = serde_json::json!({
            "error": { "message": "Wrong.", "type": "invalid_request_error", "param": null, "code": null }
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn an_internal_cause_never_reaches_the_body() {
        let response = ApiError::internal("tensor at /secret/path").into_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.extensions().get::<InternalCause>().unwrap().0, "tensor at /secret/path");
        let body = serde_json::to_string(&ApiError::internal("/secret/path").body()).unwrap();
        assert!(!body.contains("secret"));
    }

    #[test]
    fn an_echo_is_short_and_escaped() {
        assert_eq!(echo("a\r\nb\u{1b}[31m"), "`a\\r\\nb\\u{1b}[31m`");
        assert!(echo(&"x".repeat(1_000_000)).len() < 100);
    }
}
