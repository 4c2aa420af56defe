//! Requests and answers, exactly as the protocol has them: an answer with a member too many or too few is none.
#![expect(missing_docs, reason = "the members are the protocol's")]

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// JSON as the text that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw(pub String);

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(|raw| Self(raw.get().to_owned()))
    }
}

/// What text there is for a human is not compared, only that there is some.
#[derive(Clone, Debug, Eq)]
pub struct Message(pub String);

impl PartialEq for Message {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// The answer to an upload.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Uploaded {
    pub accepted: bool,
    pub highest_server_seq: i64,
    pub epoch: Message,
    pub statuses: Vec<Status>,
}

/// What became of one change.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Status {
    pub source_change_id: i64,
    pub status: String,
    #[serde(default)]
    pub new_server_version: Option<i64>,
    #[serde(default)]
    pub server_row: Option<ServerRow>,
    #[serde(default)]
    pub invalid: Option<Invalid>,
    #[serde(default)]
    pub message: Option<Message>,
}

/// A row as the server has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ServerRow {
    pub schema_name: String,
    pub table_name: String,
    pub id: String,
    pub server_version: i64,
    pub deleted: bool,
    #[serde(deserialize_with = "nullable")]
    pub payload: Option<Raw>,
}

/// Why a change was refused.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Invalid {
    pub reason: String,
    pub details: Details,
}

/// What more there is to a reason.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Details {
    #[serde(default)]
    pub missing: Vec<String>,
}

/// One page of a stream.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Page {
    pub changes: Vec<Downloaded>,
    pub has_more: bool,
    pub next_after: i64,
    pub window_until: i64,
    pub epoch: Message,
}

/// An applied change.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Downloaded {
    pub server_id: i64,
    pub schema: String,
    pub table: String,
    pub op: String,
    pub pk: String,
    #[serde(deserialize_with = "nullable")]
    pub payload: Option<Raw>,
    pub server_version: i64,
    pub deleted: bool,
    pub source_id: String,
    pub source_change_id: i64,
    pub ts: Message,
}

/// A page of the rows as they are.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub rows: Vec<SnapshotRow>,
    pub as_of: i64,
    pub epoch: Message,
    pub has_more: bool,
    #[serde(deserialize_with = "nullable")]
    pub next_page: Option<String>,
}

/// A row as it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRow {
    pub schema: String,
    pub table: String,
    pub pk: String,
    pub server_version: i64,
    pub payload: Raw,
}

impl PartialOrd for Raw {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Raw {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// An error.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    pub error: String,
    pub message: Message,
    #[serde(default)]
    pub highest_server_seq: Option<i64>,
    #[serde(default)]
    pub epoch: Option<Message>,
    #[serde(default)]
    pub floor: Option<i64>,
}

/// A member that must be there and may be null.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}
