//! Administration over HTTP, under a prefix that no engine has: what is routed, to whom and how, seen and changed while it
//! runs.
//!
//! On the clients' port, not on one of its own: there is one address to know, one TLS, one listener. A token stands
//! before it, compared in constant time and before anything else of the request is looked at; without a token nobody gets in.
//! Only the dashboard's page is for everybody: it holds nothing. Nothing under the prefix ever reaches an instance.

mod api;
mod canary;
mod dashboard;
mod history;
mod overview;
mod token;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Response, StatusCode};
use tokio::sync::Mutex;

pub use self::token::{AdminSection, TokenError};

use self::api::{ApiFailure, Call};
use self::history::History;
use self::token::Token;
use crate::api_error::ApiError;
use crate::config::ServeConfig;
use crate::dispatcher::Dispatcher;
use crate::keeper::Keeper;
use crate::membership::Membership;
use crate::proxy::{ProxyBody, read_body};
use crate::queue::Queue;

/// Of all paths that are the proxy's alone.
const PREFIX: &str = "/lodestar";
const ADMIN: &str = "/lodestar/admin/";

/// Whether a path is the proxy's alone.
pub(crate) fn is_ours(path: &str) -> bool {
    path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What can be administered.
#[derive(Debug)]
pub(crate) struct Admin {
    /// `None`: it is off.
    token: Option<Token>,
    dispatcher: Arc<Dispatcher>,
    membership: Arc<Membership>,
    keeper: Option<Arc<Keeper>>,
    queue: Arc<Queue>,
    since: Instant,
    history: std::sync::Mutex<History>,
    /// Longest body, bytes.
    body_bytes: usize,
    /// Changes happen one after another.
    changing: Mutex<()>,
}

impl Admin {
    pub(crate) fn new(
        config: &ServeConfig,
        dispatcher: Arc<Dispatcher>,
        membership: Arc<Membership>,
        keeper: Option<Arc<Keeper>>,
        queue: Arc<Queue>,
    ) -> Result<Self, TokenError> {
        let token = config.admin.as_ref().map(Token::read).transpose()?;
        let (body_bytes, changing) = (config.limits.body_bytes, Mutex::default());
        Ok(Self {
            token,
            dispatcher,
            membership,
            keeper,
            queue,
            since: Instant::now(),
            history: std::sync::Mutex::default(),
            body_bytes,
            changing,
        })
    }

    /// Answers a request for a path of [ours](is_ours).
    pub(crate) async fn answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Response<ProxyBody> {
        let Some(token) = &self.token else {
            let message = "administration is off; name `token_file` or `token_env` under `[admin]`";
            return ApiError::new(StatusCode::NOT_FOUND, message).response_left();
        };
        if path == dashboard::PATH && method == Method::GET {
            return dashboard::page();
        }
        if !token.is_in(headers) {
            let message =
                "this needs the header `authorization: Bearer TOKEN` with the token of `[admin]`";
            let mut response = ApiError::new(StatusCode::UNAUTHORIZED, message).response_left();
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        let name = path.strip_prefix(ADMIN).unwrap_or_default();
        let call = match Call::find(method, name) {
            Ok(call) => call,
            Err(methods) if methods.is_empty() => {
                let message = format!("there is no {path}; docs/live.md lists what there is");
                return ApiError::new(StatusCode::NOT_FOUND, message).response_left();
            }
            Err(methods) => {
                let message = format!("{path} takes {methods}");
                let mut response =
                    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).response_left();
                if let Ok(methods) = HeaderValue::from_str(&methods) {
                    response.headers_mut().insert(ALLOW, methods);
                }
                return response;
            }
        };
        let body = match read_body(body, self.body_bytes).await {
            Ok(body) => body,
            Err(error) => return error.response_left(),
        };
        match self.call(call, &body).await {
            Ok(text) => json(text),
            Err(error) => ApiError::new(error.status(), error.to_string()).response_left(),
        }
    }

    async fn call(&self, call: Call, body: &[u8]) -> Result<Bytes, ApiFailure> {
        let _alone = if call.changes() { Some(self.changing.lock().await) } else { None };
        self.act(call, body).await
    }
}

fn json(text: Bytes) -> Response<ProxyBody> {
    let mut response = Response::new(Either::Left(Full::new(text)));
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_a_folder() {
        assert!(is_ours("/lodestar") && is_ours("/lodestar/") && is_ours("/lodestar/admin/x"));
        assert!(!is_ours("/lodestars") && !is_ours("/v1/lodestar"));
    }
}
