//! What a device may send: changes, checked once at the edge and well-formed from there on.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::catalog::{Catalog, DEFAULT_SCHEMA, Table, part};
use crate::decision::{Reason, Refusal};
use crate::ids::{Epoch, RowVersion, SourceChangeId, SourceId};
use crate::limits::{PAYLOAD_DEPTH_MAX, UploadLimits};
use crate::stream::RowKey;
use crate::{json, key};

/// One INSERT, UPDATE or DELETE of one row of a registered table.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The source's own number for it.
    pub source_change_id: SourceChangeId,
    /// The row it changes.
    pub row: RowKey,
    /// The version of the row that the device had when it made the change.
    pub base: RowVersion,
    /// What it does.
    pub op: Op,
    /// The rows its payload refers to, each once.
    pub parents: Vec<RowKey>,
}

/// What a change does, with the payload where there is one.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// The device made the row.
    Insert(Payload),
    /// The device changed the row.
    Update(Payload),
    /// The device deleted the row.
    Delete,
}

impl Op {
    /// The op without its payload.
    pub fn kind(&self) -> OpKind {
        match self {
            Self::Insert(_) => OpKind::Insert,
            Self::Update(_) => OpKind::Update,
            Self::Delete => OpKind::Delete,
        }
    }

    /// The payload; none for a delete.
    pub fn payload(&self) -> Option<&Payload> {
        match self {
            Self::Insert(payload) | Self::Update(payload) => Some(payload),
            Self::Delete => None,
        }
    }
}

/// An op by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// INSERT
    Insert,
    /// UPDATE
    Update,
    /// DELETE
    Delete,
}

impl OpKind {
    /// Reads a name in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Insert, Self::Update, Self::Delete].into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(text))
    }

    /// The name as it goes over the wire and into the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// A JSON object, kept as the text that came: key order, digits and white space included. Cheap to clone.
#[derive(Clone)]
pub struct Payload(Arc<Inner>);

struct Inner {
    /// Computed when it is first asked for: most payloads are never compared.
    digest: OnceLock<[u8; 32]>,
    text: Box<str>,
}

impl Payload {
    /// Takes a JSON object; None if the value is none.
    pub fn new(raw: Box<RawValue>) -> Option<Self> {
        Self::from_json(raw.into())
    }

    /// Takes a JSON object that a store kept as text; None if it is none.
    pub fn from_text(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().and_then(Self::new)
    }

    /// Takes a JSON object from a store that has seen to it that it keeps JSON; None if it is of another kind.
    pub fn from_json(text: Box<str>) -> Option<Self> {
        text.starts_with('{').then(|| Self(Arc::new(Inner { digest: OnceLock::new(), text })))
    }

    /// The object as it came.
    pub fn as_raw(&self) -> &RawValue {
        serde_json::from_str(&self.0.text).unwrap_or(RawValue::NULL)
    }

    /// The object's text as it came.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// SHA-256 of the object's [canonical form](json::canonical): equal for all texts of one value.
    pub fn digest(&self) -> &[u8; 32] {
        self.0.digest.get_or_init(|| Sha256::digest(json::canonical(self.as_str())).into())
    }
}

/// Two payloads are equal if they are the same JSON value, however it is written.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_str() == other.as_str() || self.digest() == other.digest()
    }
}

/// Shows the length only: payloads are the users' data and do not belong in a log.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.as_str().len())
    }
}

/// A change as it was sent: the right JSON types, nothing else known about it.
#[derive(Clone, Copy, Debug)]
pub struct RawChange<'a> {
    /// The source's own number for it.
    pub source_change_id: i64,
    /// The schema; the default one if there is none.
    pub schema: Option<&'a str>,
    /// The table.
    pub table: &'a str,
    /// INSERT, UPDATE or DELETE, in any case.
    pub op: &'a str,
    /// The row's key, a UUID.
    pub pk: &'a str,
    /// The version of the row that the device had.
    pub server_version: i64,
    /// The payload; `null` counts as none.
    pub payload: Option<&'a RawValue>,
}

/// One element of an upload: a well-formed change, or why it is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// The number by which the answer names the change; 0 if it could not be read.
    pub source_change_id: i64,
    /// The change, or its refusal by rule 1 or 2 of the protocol.
    pub change: Result<Arc<Change>, Refusal>,
}

impl Submission {
    /// A change that could not even be read.
    pub fn unreadable(source_change_id: i64, message: impl Into<String>) -> Self {
        Self { source_change_id, change: Err(Refusal::new(Reason::BadPayload, message)) }
    }
}

/// All that one request uploads.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    /// The source that made the changes.
    pub source: SourceId,
    /// The changes, in the order in which they are decided. Of too many, one more than the limit is enough.
    pub submissions: Vec<Submission>,
    /// Whether all of them are applied or none.
    pub atomic: bool,
    /// The life of the stream that the source knows, if it says so.
    pub epoch: Option<Epoch>,
}

impl Upload {
    /// Bytes of all its payloads together.
    pub fn payload_bytes(&self) -> usize {
        let changes = self.submissions.iter().filter_map(|submission| submission.change.as_ref().ok());
        changes.filter_map(|change| change.op.payload()).map(|payload| payload.as_str().len()).sum()
    }
}

/// Checks a change by rules 1 (well-formed) and 2 (registered table) of the protocol.
pub fn admit(raw: RawChange<'_>, catalog: &Catalog, limits: &UploadLimits) -> Submission {
    let change = check(raw, catalog, limits).map(Arc::new);
    Submission { source_change_id: raw.source_change_id, change }
}

fn check(raw: RawChange<'_>, catalog: &Catalog, limits: &UploadLimits) -> Result<Change, Refusal> {
    if raw.source_change_id < 1 {
        return Err(bad("source_change_id must be positive"));
    }
    if raw.server_version < 0 {
        return Err(bad("server_version must not be negative"));
    }
    let schema = part(raw.schema.unwrap_or(DEFAULT_SCHEMA)).map_err(|why| bad(format!("schema: {why}")))?;
    let table = part(raw.table).map_err(|why| bad(format!("table: {why}")))?;
    let pk = Uuid::try_parse(raw.pk).map_err(|_| bad("pk must be a UUID"))?;
    let op = check_op(raw, limits)?;
    let Some(table) = catalog.find(&schema, &table) else {
        let message = format!("table {schema}.{table} does not take part in syncing");
        return Err(Refusal::new(Reason::UnregisteredTable, message));
    };
    let parents = op.payload().map_or(Ok(Vec::new()), |payload| parents(payload, table))?;
    Ok(Change {
        source_change_id: SourceChangeId(raw.source_change_id),
        row: RowKey { table: table.name.clone(), pk },
        base: RowVersion(raw.server_version),
        op,
        parents,
    })
}

/// The rows a payload refers to. Null and absent members refer to none.
fn parents(payload: &Payload, table: &Table) -> Result<Vec<RowKey>, Refusal> {
    if table.references.is_empty() {
        return Ok(Vec::new());
    }
    let columns: Vec<&str> = table.references.iter().map(|reference| reference.column.as_str()).collect();
    let members = json::members(payload.as_str(), &columns).unwrap_or_default();
    let mut parents = Vec::new();
    for (reference, value) in table.references.iter().zip(members) {
        let Some(value) = value.filter(|value| value.get() != "null") else { continue };
        let Some(pk) = key::parse_json(value) else {
            return Err(bad(format!("{} must be a UUID, as text or as base64 of its 16 bytes", reference.column)));
        };
        let parent = RowKey { table: reference.parent.clone(), pk };
        if !parents.contains(&parent) {
            parents.push(parent);
        }
    }
    Ok(parents)
}

fn check_op(raw: RawChange<'_>, limits: &UploadLimits) -> Result<Op, Refusal> {
    let kind = OpKind::parse(raw.op.trim()).ok_or_else(|| bad("op must be INSERT, UPDATE or DELETE"))?;
    let payload = raw.payload.filter(|value| value.get() != "null");
    match (kind, payload) {
        (OpKind::Delete, None) => Ok(Op::Delete),
        (OpKind::Delete, Some(_)) => Err(bad("a DELETE has no payload")),
        (_, None) => Err(bad("an INSERT or UPDATE needs a payload")),
        (OpKind::Insert, Some(value)) => check_payload(value, limits).map(Op::Insert),
        (OpKind::Update, Some(value)) => check_payload(value, limits).map(Op::Update),
    }
}

fn check_payload(value: &RawValue, limits: &UploadLimits) -> Result<Payload, Refusal> {
    let text = value.get();
    if text.len() > limits.payload_bytes_max {
        return Err(bad(format!("payload has {} bytes, {} at most", text.len(), limits.payload_bytes_max)));
    }
    if json::is_deeper_than(text, PAYLOAD_DEPTH_MAX) {
        return Err(bad(format!("payload is nested deeper than {PAYLOAD_DEPTH_MAX} levels")));
    }
    Payload::new(value.to_owned()).ok_or_else(|| bad("payload must be a JSON object"))
}

fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::BadPayload, message)
}
