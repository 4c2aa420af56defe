//! `POST /sync/upload`

use std::iter::once;

use axum::extract::State;
use axum::response::Response;
use outrigger_application::UploadService;
use outrigger_domain::json::{self, FromObject};
use outrigger_domain::limits::MIXED_CHANGES_MAX;
use outrigger_domain::plan::Verdict;
use outrigger_domain::{Decision, Epoch, Submission, Upload};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::Api;
use crate::body::{JsonText, brief, json, json_stream};
use crate::error::ApiError;
use crate::extract::Authenticated;
use crate::openapi::{SourceHeader, UploadErrors};
use crate::params;
use crate::wire::{ChangeStatus, Text, UploadChange, UploadRequest, UploadResponse};

/// Bytes of rows in an answer that is written as a whole. One with more is sent as it is written: a few stale changes
/// of one large row are answered with many copies of it.
const WHOLE_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// About the bytes of one status in an answer.
const STATUS_BYTES: usize = 96;

/// Upload changes
///
/// Each change is decided by itself, in the order sent, and answered by one status: `applied`, `conflict` with the
/// server's row, or `invalid` with a reason. Sending the same upload again is safe: what was applied is not
/// applied again, and the answer is the same. An upload of more than 100000 changes that are not all well-formed is
/// refused as a whole.
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
         examples(
             ("applied" = (value = json!({"accepted": true, "highest_server_seq": 1,
                 "epoch": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "statuses": [
                 {"source_change_id": 1, "status": "applied", "new_server_version": 1}]}))),
             ("fk_missing" = (summary = "The row refers to one that does not exist", value = json!({
                 "accepted": true, "highest_server_seq": 0, "epoch": "7c9e6679-7425-40de-944b-e07fc1f90ae7", "statuses": [
                     {"source_change_id": 1, "status": "invalid", "invalid": {"reason": "fk_missing", "details": {
                         "missing": ["public.users:550e8400-e29b-41d4-a716-446655440000"]}},
                      "message": "refers to rows that do not exist: public.users:550e8400-e29b-41d4-a716-446655440000"}]})))
         )),
        UploadErrors
    ),
)]
pub(crate) async fn upload(
    State(api): State<Api>,
    Authenticated(caller): Authenticated,
    JsonText(text): JsonText,
) -> Result<Response, ApiError> {
    api.contacts.note(&caller, None);
    let Sent { submissions, atomic, epoch } = read(&text, &api.upload)?;
    drop(text);
    let ids: Vec<i64> = submissions.iter().map(|submission| submission.source_change_id).collect();
    let upload = Upload { source: caller.source, submissions, atomic, epoch };
    let verdict = api.upload.upload(&caller.user, upload).await?;
    Ok(answer(ids, verdict))
}

fn answer(ids: Vec<i64>, verdict: Verdict) -> Response {
    let payload = |decision: &Decision| match decision {
        Decision::Conflict(row) => row.payload.as_ref().map_or(0, |payload| payload.as_str().len()),
        _ => 0,
    };
    let rows: usize = verdict.decisions.iter().map(payload).sum();
    if rows <= WHOLE_ANSWER_BYTES_MAX {
        return json(&UploadResponse::new(&ids, &verdict), 64 + rows + STATUS_BYTES * ids.len());
    }
    let Verdict { accepted, head, decisions } = verdict;
    let begin = UploadResponse::new(&[], &Verdict { accepted, head, decisions: Vec::new() }).opened();
    let status = move |(n, (id, decision)): (usize, (i64, Decision))| {
        let mut text = if n == 0 { Vec::new() } else { b",".to_vec() };
        serde_json::to_writer(&mut text, &ChangeStatus::new(id, &decision)).map(|()| text)
    };
    let statuses = ids.into_iter().zip(decisions).enumerate().map(status);
    json_stream(once(Ok(begin)).chain(statuses).chain(once(Ok(b"]}".to_vec()))))
}

/// The upload's outer shape, its elements unread.
#[derive(Deserialize)]
struct Mixed<'a> {
    #[serde(borrow)]
    changes: Vec<&'a RawValue>,
    #[serde(default)]
    atomic: bool,
    #[serde(borrow, default)]
    epoch: Option<Text<'a>>,
}

/// What an upload says, but for who sent it.
struct Sent {
    submissions: Vec<Submission>,
    atomic: bool,
    epoch: Option<Epoch>,
}

/// Reads an upload: its changes in one pass if all of them are well-formed, else one by one.
fn read(text: &str, service: &UploadService) -> Result<Sent, ApiError> {
    let known = |epoch: Option<Text<'_>>| epoch.map(|text| params::read_epoch(&text.0)).transpose();
    if let Ok(FromObject(UploadRequest { changes, atomic, epoch })) = serde_json::from_str(text) {
        let submissions = changes.iter().map(|change| service.admit(change.0.raw())).collect();
        return Ok(Sent { submissions, atomic, epoch: known(epoch)? });
    }
    let FromObject(Mixed { changes, atomic, epoch }) = serde_json::from_str(text)
        .map_err(|error| ApiError::invalid_request(format!("the body is no upload: {}", brief(&error))))?;
    if changes.len() > MIXED_CHANGES_MAX {
        let message = format!("more than {MIXED_CHANGES_MAX} changes, and not all of them well-formed");
        return Err(ApiError::invalid_request(message));
    }
    let submissions = changes.into_iter().map(|change| read_one(change.get(), service)).collect();
    Ok(Sent { submissions, atomic, epoch: known(epoch)? })
}

fn read_one(text: &str, service: &UploadService) -> Submission {
    match serde_json::from_str::<FromObject<UploadChange<'_>>>(text) {
        Ok(FromObject(change)) => service.admit(change.raw()),
        Err(error) => {
            let message = format!("the change cannot be read: {}", brief(&error));
            Submission::unreadable(number(text).unwrap_or_default(), message)
        }
    }
}

/// The number by which a malformed change is told from the others, if it can be read.
fn number(text: &str) -> Option<i64> {
    json::members(text, &["source_change_id"])?.pop()??.get().parse().ok()
}
