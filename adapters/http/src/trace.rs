//! One span and one line in the log per request, under an id that the client knows too.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument, Span, info, info_span};
use uuid::Uuid;

use crate::counted::Counted;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Runs the request in its span.
///
/// The route is logged and not the path, which may hold anything; nor do headers, queries or bodies get into the log.
pub(crate) async fn trace(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str);
    let span = info_span!(
        "request",
        request_id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        route,
        status = Empty,
        duration_ms = Empty,
        user.id = Empty,
    );
    let counted = Counted::begin(&request);
    let line = Line { span: span.clone(), started: Instant::now(), what: "cancelled" };
    let mut response = next.run(request).instrument(span.clone()).await;
    span.record("status", response.status().as_u16());
    line.answered();
    counted.answered(response.status());
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// The line in the log that says how a request ended. It is written when this is dropped, so that a request whose
/// client has gone away has one too.
struct Line {
    span: Span,
    started: Instant,
    what: &'static str,
}

impl Line {
    fn answered(mut self) {
        self.what = "answered";
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.span.record("duration_ms", self.started.elapsed().as_secs_f64() * 1000.0);
        self.span.in_scope(|| info!("{}", self.what));
    }
}

/// The client's id for the request if it is short and plain, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(plain).cloned().unwrap_or_else(|| {
        let id = Uuid::now_v7().hyphenated().to_string();
        HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("none"))
    })
}
