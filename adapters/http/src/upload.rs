//! `POST /sync/upload`

use axum::extract::State;
use axum::response::Response;
use outrigger_application::UploadService;
use outrigger_domain::{Submission, Upload};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Api;
use crate::body::{JsonText, json};
use crate::error::ApiError;
use crate::extract::Authenticated;
use crate::openapi::{SourceHeader, UploadErrors};
use crate::wire::{UploadChange, UploadRequest, UploadResponse};

/// Elements of an upload that holds malformed ones, at the most. Each is answered by itself, and a few bytes of
/// nonsense would cost a hundred times as many in the answer.
const MIXED_CHANGES_MAX: usize = 100_000;
/// About the bytes of one status in an answer.
const STATUS_BYTES: usize = 96;

/// Upload changes
///
/// Each change is decided by itself, in the order sent, and answered by one status: `applied`, `conflict` with the
/// server's row, or `invalid` with a reason. Sending the same upload again is safe: what was applied is not
/// applied again, and the answer is the same.
#[utoipa::path(
    post,
    path = "/sync/upload",
    tag = "sync",
    security(("bearer" = [])),
    params(SourceHeader),
    request_body(content = UploadRequest, example = json!({"changes": [{
        "source_change_id": 1, "table": "users", "op": "INSERT", "pk": "550e8400-e29b-41d4-a716-446655440000",
        "server_version": 0, "payload": {"name": "Alice"}
    }]})),
    responses(
        (status = 200, description = "One status per change, in the order of the request.", body = UploadResponse,
         example = json!({"accepted": true, "highest_server_seq": 1, "statuses": [
             {"source_change_id": 1, "status": "applied", "new_server_version": 1}]})),
        UploadErrors
    ),
)]
pub(crate) async fn upload(
    State(api): State<Api>,
    Authenticated(caller): Authenticated,
    JsonText(text): JsonText,
) -> Result<Response, ApiError> {
    let (submissions, atomic) = read(&text, &api.upload)?;
    drop(text);
    let ids: Vec<i64> = submissions.iter().map(|submission| submission.source_change_id).collect();
    let upload = Upload { source: caller.source, submissions, atomic };
    let verdict = api.upload.upload(&caller.user, upload).await?;
    Ok(json(&UploadResponse::new(&ids, &verdict), 64 + STATUS_BYTES * ids.len()))
}

/// The upload's outer shape, its elements unread.
#[derive(Deserialize)]
struct Mixed<'a> {
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
    #[serde(default)]
    atomic: bool,
}

/// The part of a malformed change by which its status is told from the others.
#[derive(Deserialize)]
struct Numbered {
    source_change_id: i64,
}

/// Reads the changes and whether they are atomic: in one pass if all of them are well-formed, else one by one.
fn read(text: &str, service: &UploadService) -> Result<(Vec<Submission>, bool), ApiError> {
    if let Ok(UploadRequest { changes, atomic }) = serde_json::from_str(text) {
        return Ok((changes.iter().map(|change| service.admit(change.raw())).collect(), atomic));
    }
    let Mixed { changes, atomic } = serde_json::from_str(text)
        .map_err(|error| ApiError::invalid_request(format!("the body is no upload: {error}")))?;
    if changes.len() > MIXED_CHANGES_MAX {
        let message = format!("more than {MIXED_CHANGES_MAX} changes, and not all of them well-formed");
        return Err(ApiError::invalid_request(message));
    }
    Ok((changes.into_iter().map(|change| read_one(change.get(), service)).collect(), atomic))
}

fn read_one(text: &str, service: &UploadService) -> Submission {
    match serde_json::from_str::<UploadChange<'_>>(text) {
        Ok(change) => service.admit(change.raw()),
        Err(error) => {
            let id = serde_json::from_str::<Numbered>(text).map_or(0, |numbered| numbered.source_change_id);
            Submission::unreadable(id, format!("the change cannot be read: {error}"))
        }
    }
}
