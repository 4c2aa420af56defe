//! The JSON of the protocol.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::conflict::Image;

#[derive(Serialize)]
pub(crate) struct Upload<'a> {
    pub(crate) last_server_seq_seen: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) epoch: Option<&'a str>,
    pub(crate) changes: Vec<Change<'a>>,
}

#[derive(Serialize)]
pub(crate) struct Change<'a> {
    pub(crate) source_change_id: i64,
    pub(crate) schema: &'a str,
    pub(crate) table: &'a str,
    pub(crate) op: &'a str,
    pub(crate) pk: &'a str,
    pub(crate) server_version: i64,
    pub(crate) payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(crate) struct Uploaded {
    pub(crate) highest_server_seq: i64,
    #[serde(default)]
    pub(crate) epoch: Option<String>,
    pub(crate) statuses: Vec<Status>,
}

#[derive(Deserialize)]
pub(crate) struct Status {
    pub(crate) source_change_id: i64,
    pub(crate) status: String,
    #[serde(default)]
    pub(crate) new_server_version: Option<i64>,
    #[serde(default)]
    pub(crate) server_row: Option<ServerRow>,
    #[serde(default)]
    pub(crate) invalid: Option<Invalid>,
    #[serde(default)]
    pub(crate) message: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct ServerRow {
    pub(crate) server_version: i64,
    #[serde(default)]
    pub(crate) payload: Option<Image>,
}

#[derive(Deserialize)]
pub(crate) struct Invalid {
    pub(crate) reason: String,
}

#[derive(Deserialize)]
pub(crate) struct Page {
    pub(crate) changes: Vec<Downloaded>,
    pub(crate) has_more: bool,
    pub(crate) next_after: i64,
    pub(crate) window_until: i64,
    #[serde(default)]
    pub(crate) epoch: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Downloaded {
    /// None in a snapshot.
    #[serde(default)]
    pub(crate) server_id: i64,
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(crate) pk: String,
    pub(crate) server_version: i64,
    #[serde(default)]
    pub(crate) payload: Option<Image>,
}

#[derive(Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) rows: Vec<Downloaded>,
    pub(crate) as_of: i64,
    pub(crate) epoch: String,
    #[serde(default)]
    pub(crate) next_page: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Source {
    pub(crate) highest_source_change_id: i64,
}

#[derive(Deserialize)]
pub(crate) struct Failure {
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) message: String,
}
