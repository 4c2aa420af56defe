//! `GET /health` and `GET /ready`: for whatever starts, restarts and balances servers.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use outrigger_application::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::body::json;
use crate::error::ApiError;
use crate::openapi::ReadyErrors;

/// How long the storage may take to answer before it counts as down.
const PING_MAX: Duration = Duration::from_secs(2);

/// The state of the server.
#[derive(Serialize, ToSchema)]
pub(crate) struct Status {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Is the process up?
///
/// Touches nothing: if it does not answer, restart the process.
#[utoipa::path(get, path = "/health", tag = "operation",
    responses((status = 200, description = "The process is up.", body = Status)))]
pub(crate) async fn health() -> Response {
    json(&Status { status: "ok" }, 32)
}

/// Does the storage answer?
///
/// If not, send devices elsewhere until it does.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "operation",
    responses(
        (status = 200, description = "The storage answers.", body = Status, example = json!({"status": "ready"})),
        ReadyErrors
    ),
)]
pub(crate) async fn ready(State(api): State<Api>) -> Result<Response, ApiError> {
    match tokio::time::timeout(PING_MAX, api.store.ping()).await {
        Ok(Ok(())) => Ok(json(&Status { status: "ready" }, 32)),
        Ok(Err(error)) => Err(not_ready(&error)),
        Err(_) => Err(not_ready(&StoreError::Unavailable(format!("no answer within {PING_MAX:?}").into()))),
    }
}

/// Whatever the reason is: a server whose storage fails is not ready.
fn not_ready(error: &StoreError) -> ApiError {
    ApiError::unavailable("the storage does not answer", error)
}
