//! `GET /admin/users`, `GET /admin/devices`, `GET /admin/users/{user}/export` and `DELETE /admin/users/{user}`

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures::{TryStreamExt, stream};
use jiff::Timestamp;
use outrigger_application::ports::users::{DeviceRecord, UserRecord};
use outrigger_application::{SyncError, erasure::Erased};
use outrigger_domain::limits::{PAGE_CHANGES_DEFAULT, PAGE_CHANGES_MAX};
use outrigger_domain::{SourceId, UserId};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::Api;
use crate::body::json;
use crate::error::{ApiError, ErrorKind};
use crate::export::{self, Exported};
use crate::extract::Administrator;
use crate::openapi::{AdminErrors, OneUserErrors, SourceHeader};
use crate::params;

/// How long one request may go on removing a user: less than what a proxy waits for an answer.
const ERASING_MAX: Duration = Duration::from_secs(20);

/// Which users are asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters, which are read by name so that an error can name them")]
struct UsersParams {
    /// The `next_after` of the page before.
    after: Option<String>,
    /// Users in the answer, at the most.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    limit: u32,
}

/// Which devices are asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters, which are read by name so that an error can name them")]
struct DevicesParams {
    /// Only those of this user.
    user: Option<String>,
    /// The `user` of the last device of the page before; goes with `after_source`.
    after_user: Option<String>,
    /// The `source_id` of the last device of the page before.
    after_source: Option<String>,
    /// Devices in the answer, at the most.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    limit: u32,
}

/// Some users.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsersResponse<'a> {
    /// In the order of their ids.
    users: Vec<UserBody<'a>>,
    /// The `after` to go on with; null behind the last one.
    #[schema(required = true)]
    next_after: Option<&'a str>,
}

/// A user of whom anything is kept.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserBody<'a> {
    user: &'a str,
    /// Where the stream ends.
    highest_server_seq: i64,
    /// Devices that have been in touch.
    devices: u64,
    /// When one of them last was, in UTC. Some seconds late, as all that is said of devices here.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    last_contact: Option<Timestamp>,
    /// Rows that the business tables could not take.
    failures: u64,
}

impl<'a> From<&'a UserRecord> for UserBody<'a> {
    fn from(record: &'a UserRecord) -> Self {
        let UserRecord { user, head, devices, last_contact, failures } = record;
        let (devices, failures, last_contact) = (*devices, *failures, *last_contact);
        Self { user: user.as_str(), highest_server_seq: head.0, devices, last_contact, failures }
    }
}

/// Some devices.
#[derive(Serialize, ToSchema)]
pub(crate) struct DevicesResponse<'a> {
    /// In the order of user and source.
    devices: Vec<DeviceBody<'a>>,
    has_more: bool,
}

/// A device that has been in touch.
#[derive(Serialize, ToSchema)]
#[schema(as = Device)]
pub struct DeviceBody<'a> {
    user: &'a str,
    source_id: &'a str,
    #[schema(value_type = String, format = DateTime)]
    first_contact: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    last_contact: Timestamp,
    /// The cursor that it last named; null if it has named none.
    #[schema(required = true)]
    cursor: Option<i64>,
    /// Numbers of the stream that it has not been through yet; its own changes and pruned ones count.
    lag: i64,
    /// The highest number of its applied changes.
    highest_source_change_id: i64,
}

impl<'a> From<&'a DeviceRecord> for DeviceBody<'a> {
    fn from(record: &'a DeviceRecord) -> Self {
        Self {
            user: record.user.as_str(),
            source_id: record.source.as_str(),
            first_contact: record.first_contact,
            last_contact: record.last_contact,
            cursor: record.cursor.map(|cursor| cursor.0),
            lag: record.lag(),
            highest_source_change_id: record.highest_source_change_id.0,
        }
    }
}

/// What of a user was removed by this request.
#[derive(Serialize, ToSchema)]
pub(crate) struct EraseResponse {
    /// Whether nothing is left. If not, and `stuck` is 0, the time was up: send the request again.
    done: bool,
    /// Rows that were deleted, with their business rows.
    rows: u64,
    /// Entries of the log that were cleared.
    entries: u64,
    /// Keys that were forgotten.
    keys: u64,
    /// Business rows that could not be deleted; the user's failures say why. All else is gone.
    stuck: u64,
}

impl From<Erased> for EraseResponse {
    fn from(Erased { rows, entries, keys, stuck, done }: Erased) -> Self {
        Self { done, rows, entries, keys, stuck }
    }
}

/// List users
///
/// For administrators. All users of whom anything is kept, page by page.
#[utoipa::path(
    get,
    path = "/admin/users",
    tag = "admin",
    security(("bearer" = [])),
    params(UsersParams, SourceHeader),
    responses(
        (status = 200, description = "Users.", body = UsersResponse,
         example = json!({"users": [{"user": "alice", "highest_server_seq": 156, "devices": 2,
             "last_contact": "2025-08-08T07:01:00.123456Z", "failures": 0}], "next_after": null})),
        AdminErrors
    ),
)]
pub(crate) async fn users(
    State(api): State<Arc<Api>>,
    _: Administrator,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let limit = limit(&pairs)?;
    let found = api.admin.users.users(params::user(&pairs, "after")?.as_ref(), limit).await?;
    let is_full = found.len() == limit as usize;
    let next_after = found.last().filter(|_| is_full).map(|record| record.user.as_str());
    Ok(json(&UsersResponse { users: found.iter().map(UserBody::from).collect(), next_after }, 64 + 256 * found.len()))
}

/// List devices
///
/// For administrators. Those of one user or of all: when they were in touch, and how far behind they are.
#[utoipa::path(
    get,
    path = "/admin/devices",
    tag = "admin",
    security(("bearer" = [])),
    params(DevicesParams, SourceHeader),
    responses(
        (status = 200, description = "Devices.", body = DevicesResponse,
         example = json!({"devices": [{"user": "alice", "source_id": "phone", "first_contact": "2025-08-08T07:01:00.123456Z",
             "last_contact": "2025-08-09T07:01:00.123456Z", "cursor": 150, "lag": 6, "highest_source_change_id": 12}],
             "has_more": false})),
        AdminErrors
    ),
)]
pub(crate) async fn devices(
    State(api): State<Arc<Api>>,
    _: Administrator,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let (limit, user) = (limit(&pairs)?, params::user(&pairs, "user")?);
    let source = params::text(&pairs, "after_source")?.map(SourceId::parse).transpose();
    let source = source.map_err(|why| ApiError::invalid_request(format!("`after_source` {why}")))?;
    let after = match (params::user(&pairs, "after_user")?, source) {
        (Some(user), Some(source)) => Some((user, source)),
        (None, None) => None,
        _ => return Err(ApiError::invalid_request("`after_user` and `after_source` go together")),
    };
    let mut found = api.admin.users.devices(user.as_ref(), after.as_ref(), limit + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let devices = found.iter().map(DeviceBody::from).collect();
    Ok(json(&DevicesResponse { devices, has_more }, 64 + 384 * found.len()))
}

/// Export a user
///
/// For administrators. All that is kept of a user as lines of JSON, each with a `kind`: one `user`, then `row`s as they
/// are, `change`s of the log, `device`s, `failure`s, and at last one `end` with how many there were. Without it the export
/// was cut.
#[utoipa::path(
    get,
    path = "/admin/users/{user}/export",
    tag = "admin",
    security(("bearer" = [])),
    params(("user" = String, Path, description = "The user."), SourceHeader),
    responses(
        (status = 200, description = "All of it, as a stream.", content_type = "application/x-ndjson", body = String,
         example = "{\"kind\":\"user\",\"user\":\"alice\",\"highest_server_seq\":1,\"epoch\":\"7c9e6679-7425-40de-944b-e07fc1f90ae7\"}\n{\"kind\":\"end\",\"rows\":0,\"changes\":0,\"devices\":0,\"failures\":0}\n"),
        OneUserErrors
    ),
)]
pub(crate) async fn export_user(
    State(api): State<Arc<Api>>,
    _: Administrator,
    Path(user): Path<String>,
) -> Result<Response, ApiError> {
    let user = params::read_user(&user, "user")?;
    let export = api.admin.exports.begin(&user).await?.ok_or_else(|| unknown(&user))?;
    let lines = stream::try_unfold(export, async |mut export| {
        let part = export.next().await?;
        Ok::<_, SyncError>(part.map(|part| (export::lines(&Exported { user: export.user(), part: &part }), export)))
    });
    let lines = lines.inspect_err(|error: &SyncError| tracing::warn!(%error, "an export was cut"));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"export.ndjson\"")),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// Remove a user
///
/// For administrators. Deletes the user's rows, the business rows with them, and clears the log, keys and devices. Goes
/// on for up to 20 seconds: as long as the answer is not `done`, send it again. The user's devices get a 409
/// `epoch_changed` and start again with nothing; one that still has a token can fill the account again, so let tokens
/// end first. The id, the end of the stream and the highest number of each source are kept.
#[utoipa::path(
    delete,
    path = "/admin/users/{user}",
    tag = "admin",
    security(("bearer" = [])),
    params(("user" = String, Path, description = "The user."), SourceHeader),
    responses(
        (status = 200, description = "What was removed.", body = EraseResponse,
         example = json!({"done": true, "rows": 120, "entries": 156, "keys": 156, "stuck": 0})),
        OneUserErrors
    ),
)]
pub(crate) async fn delete_user(
    State(api): State<Arc<Api>>,
    _: Administrator,
    Path(user): Path<String>,
) -> Result<Response, ApiError> {
    let user = params::read_user(&user, "user")?;
    let began = tokio::time::Instant::now();
    let erased = api.admin.erasure.erase(&user, |_| began.elapsed() < ERASING_MAX).await?;
    let erased = erased.ok_or_else(|| unknown(&user))?;
    tracing::info!(of = user.as_str(), ?erased, "a user was removed");
    Ok(json(&EraseResponse::from(erased), 128))
}

fn limit(pairs: &[(String, String)]) -> Result<u32, ApiError> {
    Ok(params::number(pairs, "limit", 1..=PAGE_CHANGES_MAX)?.unwrap_or(PAGE_CHANGES_DEFAULT))
}

fn unknown(user: &UserId) -> ApiError {
    ApiError::client(ErrorKind::NotFound, format!("nothing is kept of a user {user}"))
}
