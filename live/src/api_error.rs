//! Errors of the proxy itself, in the shape of OpenAI's API as vLLM writes it, so that clients read them as
//! they read an engine's.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;

/// An answer that an instance did not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    /// When to come again, of a 503.
    retry_after_s: u32,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after_s: 1 }
    }

    /// Nobody can take the request now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// Says when there may be somebody.
    pub(crate) fn retry_after_s(self, retry_after_s: u32) -> Self {
        Self { retry_after_s, ..self }
    }

    fn json(&self) -> String {
        let kind = match self.status {
            StatusCode::NOT_FOUND => "NotFoundError",
            status if status.is_client_error() => "BadRequestError",
            StatusCode::SERVICE_UNAVAILABLE => "Service Unavailable",
            _ => "InternalServerError",
        };
        let (message, code) = (&self.message, self.status.as_u16());
        json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
            .to_string()
    }

    /// As a response.
    pub(crate) fn response<B: From<Bytes>>(&self) -> Response<B> {
        let mut response = Response::new(Bytes::from(self.json()).into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(self.retry_after_s));
        }
        response
    }

    /// As the last events of a stream that has begun. One that is cut in the middle of an event is brought
    /// to its end first.
    pub(crate) fn events(&self, between_events: bool) -> Bytes {
        let gap = if between_events { "" } else { "\n\n" };
        format!("{gap}data: {}\n\ndata: [DONE]\n\n", self.json()).into()
    }
}
