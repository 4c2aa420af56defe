//! `GET /admin/materialize-failures` and `POST /admin/materialize-failures/retry`

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::Response;
use jiff::Timestamp;
use outrigger_application::Caller;
use outrigger_application::ports::projection::{Failure, FailureFilter, Retried};
use outrigger_domain::UserId;
use outrigger_domain::json::FromObject;
use outrigger_domain::limits::{PAGE_CHANGES_DEFAULT, PAGE_CHANGES_MAX};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::Api;
use crate::body::{OptionalJson, json};
use crate::error::{ApiError, ErrorKind};
use crate::extract::{Authenticated, not_an_administrator};
use crate::openapi::{ListErrors, RetryErrors, SourceHeader};
use crate::params;

/// About the bytes of one failure in an answer, but for its payload.
const FAILURE_BYTES: usize = 400;

/// Which failures are asked for.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters, which are read by name so that an error can name them")]
struct ListParams {
    /// For administrators: the failures of this user and not the caller's own.
    user: Option<String>,
    /// Only failures of tables in this schema.
    schema: Option<String>,
    /// Only failures of tables of this name.
    table: Option<String>,
    /// Failures in the answer, at the most.
    #[param(minimum = 1, maximum = 1000, default = 100, required = false)]
    limit: u32,
}

/// Which failure is tried again, for a request without a body.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameter, which is read by name so that an error can name it")]
struct RetryParams {
    /// For administrators: a failure of this user and not of the caller.
    user: Option<String>,
    /// The failure, if the body does not name it.
    #[param(minimum = 1)]
    id: Option<i64>,
}

/// Which failure is tried again.
#[derive(Deserialize, ToSchema)]
pub(crate) struct RetryRequest<'a> {
    #[serde(borrow, default)]
    #[schema(value_type = i64, minimum = 1, required = true, example = 1)]
    id: Option<&'a RawValue>,
}

/// The caller's rows that could not be projected onto the business tables.
#[derive(Serialize, ToSchema)]
pub(crate) struct FailuresResponse<'a> {
    /// Oldest first.
    failures: Vec<FailureBody<'a>>,
}

/// A row that the server has and the business table does not.
#[derive(Serialize, ToSchema)]
#[schema(as = MaterializeFailure)]
pub(crate) struct FailureBody<'a> {
    /// Names the failure among those of its user.
    id: i64,
    schema: &'a str,
    table: &'a str,
    pk: Uuid,
    /// The version that was to be projected. There is one failure per row and version.
    attempted_version: i64,
    #[schema(schema_with = crate::wire::ops)]
    op: &'static str,
    /// The row as it was uploaded; null for a DELETE.
    #[schema(value_type = Option<Object>, required = true)]
    payload: Option<&'a RawValue>,
    /// What went wrong the last time.
    error: &'a str,
    /// When it went wrong the first time, in UTC.
    #[schema(value_type = String, format = DateTime, example = "2025-08-08T07:01:00.123456Z")]
    first_seen: Timestamp,
    /// How often it was tried again, in vain.
    retry_count: i64,
}

impl<'a> From<&'a Failure> for FailureBody<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self {
            id: failure.id,
            schema: failure.row.table.schema(),
            table: failure.row.table.table(),
            pk: failure.row.pk,
            attempted_version: failure.attempted_version.0,
            op: failure.op.as_str(),
            payload: failure.payload.as_ref().map(|payload| payload.as_raw()),
            error: &failure.error,
            first_seen: failure.first_seen,
            retry_count: failure.retry_count,
        }
    }
}

/// What came of trying again.
#[derive(Serialize, ToSchema)]
pub(crate) struct RetryResponse<'a> {
    #[schema(schema_with = retry_statuses)]
    status: &'static str,
    id: i64,
    /// `materialize_error`: how often it was tried again by now.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_count: Option<i64>,
    /// `materialize_error`: what went wrong this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// List what could not be projected
///
/// The rows of the caller, or of another user for an administrator, that are stored and synced, but that the app's own tables could not take. A later change
/// of such a row is projected as it stands then, and removes the row's failures if that works.
#[utoipa::path(
    get,
    path = "/admin/materialize-failures",
    tag = "admin",
    security(("bearer" = [])),
    params(ListParams, SourceHeader),
    responses(
        (status = 200, description = "The caller's failures.", body = FailuresResponse,
         example = json!({"failures": [{
             "id": 1, "schema": "public", "table": "posts", "pk": "550e8400-e29b-41d4-a716-446655440000",
             "attempted_version": 1, "op": "INSERT", "payload": {"created_at": "soon"},
             "error": "column created_at: cannot make a timestamp of a JSON string",
             "first_seen": "2025-08-08T07:01:00.123456Z", "retry_count": 0}]})),
        ListErrors
    ),
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Authenticated(caller): Authenticated,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, ApiError> {
    let limit = params::number(&pairs, "limit", 1..=PAGE_CHANGES_MAX)?.unwrap_or(PAGE_CHANGES_DEFAULT);
    let filter = FailureFilter { schema: params::name(&pairs, "schema")?, table: params::name(&pairs, "table")? };
    let user = whose(&caller, &pairs)?;
    let found = api.failures.list(&user, &filter, limit).await?;
    let payload = |failure: &Failure| failure.payload.as_ref().map_or(0, |payload| payload.as_str().len());
    let bytes = 64 + found.iter().map(|failure| FAILURE_BYTES + payload(failure)).sum::<usize>();
    Ok(json(&FailuresResponse { failures: found.iter().map(FailureBody::from).collect() }, bytes))
}

/// Try one failure again
///
/// Projects the row as it stands now, which may be newer than the version that failed. Names the failure in the body
/// or in the query.
#[utoipa::path(
    post,
    path = "/admin/materialize-failures/retry",
    tag = "admin",
    security(("bearer" = [])),
    params(RetryParams, SourceHeader),
    request_body(content = Option<RetryRequest>, example = json!({"id": 1})),
    responses(
        (status = 200, description = "It was tried again, with or without success.", body = RetryResponse, examples(
            ("materialized" = (value = json!({"status": "materialized", "id": 1}))),
            ("materialize_error" = (value = json!({"status": "materialize_error", "id": 1, "retry_count": 3,
                "error": "column created_at: cannot make a timestamp of a JSON string"})))
        )),
        RetryErrors
    ),
)]
pub(crate) async fn retry(
    State(api): State<Arc<Api>>,
    Authenticated(caller): Authenticated,
    Query(pairs): Query<Vec<(String, String)>>,
    OptionalJson(text): OptionalJson,
) -> Result<Response, ApiError> {
    let id = named(&pairs, text.as_deref())?;
    let materialized = RetryResponse { status: "materialized", id, retry_count: None, error: None };
    let user = whose(&caller, &pairs)?;
    match api.failures.retry(&user, id).await? {
        Retried::Materialized => Ok(json(&materialized, 64)),
        Retried::Failed(Failure { retry_count, error, .. }) => {
            let (retry_count, error) = (Some(retry_count), Some(error.as_str()));
            Ok(json(&RetryResponse { status: "materialize_error", retry_count, error, ..materialized }, 256))
        }
        Retried::Unknown => Err(ApiError::client(ErrorKind::NotFound, format!("there is no failure {id}"))),
        Retried::InProgress => {
            Err(ApiError::client(ErrorKind::RetryInProgress, format!("failure {id} is being tried again right now")))
        }
    }
}

/// The user whose failures are asked for: the caller, unless an administrator names another.
fn whose(caller: &Caller, pairs: &[(String, String)]) -> Result<UserId, ApiError> {
    match params::user(pairs, "user")? {
        Some(user) if user != caller.user && !caller.is_admin => Err(not_an_administrator()),
        Some(user) => Ok(user),
        None => Ok(caller.user.clone()),
    }
}

/// The failure that the request names: in its query, in its body, or in both alike.
fn named(pairs: &[(String, String)], body: Option<&str>) -> Result<i64, ApiError> {
    const RANGE: std::ops::RangeInclusive<i64> = 1..=i64::MAX;
    let FromObject(body): FromObject<RetryRequest<'_>> = match body {
        None => FromObject(RetryRequest { id: None }),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| ApiError::invalid_request(format!("the body is no retry: {error}")))?,
    };
    let in_body = body.id.map(|id| params::read_number(id.get(), "id", RANGE)).transpose()?;
    match (params::number(pairs, "id", RANGE)?, in_body) {
        (Some(query), Some(body)) if query != body => {
            Err(ApiError::invalid_request("`id` is one in the query and another in the body"))
        }
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Err(ApiError::invalid_request("`id` is missing: name the failure in the body or in the query")),
    }
}

fn retry_statuses() -> utoipa::openapi::schema::Object {
    crate::wire::one_of(["materialized", "materialize_error"])
}
