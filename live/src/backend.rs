//! One vLLM server: where it is, and how requests get there.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use tokio_rustls::rustls::ClientConfig;

use crate::kv_events::KvEndpoints;

/// vLLM's server closes idle connections after 5 s. One that is reused a moment too late fails.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);
/// A machine in the same cluster answers or it is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// So often the kernel asks over a silent connection whether the other machine is there, and so many times in vain. An engine that hangs
/// is there: that is for others to find out.
const KEEPALIVE: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// So many failures in a row, and the instance is taken out of the fleet.
const FAILURES: u32 = 5;
/// Longest page that is read from an instance for the router itself.
const PAGE_BYTES: usize = 16 << 20;

/// Connections to all instances.
pub(crate) type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client with connections that are kept.
pub(crate) fn client(tls: ClientConfig) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_CONNECTION)
        .pool_timer(TokioTimer::new())
        .build(connector(tls))
}

/// Makes connections.
pub(crate) fn connector(tls: ClientConfig) -> HttpsConnector<HttpConnector> {
    let mut connector = HttpConnector::new();
    // Without it the kernel waits for more before it sends what follows a small packet.
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    // A machine that is gone answers nothing, and a request that waits for its first token there goes elsewhere.
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    connector.enforce_http(false);
    HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector)
}

/// A vLLM server.
#[derive(Debug)]
pub(crate) struct Backend {
    /// As it was configured.
    pub(crate) url: String,
    scheme: Scheme,
    authority: Authority,
    /// What stands before every path; empty, or without a slash at its end.
    prefix: String,
    /// Where it tells of its prefix cache, if anybody listens.
    pub(crate) kv_endpoints: Option<KvEndpoints>,
    /// Requests in a row that it failed.
    failures: AtomicU32,
    /// It hung, and has served nothing since.
    on_trial: AtomicBool,
    /// Requests that the router has sent there and that have not ended, whether it is in the fleet or not.
    under_way: AtomicU32,
}

/// A URL that cannot be an instance's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instance `{url}`: {complaint}; write it as http://HOST:PORT")]
pub struct InvalidUrl {
    url: String,
    pub(crate) complaint: &'static str,
}

impl Backend {
    /// Reads a URL such as `http://10.0.0.7:8000`.
    pub(crate) fn parse(url: &str) -> Result<Self, InvalidUrl> {
        let fail = |complaint| InvalidUrl { url: url.to_owned(), complaint };
        let uri: Uri = url.parse().map_err(|_| fail("not a URL"))?;
        let scheme = uri.scheme().cloned().ok_or_else(|| fail("the scheme is missing"))?;
        if ![Scheme::HTTP, Scheme::HTTPS].contains(&scheme) {
            return Err(fail("only http and https are spoken"));
        }
        if uri.query().is_some() {
            return Err(fail("it has a query"));
        }
        let authority = uri.authority().cloned().ok_or_else(|| fail("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(fail("it has a user name"));
        }
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            scheme,
            authority,
            prefix,
            kv_endpoints: None,
            failures: AtomicU32::new(0),
            on_trial: AtomicBool::new(false),
            under_way: AtomicU32::new(0),
        })
    }

    /// The same path and query at this instance.
    pub(crate) fn uri(&self, path_and_query: &str) -> Option<Uri> {
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query([&self.prefix, path_and_query].concat())
            .build()
            .ok()
    }

    /// A request goes there.
    pub(crate) fn begun(&self) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
    }

    /// It has ended, one way or another.
    pub(crate) fn ended(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Requests that have not ended.
    pub(crate) fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }

    /// It served a request.
    pub(crate) fn succeeded(&self) {
        // Most of the time it is 0 already, and then nobody's cache line has to move.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.is_on_trial() {
            self.on_trial.store(false, Ordering::Relaxed);
        }
    }

    /// It hangs. When it is back, it gets one request until it has served one.
    pub(crate) fn hung(&self) {
        self.on_trial.store(true, Ordering::Relaxed);
    }

    /// Whether it hung and has served nothing since.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.on_trial.load(Ordering::Relaxed)
    }

    /// It failed a request. Answers whether it is to be taken out of the fleet. When it is back, its next
    /// failure is enough until it has served a request.
    pub(crate) fn failed(&self) -> bool {
        let before = self.failures.fetch_add(1, Ordering::Relaxed);
        let out = before + 1 >= FAILURES;
        if out {
            self.failures.store(FAILURES - 1, Ordering::Relaxed);
        }
        out
    }

    /// Fetches a page for the router itself.
    pub(crate) async fn get(
        &self,
        client: &Client,
        path: &str,
        authorization: Option<HeaderValue>,
    ) -> Result<Page, FetchError> {
        self.fetch(client, path, authorization, Request::new(Full::default())).await
    }

    /// Asks something for the router itself, in JSON.
    pub(crate) async fn post(
        &self,
        client: &Client,
        path: &str,
        authorization: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Page, FetchError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        self.fetch(client, path, authorization, request).await
    }

    async fn fetch(
        &self,
        client: &Client,
        path: &str,
        authorization: Option<HeaderValue>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Page, FetchError> {
        *request.uri_mut() = self.uri(path).ok_or(FetchError::Path)?;
        request.headers_mut().extend(authorization.map(|key| (header::AUTHORIZATION, key)));
        let response: Response<Incoming> = client.request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), PAGE_BYTES).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => FetchError::TooLong,
            Err(error) => FetchError::Body(error),
        })?;
        Ok(Page { status, body: body.to_bytes() })
    }
}

/// A page of an instance.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// A page that did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{}", chain(.0))]
    Request(#[from] legacy::Error),
    #[error("the answer broke off: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is longer than {PAGE_BYTES} bytes")]
    TooLong,
    #[error("no such path")]
    Path,
}

/// An error with what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// Headers that concern one connection and not the message (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes what concerns only the connection that the message came on.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for named in headers.get_all(header::CONNECTION).iter().cloned().collect::<Vec<_>>() {
        for name in named.to_str().unwrap_or_default().split(',') {
            headers.remove(name.trim());
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        let complaint = |url: &str| Backend::parse(url).unwrap_err().complaint;
        assert_eq!(complaint("10.0.0.1:8000"), "the scheme is missing");
        assert_eq!(complaint("ftp://h:8000"), "only http and https are spoken");
        assert_eq!(complaint("http://h:8000/?x"), "it has a query");
        assert_eq!(complaint("http://u@h:8000"), "it has a user name");
        assert_eq!(complaint("http://"), "not a URL");
        let backend = Backend::parse("http://h:8000/base/").unwrap();
        assert_eq!(backend.uri("/v1/models?a=b").unwrap(), "http://h:8000/base/v1/models?a=b");
        assert_eq!(
            Backend::parse("https://h").unwrap().uri("/health").unwrap(),
            "https://h/health"
        );
    }

    #[test]
    fn headers_named_by_connection_are_removed_too() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-mine"),
            ("connection", "x-too"),
            ("x-mine", "1"),
            ("x-too", "1"),
            ("te", "trailers"),
            ("x-kept", "2"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-kept"]);
    }
}
