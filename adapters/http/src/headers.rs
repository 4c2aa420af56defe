//! The headers that every answer has, and which other sites may read it.

use axum::extract::{Request, State};
use axum::http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
    RETRY_AFTER, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, Version};
use axum::middleware::Next;
use axum::response::Response;
use outrigger_application::Drain;
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::connection::Peer;
use crate::extract::SOURCE_ID;
use crate::trace::REQUEST_ID;
use crate::watch::LAST_EVENT_ID;

/// For whoever shows an answer to somebody: it is what it says it is, loads nothing, is in no frame of another site, and
/// its address stays here.
const ALWAYS: [(HeaderName, &str); 5] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];
/// A year of nothing but TLS, for a server that is reached by it.
const TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");
/// How long a browser may remember what it is allowed to ask.
const PREFLIGHT_AGE: Duration = Duration::from_secs(3_600);

/// Adds them. While the server drains, a client of HTTP/1.1 is also told to connect anew for its next request: that
/// gets to another server then.
pub(crate) async fn headers(State(drain): State<Drain>, request: Request, next: Next) -> Response {
    let is_encrypted = request.extensions().get::<Peer>().is_some_and(|peer| peer.is_encrypted);
    let version = request.version();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if is_encrypted {
        headers.insert(STRICT_TRANSPORT_SECURITY, TLS_ONLY);
    }
    if version < Version::HTTP_2 && drain.has_begun() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The pages of other sites that may use the API in a browser. By default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// None.
    #[default]
    None,
    /// Those, such as `https://app.example`.
    These(Vec<HeaderValue>),
    /// All of them. A token is needed all the same, and no browser adds one by itself.
    Any,
}

impl Origins {
    /// What answers their browsers' questions, and lets their pages read answers.
    pub(crate) fn layer(&self) -> Option<CorsLayer> {
        let origins = match self {
            Self::None => return None,
            Self::These(origins) => AllowOrigin::list(origins.iter().cloned()),
            Self::Any => AllowOrigin::any(),
        };
        let asked = [AUTHORIZATION, CONTENT_TYPE, CONTENT_ENCODING, ACCEPT, SOURCE_ID, LAST_EVENT_ID, REQUEST_ID];
        let layer = CorsLayer::new().allow_origin(origins).allow_headers(asked).max_age(PREFLIGHT_AGE);
        let methods = [Method::GET, Method::POST, Method::DELETE];
        Some(layer.allow_methods(methods).expose_headers([REQUEST_ID, RETRY_AFTER]))
    }
}
