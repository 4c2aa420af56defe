//! `POST /sync/upload`

mod read;

use std::iter::{from_fn, once};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use outrigger_domain::plan::Verdict;
use outrigger_domain::{Decision, Upload};

pub(crate) use self::read::Changes;
use crate::Api;
use crate::body::{JsonText, json, json_stream};
use crate::error::ApiError;
use crate::extract::Uploading;
use crate::openapi::{SourceHeader, UploadErrors};
use crate::params;
use crate::wire::{ChangeStatus, UploadRequest, UploadResponse};

/// Bytes of an answer that is written as a whole. One with more is sent as it is written: a few stale changes of one
/// large row are answered with many copies of it, and many small changes with more than they are themselves.
const WHOLE_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Bytes that are sent at once of an answer that is sent as it is written, but for the status that goes over it.
const PIECE_BYTES: usize = 16 * 1024;
/// About the bytes of one status in an answer.
const STATUS_BYTES: usize = 96;

/// Upload changes
///
/// Each change is decided by itself, in the order sent, and answered by one status: `applied`, `conflict` with the
/// server's row, or `invalid` with a reason. Sending the same upload again is safe: what was applied is not
/// applied again, what was a conflict stays one, and the answer is the same, with the row as it is by then. At another
/// version a conflict is decided anew, under the same number or a new one. An upload of more than 100000 changes that are
/// not all well-formed is refused as a whole.
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
    State(api): State<Arc<Api>>,
    Uploading { caller, slot: _slot }: Uploading,
    JsonText(text): JsonText,
) -> Result<Response, ApiError> {
    api.contacts.note(&caller, None);
    let UploadRequest { changes, atomic, epoch } = read::read(&text, &api.upload)?;
    let epoch = epoch.map(|text| params::read_epoch(&text.0)).transpose()?;
    drop(text);
    let upload = Upload { source: caller.source, submissions: changes.submissions, atomic, epoch };
    let verdict = api.upload.upload(&caller.user, upload).await?;
    Ok(answer(changes.ids, verdict))
}

/// One status for each of these changes. Of an upload of too many, those that were not kept are answered as the last
/// one that was.
fn answer(ids: Vec<i64>, mut verdict: Verdict) -> Response {
    let payload = |decision: &Decision| match decision {
        Decision::Conflict(row) => row.payload.as_ref().map_or(0, |payload| payload.as_str().len()),
        _ => 0,
    };
    let rows: usize = verdict.decisions.iter().map(payload).sum();
    let bytes = rows + STATUS_BYTES * ids.len();
    let last = verdict.decisions.last().cloned();
    if bytes <= WHOLE_ANSWER_BYTES_MAX {
        verdict.decisions.extend(last.into_iter().cycle().take(ids.len() - verdict.decisions.len()));
        return json(&UploadResponse::new(&ids, &verdict), 64 + bytes);
    }
    let Verdict { accepted, head, decisions } = verdict;
    let begin = UploadResponse::new(&[], &Verdict { accepted, head, decisions: Vec::new() }).opened();
    let mut statuses = ids.into_iter().zip(decisions.into_iter().chain(last.into_iter().cycle()));
    let mut separator: &[u8] = b"";
    let pieces = from_fn(move || {
        let mut piece = Vec::new();
        for (id, decision) in statuses.by_ref() {
            piece.extend_from_slice(std::mem::replace(&mut separator, b","));
            if let Err(error) = serde_json::to_writer(&mut piece, &ChangeStatus::new(id, &decision)) {
                return Some(Err(error));
            }
            if piece.len() >= PIECE_BYTES {
                break;
            }
        }
        (!piece.is_empty()).then_some(Ok(piece))
    });
    json_stream(once(Ok(begin)).chain(pieces).chain(once(Ok(b"]}".to_vec()))))
}
