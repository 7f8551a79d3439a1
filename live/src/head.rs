//! A request without its body, as it goes to an instance.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request};

use crate::backend::strip_hop_by_hop;
use crate::dispatcher::Member;
use crate::proxy::X_REQUEST_ID;
use crate::telemetry::{Span, Telemetry};

/// `1`: an answer whose instance fails goes on at another one.
const X_LODESTAR_RESUME: HeaderName = HeaderName::from_static("x-lodestar-resume");

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Head {
    method: Method,
    path_and_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) span: Span,
}

impl Head {
    /// What goes on of a request, and its span if it is traced.
    pub(crate) fn of(telemetry: Option<&Telemetry>, parts: Parts, is_engines: bool) -> Self {
        let Parts { method, uri, mut headers, .. } = parts;
        strip_hop_by_hop(&mut headers);
        for ours in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
            headers.remove(ours);
        }
        let path_and_query = uri.path_and_query().map_or_else(|| uri.path(), |path| path.as_str());
        let span = telemetry.map_or_else(Span::default, |telemetry| {
            let path = path_of(path_and_query);
            // Clients may invent any other path, and any method.
            let name = if is_engines { format!("{method} {path}") } else { "HTTP".to_owned() };
            let span = telemetry.begin(&mut headers, name);
            span.set_text("http.request.method", method.as_str());
            span.set_text("url.path", path);
            span.set_text("lodestar.request_id", text(&headers, X_REQUEST_ID).unwrap_or_default());
            span
        });
        Self { path_and_query: path_and_query.to_owned(), method, headers, span }
    }

    /// Without its query.
    pub(crate) fn path(&self) -> &str {
        path_of(&self.path_and_query)
    }

    /// Whether the client wants an answer that fails to go on elsewhere.
    pub(crate) fn asks_for_resume(&self) -> bool {
        text(&self.headers, X_LODESTAR_RESUME) == Some("1")
    }

    /// The request as one instance gets it.
    pub(crate) fn request_to(&self, member: &Member, body: Bytes) -> Option<Request<Full<Bytes>>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = member.backend.uri(&self.path_and_query)?;
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }
}

/// Without the query.
fn path_of(path_and_query: &str) -> &str {
    path_and_query.split('?').next().unwrap_or_default()
}

/// The header's text, if it is text.
pub(crate) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok())
}
