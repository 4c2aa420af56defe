//! `GET /sync/download`

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::Response;
use outrigger_domain::limits::{PAGE_CHANGES_DEFAULT, PAGE_CHANGES_MAX};
use outrigger_domain::window::PageQuery;
use outrigger_domain::{Epoch, ServerSeq, SourceId};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::Api;
use crate::admission::Place;
use crate::body::json_text;
use crate::error::ApiError;
use crate::extract::Authenticated;
use crate::openapi::{DownloadErrors, SourceHeader};
use crate::params;
use crate::wire::DownloadResponse;

/// Seconds that a download may be held.
const WAIT_S_MAX: u64 = 60;

/// Which part of the stream is asked for. Parameters that are not listed here are ignored.
#[derive(Debug, PartialEq, IntoParams)]
#[into_params(parameter_in = Query)]
struct DownloadParams {
    /// The highest `server_id` that the device has applied.
    #[param(minimum = 0, default = 0, required = false)]
    after: i64,
    /// Changes in the page, at the most.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    limit: u32,
    /// Only changes of tables in this schema.
    schema: Option<String>,
    /// Whether the changes that the caller's own source made are wanted too.
    #[param(default = false, required = false)]
    include_self: bool,
    /// The `window_until` of the first page keeps the window where it was then; 0 sets no bound.
    #[param(minimum = 0, default = 0, required = false)]
    until: i64,
    /// Seconds to hold the request if there is nothing to download yet.
    #[param(minimum = 0, maximum = 60, default = 0, required = false)]
    wait: u64,
    /// The epoch that `after` is of; another one than the stream's is refused. Without one, `after` = 0 is a device that
    /// has no rows yet; a device that names it has been here before, and gets a 410 when deletions were forgotten.
    epoch: Option<Uuid>,
}

/// Download changes
///
/// Changes come in ascending order of `server_id`, and a device that goes on from `next_after` misses none. A device
/// that wants one consistent state keeps `until` at the first page's `window_until` while `has_more` is true; a new
/// device that pages from 0 has to.
///
/// A 410 or 409 says that the device cannot go on from `after`: it starts again from `GET /sync/snapshot`.
#[utoipa::path(
    get,
    path = "/sync/download",
    tag = "sync",
    security(("bearer" = [])),
    params(DownloadParams, SourceHeader),
    responses(
        (status = 200, description = "One page of the user's stream.", body = DownloadResponse,
         example = json!({"changes": [{
             "server_id": 1, "schema": "public", "table": "users", "op": "INSERT",
             "pk": "550e8400-e29b-41d4-a716-446655440000", "payload": {"name": "Alice"}, "server_version": 1,
             "deleted": false, "source_id": "phone", "source_change_id": 1, "ts": "2025-08-08T07:01:00.123456Z"}],
             "has_more": false, "next_after": 1, "window_until": 1, "epoch": "7c9e6679-7425-40de-944b-e07fc1f90ae7"})),
        DownloadErrors
    ),
)]
pub(crate) async fn download(
    State(api): State<Arc<Api>>,
    Authenticated(caller): Authenticated,
    place: Place,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let params = DownloadParams::read(&pairs)?;
    api.contacts.note(&caller, Some(ServerSeq(params.after)));
    let wait = Duration::from_secs(params.wait);
    let query = params.query(caller.source);
    let page = match wait {
        Duration::ZERO => api.download.page(&caller.user, &query).await?,
        wait => {
            let limiter = &api.admission.limiter;
            // It waits, and is one of those that do and not of those that are worked on, until there is an answer.
            let _slot = limiter.watcher(&caller.user)?;
            place.leave();
            let page = api.watch.page(&caller.user, &query, wait).await?;
            place.of(limiter, &caller.user)?;
            page
        }
    };
    Ok(json_text(DownloadResponse::from(&page).to_json()))
}

impl DownloadParams {
    fn read(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        Ok(Self {
            after: params::number(pairs, "after", 0..=i64::MAX)?.unwrap_or(0),
            limit: params::number(pairs, "limit", 1..=PAGE_CHANGES_MAX)?.unwrap_or(PAGE_CHANGES_DEFAULT),
            schema: params::name(pairs, "schema")?,
            include_self: params::flag(pairs, "include_self")?,
            until: params::number(pairs, "until", 0..=i64::MAX)?.unwrap_or(0),
            wait: params::number(pairs, "wait", 0..=WAIT_S_MAX)?.unwrap_or(0),
            epoch: params::epoch(pairs)?.map(|epoch| epoch.0),
        })
    }

    fn query(self, caller: SourceId) -> PageQuery {
        PageQuery {
            after: ServerSeq(self.after),
            until: (self.until > 0).then_some(ServerSeq(self.until)),
            limit: self.limit,
            schema: self.schema,
            exclude: (!self.include_self).then_some(caller),
            epoch: self.epoch.map(Epoch),
        }
    }
}
