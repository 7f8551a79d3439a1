//! The dashboard: one page with everything in it, which holds no data and asks [`overview`](super::overview) for it with the
//! token that its reader types.
//!
//! Its policy lets run only what carries the nonce of this answer: whatever ends up in the page as text cannot become a
//! script that reads the token.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use http_body_util::{Either, Full};
use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
};
use hyper::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};

use crate::proxy::ProxyBody;

/// Where it is.
pub(super) const PATH: &str = "/lodestar/dashboard";

/// The page, the same for everybody but for its nonce.
pub(super) fn page() -> Response<ProxyBody> {
    // Keyed by the system's random numbers: nobody can guess it.
    let random = || RandomState::new().build_hasher().finish();
    let nonce = format!("{:016x}{:016x}", random(), random());
    let page = format!(
        include_str!("dashboard/page.html"),
        nonce = nonce,
        style = include_str!("dashboard/dashboard.css"),
        chart = include_str!("dashboard/chart.js"),
        script = include_str!("dashboard/dashboard.js"),
    );
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    );
    let mut response = Response::new(Either::Left(Full::from(page)));
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    put(CONTENT_TYPE, "text/html; charset=utf-8");
    put(CONTENT_SECURITY_POLICY, &policy);
    put(CACHE_CONTROL, "no-store");
    put(REFERRER_POLICY, "no-referrer");
    put(X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}
