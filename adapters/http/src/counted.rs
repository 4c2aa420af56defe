//! What is counted of every request.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode};
use metrics::{counter, gauge, histogram};
use outrigger_application::measures::{HTTP_DURATION, HTTP_IN_FLIGHT, HTTP_REQUESTS};

/// A request that is being answered. Counted when this is dropped, so that one whose client has gone away is counted too.
pub(crate) struct Counted {
    method: &'static str,
    route: String,
    /// None for a request that waits for news: what it takes says nothing of the server.
    started: Option<Instant>,
    status: Option<StatusCode>,
}

impl Counted {
    /// Begins to count.
    pub(crate) fn begin(request: &Request) -> Self {
        gauge!(HTTP_IN_FLIGHT).increment(1);
        let waits = request.uri().query().is_some_and(|query| query.split('&').any(|part| part.starts_with("wait=")));
        Self {
            method: name(request.method()),
            // The route and not the path, which may be anything.
            route: request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned(),
            started: (!waits).then(Instant::now),
            status: None,
        }
    }

    /// The head of the answer is there.
    pub(crate) fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(HTTP_IN_FLIGHT).decrement(1);
        let status = self.status.map_or_else(|| "cancelled".to_owned(), |status| status.as_str().to_owned());
        counter!(HTTP_REQUESTS, "route" => self.route.clone(), "method" => self.method, "status" => status)
            .increment(1);
        if let Some(started) = self.started {
            histogram!(HTTP_DURATION, "route" => self.route.clone()).record(started.elapsed());
        }
    }
}

/// Of the methods that there are; a client may make up others.
fn name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PATCH" => "PATCH",
        _ => "other",
    }
}
