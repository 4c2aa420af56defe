//! The JSON that goes over the wire.
//!
//! Everything is borrowed: from the request's text on the way in, from the domain's values on the way out. Payloads
//! are spliced in and out as the text they are.

mod page;
mod snapshot;

use std::borrow::Cow;

use outrigger_domain::change::OpKind;
use outrigger_domain::plan::Verdict;
use outrigger_domain::{Decision, RawChange, Reason, Refusal, Reset, RowKey, ServerRow, StreamHead};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};
use uuid::Uuid;

pub(crate) use page::*;
pub(crate) use snapshot::*;

use crate::upload::Changes;

/// What every error looks like.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody<'a> {
    /// For a program.
    #[schema(example = "invalid_request")]
    pub(crate) error: &'a str,
    /// For a human.
    #[schema(example = "`limit` must be a number from 1 to 1000")]
    pub(crate) message: &'a str,
    /// With `epoch_changed`: the stream's epoch now.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<Uuid>,
    /// With `cursor_ahead`: the end of the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    highest_server_seq: Option<i64>,
    /// With `history_pruned`: the lowest `after` that can be answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<i64>,
}

impl<'a> ErrorBody<'a> {
    /// The body of that error.
    pub(crate) fn new(error: &'a str, message: &'a str, reset: Option<Reset>) -> Self {
        let plain = Self { error, message, epoch: None, highest_server_seq: None, floor: None };
        match reset {
            None => plain,
            Some(Reset::EpochChanged { epoch }) => Self { epoch: Some(epoch.0), ..plain },
            Some(Reset::CursorAhead { head }) => Self { highest_server_seq: Some(head.0), ..plain },
            Some(Reset::HistoryPruned { floor }) => Self { floor: Some(floor.0), ..plain },
        }
    }
}

/// Changes made on a device. Members that are not listed here are ignored.
#[derive(ToSchema)]
pub(crate) struct UploadRequest<'a> {
    /// The changes, in the order in which they are decided.
    #[schema(value_type = Vec<UploadChange>)]
    pub(crate) changes: Changes,
    /// Apply all of them or none.
    #[schema(default = false, required = false)]
    pub(crate) atomic: bool,
    /// The epoch that the device knows; another one than the stream's is refused.
    #[schema(value_type = Option<Uuid>)]
    pub(crate) epoch: Option<Text<'a>>,
}

/// One INSERT, UPDATE or DELETE of one row.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UploadChange<'a> {
    /// The source's own number for the change: positive, never reused.
    #[schema(minimum = 1)]
    source_change_id: i64,
    /// `public` if there is none.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    schema: Option<Text<'a>>,
    /// One of the registered tables: 1 to 63 of the characters a-z, 0-9 and _, in any case.
    #[serde(borrow)]
    #[schema(value_type = String, example = "users")]
    table: Text<'a>,
    /// INSERT, UPDATE or DELETE, in any case.
    #[serde(borrow)]
    #[schema(value_type = String, example = "UPDATE")]
    op: Text<'a>,
    /// The row's primary key.
    #[serde(borrow)]
    #[schema(value_type = Uuid)]
    pk: Text<'a>,
    /// The version of the row that the device had; 0 for a row that it made.
    #[schema(minimum = 0)]
    server_version: i64,
    /// A JSON object: the row; absent or null for a DELETE.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Object>)]
    payload: Option<&'a RawValue>,
}

impl<'a> UploadChange<'a> {
    /// The change as the domain reads it.
    pub(crate) fn raw(&self) -> RawChange<'_> {
        RawChange {
            source_change_id: self.source_change_id,
            schema: self.schema.as_ref().map(|schema| &*schema.0),
            table: &self.table.0,
            op: &self.op.0,
            pk: &self.pk.0,
            server_version: self.server_version,
            payload: self.payload,
        }
    }
}

/// Text of the request, copied only if it is written with escapes. (serde borrows a `Cow` by itself, but not one
/// inside an `Option`.)
#[derive(Deserialize)]
#[serde(transparent)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// The answer to an upload.
#[derive(Serialize, ToSchema)]
pub(crate) struct UploadResponse<'a> {
    /// False if a table was not registered, there were too many changes, or an atomic upload was not applied.
    accepted: bool,
    /// The highest `server_id` of the user after the upload.
    highest_server_seq: i64,
    /// The life of the stream that its numbers are of.
    epoch: Uuid,
    /// One per change, in the order of the request.
    statuses: Vec<ChangeStatus<'a>>,
}

impl<'a> UploadResponse<'a> {
    /// The answer to the changes of those ids.
    pub(crate) fn new(ids: &[i64], verdict: &'a Verdict) -> Self {
        let statuses = ids.iter().zip(&verdict.decisions).map(|(&id, decision)| ChangeStatus::new(id, decision));
        let StreamHead { seq, epoch } = verdict.head;
        let (accepted, statuses) = (verdict.accepted, statuses.collect());
        Self { accepted, highest_server_seq: seq.0, epoch: epoch.0, statuses }
    }

    /// An answer without statuses as text that goes on with the first of them.
    pub(crate) fn opened(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).unwrap_or_default();
        text.truncate(text.len().saturating_sub(b"]}".len()));
        text
    }
}

/// What became of one change.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChangeStatus<'a> {
    /// The number the source gave it; 0 if it could not be read.
    source_change_id: i64,
    #[schema(schema_with = statuses)]
    status: &'static str,
    /// Applied: the row's version; absent where there never was a row to delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    new_server_version: Option<i64>,
    /// Conflict: the row as the server has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_row: Option<ServerRowBody<'a>>,
    /// Invalid: why, for a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<InvalidBody>,
    /// Invalid: why, for a human.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl<'a> ChangeStatus<'a> {
    /// What became of the change of that id.
    pub(crate) fn new(source_change_id: i64, decision: &'a Decision) -> Self {
        let (new_server_version, server_row, invalid, message) = (None, None, None, None);
        let status = Self { source_change_id, status: "", new_server_version, server_row, invalid, message };
        match decision {
            Decision::Applied { version } => {
                Self { status: "applied", new_server_version: version.map(|version| version.0), ..status }
            }
            Decision::Conflict(row) => Self { status: "conflict", server_row: Some(row.into()), ..status },
            Decision::Invalid(Refusal { reason, message, missing }) => {
                let invalid = Some(InvalidBody { reason: reason.as_str(), details: Details::of(missing) });
                Self { status: "invalid", invalid, message: Some(message), ..status }
            }
        }
    }
}

/// A row as the server has it.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerRow)]
pub(crate) struct ServerRowBody<'a> {
    schema_name: &'a str,
    table_name: &'a str,
    id: Uuid,
    /// 0 if the server never saw the row.
    server_version: i64,
    /// Whether there is no such row now.
    deleted: bool,
    /// Null if there is no such row now.
    #[schema(value_type = Option<Object>, required = true)]
    payload: Option<&'a RawValue>,
}

impl<'a> From<&'a ServerRow> for ServerRowBody<'a> {
    fn from(row: &'a ServerRow) -> Self {
        Self {
            schema_name: row.table.schema(),
            table_name: row.table.table(),
            id: row.pk,
            server_version: row.version.0,
            deleted: row.payload.is_none(),
            payload: row.payload.as_ref().map(|payload| payload.as_raw()),
        }
    }
}

/// Why a change was not accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = Invalid)]
pub(crate) struct InvalidBody {
    #[schema(schema_with = reasons)]
    reason: &'static str,
    details: Details,
}

/// What more there is to a reason.
#[derive(Serialize, ToSchema)]
#[schema(as = InvalidDetails)]
pub(crate) struct Details {
    /// `fk_missing`: the rows that the change refers to and that do not exist, as `schema.table:pk`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

impl Details {
    fn of(missing: &[RowKey]) -> Self {
        Self { missing: missing.iter().map(RowKey::to_string).collect() }
    }
}

fn statuses() -> Object {
    one_of(["applied", "conflict", "invalid"])
}

fn reasons() -> Object {
    one_of(Reason::ALL.map(Reason::as_str))
}

/// The kinds of a change.
pub(crate) fn ops() -> Object {
    one_of([OpKind::Insert, OpKind::Update, OpKind::Delete].map(OpKind::as_str))
}

/// Text that is one of these words.
pub(crate) fn one_of<const N: usize>(words: [&str; N]) -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build()
}
