//! `GET /sync/snapshot`

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures::{TryStreamExt, stream};
use outrigger_application::SyncError;
use outrigger_application::snapshot::{Cursor, SnapshotPage, SnapshotRow};
use outrigger_application::{Caller, Snapshots};
use outrigger_domain::Epoch;
use outrigger_domain::limits::{PAGE_CHANGES_DEFAULT, PAGE_CHANGES_MAX};
use utoipa::IntoParams;
use uuid::Uuid;

use crate::Api;
use crate::body::json;
use crate::error::ApiError;
use crate::extract::Authenticated;
use crate::openapi::{SnapshotErrors, SourceHeader};
use crate::params;
use crate::wire::{SnapshotBegin, SnapshotEnd, SnapshotResponse, SnapshotRowBody};

const NDJSON: &str = "application/x-ndjson";
/// About the bytes of one row in an answer, but for its payload.
const ROW_BYTES: usize = 160;

/// Which part of the snapshot is asked for. Parameters that are not listed here are ignored.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
struct SnapshotParams {
    /// Rows in the page, at the most. A stream has no pages.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    limit: u32,
    /// The `next_page` of the page before; the first page has none.
    #[param(value_type = Option<String>)]
    page: Option<Cursor>,
    /// The epoch that the device knows; another one than the stream's is refused.
    epoch: Option<Uuid>,
}

/// The rows as they are
///
/// Where a new device starts. Rows come table by table, parents first, each with the version that it has. When the device
/// has all pages it downloads from `after` = `as_of`, and applies a change only if its `server_version` is higher than
/// the one it has: rows may be newer than `as_of`, and a row may come twice. What the device has and no page
/// names was deleted.
///
/// With `Accept: application/x-ndjson` all rows come as one stream of lines: first `{"as_of": …, "epoch": …}`, then one
/// row a line, and last `{"complete": true, "rows": …}`. Without the last line the stream was cut.
#[utoipa::path(
    get,
    path = "/sync/snapshot",
    tag = "sync",
    security(("bearer" = [])),
    params(SnapshotParams, SourceHeader),
    responses(
        (status = 200, description = "One page of the rows, or all of them as a stream.",
         content(
             (SnapshotResponse = "application/json", example = json!({"rows": [{
                 "schema": "public", "table": "users", "pk": "550e8400-e29b-41d4-a716-446655440000",
                 "server_version": 3, "payload": {"name": "Alice"}}],
                 "as_of": 156, "epoch": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "has_more": false, "next_page": null})),
             (SnapshotRowBody = "application/x-ndjson", example = "{\"as_of\":156,\"epoch\":\"7c9e6679-7425-40de-944b-e07fc1f90ae7\"}\n{\"schema\":\"public\",\"table\":\"users\",\"pk\":\"550e8400-e29b-41d4-a716-446655440000\",\"server_version\":3,\"payload\":{\"name\":\"Alice\"}}\n{\"complete\":true,\"rows\":1}\n")
         )),
        SnapshotErrors
    ),
)]
pub(crate) async fn snapshot(
    State(api): State<Arc<Api>>,
    Authenticated(caller): Authenticated,
    headers: HeaderMap,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let SnapshotParams { limit, page, epoch } = SnapshotParams::read(&pairs)?;
    api.contacts.note(&caller, None);
    let (is_stream, epoch) = (wants_lines(&headers), epoch.map(Epoch));
    let limit = if is_stream { PAGE_CHANGES_MAX } else { limit };
    let page = api.snapshots.page(&caller.user, page, limit, epoch).await?;
    if is_stream {
        Ok(lines(api.snapshots.clone(), caller, page))
    } else {
        Ok(json(&SnapshotResponse::new(&page), bytes(&page.rows)))
    }
}

impl SnapshotParams {
    fn read(pairs: &[(String, String)]) -> Result<Self, ApiError> {
        Ok(Self {
            limit: params::number(pairs, "limit", 1..=PAGE_CHANGES_MAX)?.unwrap_or(PAGE_CHANGES_DEFAULT),
            page: params::parsed(pairs, "page")?,
            epoch: params::epoch(pairs)?.map(|epoch| epoch.0),
        })
    }
}

/// Whether the client names the type of lines at all: one that can read them prefers them.
fn wants_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|kind| kind.split(';').next());
    types.any(|kind| kind.trim().eq_ignore_ascii_case(NDJSON))
}

fn bytes(rows: &[SnapshotRow]) -> usize {
    128 + rows.iter().map(|row| ROW_BYTES + row.payload.as_str().len()).sum::<usize>()
}

/// What of a stream of lines is still to be sent.
enum Rest {
    Page(SnapshotPage),
    Behind(Cursor),
    End,
    Nothing,
}

/// All rows from this page on, one page in memory at a time: the next one is read when the client has taken this one.
fn lines(snapshots: Snapshots, caller: Caller, first: SnapshotPage) -> Response {
    let begin = line(&SnapshotBegin::new(&first), 128);
    let pages = stream::try_unfold((Rest::Page(first), begin, 0_u64), move |(rest, mut text, rows)| {
        let (snapshots, user) = (snapshots.clone(), caller.user.clone());
        async move {
            let page = match rest {
                Rest::Page(page) => page,
                Rest::Behind(cursor) => snapshots.page(&user, Some(cursor), PAGE_CHANGES_MAX, None).await?,
                Rest::End => return Ok(Some((line(&SnapshotEnd::new(rows), 64), (Rest::Nothing, Vec::new(), rows)))),
                Rest::Nothing => return Ok(None),
            };
            text.reserve(bytes(&page.rows));
            for row in &page.rows {
                write_line(&mut text, &SnapshotRowBody::from(row));
            }
            let rows = rows + page.rows.len() as u64;
            Ok::<_, SyncError>(Some((text, (page.next.map_or(Rest::End, Rest::Behind), Vec::new(), rows))))
        }
    });
    let pages = pages.inspect_err(|error: &SyncError| tracing::warn!(%error, "a snapshot was cut"));
    let headers =
        [(CONTENT_TYPE, HeaderValue::from_static(NDJSON)), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (headers, Body::from_stream(pages)).into_response()
}

fn line(value: &impl serde::Serialize, bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes);
    write_line(&mut text, value);
    text
}

fn write_line(text: &mut Vec<u8>, value: &impl serde::Serialize) {
    // What is written here has a JSON form, and a vector takes it.
    if serde_json::to_writer(&mut *text, value).is_ok() {
        text.push(b'\n');
    }
}
