//! What a client is told when a request is not carried out: OpenAI's form of an error.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::error::Error;

/// OpenAI's code for a prompt that does not fit.
const TOO_LONG: &str = "context_length_exceeded";

/// A refusal: its status, a code that programs read, the field it is about, and what to do.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) param: Option<String>,
    pub(super) message: String,
    /// Seconds after which to try again.
    pub(super) retry_after: Option<u64>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { status, code, param: None, message: message.into(), retry_after: None }
    }

    /// A field that cannot be used.
    pub(super) fn field(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        let (param, message) = (param.into(), message.into());
        ApiError { param: Some(param), ..ApiError::new(StatusCode::BAD_REQUEST, "invalid_value", message) }
    }

    /// A prompt that does not fit.
    pub(super) fn too_long(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError { code: TOO_LONG, ..ApiError::field(param, message) }
    }

    /// A field that nobody here carries out.
    pub(super) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        let param = param.into();
        let message = format!("`{param}`: {}", message.into());
        ApiError { param: Some(param), ..ApiError::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message) }
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, code, message)
    }

    /// More work than there is room for.
    pub(super) fn busy(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError { retry_after: Some(1), ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, code, message) }
    }

    /// A fault of the server.
    pub(super) fn fault(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    pub(super) fn ending() -> ApiError {
        let message = "the server is shutting down; ask another, or again in a moment";
        ApiError { retry_after: Some(5), ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message) }
    }

    pub(super) fn at(self, param: impl Into<String>) -> ApiError {
        ApiError { param: Some(param.into()), ..self }
    }

    /// OpenAI's name for errors of this status.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            409 => "conflict_error",
            429 => "rate_limit_error",
            status if status >= 500 => "server_error",
            _ => "invalid_request_error",
        }
    }

    /// The body, which streams send too.
    pub(super) fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind(), "param": self.param, "code": self.code}})
    }
}

impl From<Error> for ApiError {
    /// What a user can fix is a 400, the rest a fault. Paths of files stay out of it.
    fn from(error: Error) -> ApiError {
        match error {
            Error::Usage { what, why, help } => {
                let code = if what == "prompt" && why.contains("there is room for") { TOO_LONG } else { "invalid_value" };
                ApiError::new(StatusCode::BAD_REQUEST, code, format!("{what}: {why}; {help}"))
            }
            Error::Template { line, why, help, .. } => {
                let at = line.map(|l| format!(" line {l}")).unwrap_or_default();
                ApiError::new(StatusCode::BAD_REQUEST, "template_error", format!("the chat template{at}: {why}; {help}"))
                    .at("messages")
            }
            Error::Adapter { what, why, help, .. } | Error::Unsupported { what, why, help, .. } => {
                ApiError::new(StatusCode::BAD_REQUEST, "bad_adapter", format!("{what}: {why}; {help}"))
            }
            Error::NonFinite { why, .. } => ApiError::fault(why),
            Error::Io { action, source, .. } => ApiError::fault(format!("cannot {action} a file: {source}")),
            other => ApiError::fault(other.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
