//! `GET /sync/watch`

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use outrigger_application::watch::{WatchQuery, Watcher};
use outrigger_domain::{Epoch, ServerSeq};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::Api;
use crate::admission::Place;
use crate::error::ApiError;
use crate::extract::Authenticated;
use crate::limits::WatcherSlot;
use crate::openapi::{DownloadErrors, SourceHeader};
use crate::params;

/// How often a comment is sent while nothing happens, so that nobody on the way takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// When a device whose connection has ended connects again: at a random time between these, so that a server that
/// restarts is not met by all of them at once.
const RETRY_MIN_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 6_000;
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Keeps nginx from collecting events before it passes them on.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// From where on to watch. Parameters that are not listed here are ignored.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
struct WatchParams {
    /// The highest `server_id` that the device has applied. The header `Last-Event-ID`, which clients of event streams
    /// send by themselves when they connect again, counts in its place.
    #[param(minimum = 0, value_type = Option<i64>)]
    after: Option<i64>,
    /// Whether changes that the caller's own source made are announced too.
    #[param(default = false, required = false)]
    include_self: bool,
    /// The epoch that `after` is of; another one than the stream's is refused.
    epoch: Option<Uuid>,
}

/// Hear of changes
///
/// Server-sent events: at once, and whenever other devices have changed something, an event `changes` with the end of
/// the stream. Many changes may be one event. It is a hint and nothing more: a device that gets one downloads from
/// its own cursor. The stream ends when the token does and when the server stops; `retry` says when to connect again.
#[utoipa::path(
    get,
    path = "/sync/watch",
    tag = "sync",
    security(("bearer" = [])),
    params(WatchParams, SourceHeader),
    responses(
        (status = 200, description = "Events, for as long as the token is good.", content_type = "text/event-stream",
         body = String, example = "retry: 2817\n\nevent: changes\nid: 43\ndata: {\"highest_server_seq\":43}\n\n:\n\n"),
        DownloadErrors
    ),
)]
pub(crate) async fn watch(
    State(api): State<Arc<Api>>,
    Authenticated(caller): Authenticated,
    place: Place,
    headers: HeaderMap,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let params = WatchParams::read(&pairs)?;
    // The last event says what the device was told of, and not what it has.
    api.contacts.note(&caller, params.after.map(ServerSeq));
    let query = params.query(last_event(&headers)?);
    let slot = api.admission.limiter.watcher(&caller.user)?;
    let watcher = api.watch.open(&caller, &query).await?;
    place.leave();
    let retry = Duration::from_millis(fastrand::u64(RETRY_MIN_MS..=RETRY_MAX_MS));
    let events = stream::unfold(Watching { watcher, retry: Some(retry), _slot: slot }, event);
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    // Not to be kept, nor to be changed on the way.
    let no_store = (CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    Ok(([no_store, UNBUFFERED], events).into_response())
}

/// A watch that is open.
struct Watching {
    watcher: Watcher,
    /// When to connect again, until that is told.
    retry: Option<Duration>,
    _slot: WatcherSlot,
}

async fn event(mut watching: Watching) -> Option<(Result<Event, Infallible>, Watching)> {
    if let Some(retry) = watching.retry.take() {
        return Some((Ok(Event::default().retry(retry)), watching));
    }
    let ServerSeq(head) = watching.watcher.next().await?;
    let event = Event::default().event("changes").id(head.to_string());
    Some((Ok(event.data(format!("{{\"highest_server_seq\":{head}}}"))), watching))
}

impl WatchParams {
    fn read(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        Ok(Self {
            after: params::number(pairs, "after", 0..=i64::MAX)?,
            include_self: params::flag(pairs, "include_self")?,
            epoch: params::epoch(pairs)?.map(|epoch| epoch.0),
        })
    }

    fn query(self, last_event: Option<i64>) -> WatchQuery {
        WatchQuery {
            after: last_event.or(self.after).map(ServerSeq),
            epoch: self.epoch.map(Epoch),
            include_self: self.include_self,
        }
    }
}

fn last_event(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let last = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or_default());
    last.map(|text| params::read_number(text, "Last-Event-ID", 0..=i64::MAX)).transpose()
}
