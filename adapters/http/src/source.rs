//! `GET /sync/source`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;

use crate::Api;
use crate::body::json;
use crate::error::ApiError;
use crate::extract::Authenticated;
use crate::openapi::{SourceHeader, SyncErrors};
use crate::wire::SourceResponse;

/// What the server knows of the caller's source
///
/// An app that was installed again under the source it had before numbers its changes from above
/// `highest_source_change_id`. The contacts and the cursor may be some seconds behind.
#[utoipa::path(
    get,
    path = "/sync/source",
    tag = "sync",
    security(("bearer" = [])),
    params(SourceHeader),
    responses(
        (status = 200, description = "The source.", body = SourceResponse,
         example = json!({"user": "alice", "source_id": "phone", "highest_source_change_id": 12, "cursor": 40,
             "first_contact": "2025-08-08T07:01:00.123456Z", "last_contact": "2025-08-09T07:01:00.123456Z",
             "epoch": "7c9e6679-7425-40de-944b-e07fc1f90ae7"})),
        SyncErrors
    ),
)]
pub(crate) async fn source(
    State(api): State<Arc<Api>>,
    Authenticated(caller): Authenticated,
) -> Result<Response, ApiError> {
    let record = api.contacts.source(&caller).await?;
    let (head, _) = api.store.head(&caller.user).await?;
    Ok(json(&SourceResponse::new(&caller, &record, head.epoch), 512))
}
