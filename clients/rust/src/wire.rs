//! The JSON of the protocol, and what an answer must be for this library to believe it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Error;

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
    pub(crate) deleted: bool,
    #[serde(default)]
    pub(crate) payload: Option<Box<RawValue>>,
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
    /// None in a snapshot.
    #[serde(default)]
    pub(crate) deleted: bool,
    #[serde(default)]
    pub(crate) payload: Option<Box<RawValue>>,
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
    #[serde(default)]
    pub(crate) user: Option<String>,
    #[serde(default)]
    pub(crate) source_id: Option<String>,
    pub(crate) highest_source_change_id: i64,
}

#[derive(Deserialize)]
pub(crate) struct Failure {
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) message: String,
}

impl Page {
    /// Whether it is a page behind that place: one that goes on, in the order of the stream.
    pub(crate) fn check(&self, after: i64) -> Result<(), Error> {
        let mut last = after;
        for change in &self.changes {
            if change.server_id <= last {
                return Err(wrong("the changes of a page are not in the order of the stream"));
            }
            last = change.server_id;
            change.check()?;
        }
        if self.next_after < last || (self.has_more && self.next_after <= after) {
            return Err(wrong("a page does not go on from where it begins"));
        }
        Ok(())
    }
}

impl Snapshot {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.as_of < 0 {
            return Err(wrong("a snapshot of a time before the stream began"));
        }
        self.rows.iter().try_for_each(Downloaded::check)
    }
}

impl Downloaded {
    fn check(&self) -> Result<(), Error> {
        if self.server_version < 1 {
            return Err(wrong("a row without a version"));
        }
        // A row without its payload would be taken for a deletion.
        if self.deleted == self.payload.is_some() {
            return Err(wrong("a row that is there and deleted, or neither"));
        }
        check_payload(self.payload.as_deref())
    }
}

impl Status {
    /// Whether it can be the answer to a change of that number.
    pub(crate) fn check(&self, id: i64, op: &str) -> Result<(), Error> {
        if self.source_change_id != id {
            return Err(wrong("a status of another change"));
        }
        if self.status == "applied" && op != "DELETE" && self.new_server_version.is_none_or(|version| version < 1) {
            return Err(wrong("a row was applied without a version"));
        }
        if let Some(row) = &self.server_row
            && (row.server_version < 0 || row.deleted == row.payload.is_some())
        {
            return Err(wrong("a row that is there and deleted, or neither"));
        }
        check_payload(self.server_row.as_ref().and_then(|row| row.payload.as_deref()))?;
        Ok(())
    }
}

fn check_payload(payload: Option<&RawValue>) -> Result<(), Error> {
    match payload {
        Some(payload) if !payload.get().starts_with('{') => Err(wrong("a payload that is no object")),
        _ => Ok(()),
    }
}

fn wrong(what: &str) -> Error {
    Error::Protocol(what.to_owned())
}
