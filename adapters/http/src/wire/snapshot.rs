//! The rows of a snapshot, and what is known of a source.

use jiff::Timestamp;
use outrigger_application::Caller;
use outrigger_application::ports::contacts::SourceRecord;
use outrigger_application::snapshot::{Cursor, SnapshotPage, SnapshotRow};
use outrigger_domain::{Epoch, RowKey};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

/// One page of a snapshot.
#[derive(Serialize, ToSchema)]
pub(crate) struct SnapshotResponse<'a> {
    rows: Vec<SnapshotRowBody<'a>>,
    /// The end of the stream when the snapshot began: where to download from once all pages are there.
    as_of: i64,
    /// The life of the stream that the numbers are of.
    epoch: Uuid,
    has_more: bool,
    /// The `page` to ask for next; null on the last page.
    #[schema(required = true)]
    next_page: Option<String>,
}

impl<'a> SnapshotResponse<'a> {
    /// The answer with that page.
    pub(crate) fn new(page: &'a SnapshotPage) -> Self {
        Self {
            rows: page.rows.iter().map(SnapshotRowBody::from).collect(),
            as_of: page.as_of.0,
            epoch: page.epoch.0,
            has_more: page.next.is_some(),
            next_page: page.next.as_ref().map(Cursor::to_string),
        }
    }
}

/// A row as it is.
#[derive(Serialize, ToSchema)]
#[schema(as = SnapshotRow)]
pub(crate) struct SnapshotRowBody<'a> {
    schema: &'a str,
    table: &'a str,
    pk: Uuid,
    server_version: i64,
    /// The row as it was uploaded.
    #[schema(value_type = Object)]
    payload: &'a RawValue,
}

impl<'a> From<&'a SnapshotRow> for SnapshotRowBody<'a> {
    fn from(row: &'a SnapshotRow) -> Self {
        let RowKey { table, pk } = &row.row;
        let (server_version, payload) = (row.version.0, row.payload.as_raw());
        Self { schema: table.schema(), table: table.table(), pk: *pk, server_version, payload }
    }
}

/// The first line of a snapshot that is sent as a stream.
#[derive(Serialize)]
pub(crate) struct SnapshotBegin {
    as_of: i64,
    epoch: Uuid,
}

impl SnapshotBegin {
    /// The line in front of that page.
    pub(crate) fn new(page: &SnapshotPage) -> Self {
        Self { as_of: page.as_of.0, epoch: page.epoch.0 }
    }
}

/// The last line of a snapshot that is sent as a stream.
#[derive(Serialize)]
pub(crate) struct SnapshotEnd {
    complete: bool,
    rows: u64,
}

impl SnapshotEnd {
    /// The line behind so many rows.
    pub(crate) fn new(rows: u64) -> Self {
        Self { complete: true, rows }
    }
}

/// What the server knows of a source.
#[derive(Serialize, ToSchema)]
pub(crate) struct SourceResponse<'a> {
    user: &'a str,
    source_id: &'a str,
    /// The highest number of its applied changes; 0 if there are none.
    highest_source_change_id: i64,
    /// The `after` that it last named.
    #[schema(required = true)]
    cursor: Option<i64>,
    /// When it was first in touch, in UTC.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    first_contact: Option<Timestamp>,
    /// When it was last in touch, in UTC.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    last_contact: Option<Timestamp>,
    /// The life of the user's stream.
    epoch: Uuid,
}

impl<'a> SourceResponse<'a> {
    /// What is known of the caller.
    pub(crate) fn new(caller: &'a Caller, record: &SourceRecord, epoch: Epoch) -> Self {
        Self {
            user: caller.user.as_str(),
            source_id: caller.source.as_str(),
            highest_source_change_id: record.highest_source_change_id.0,
            cursor: record.cursor.map(|cursor| cursor.0),
            first_contact: record.first_contact,
            last_contact: record.last_contact,
            epoch: epoch.0,
        }
    }
}
