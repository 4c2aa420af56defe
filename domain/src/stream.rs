//! What a store keeps of a user: the stream of applied changes and the rows they add up to.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use crate::catalog::TableName;
use crate::change::{Change, OpKind, Payload};
use crate::ids::{Epoch, RowVersion, ServerSeq, SourceChangeId, SourceId};

/// What names a row of one user.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// The row's table.
    pub table: TableName,
    /// The row's primary key.
    pub pk: Uuid,
}

/// `schema.table:pk`, as the protocol writes it.
impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table, self.pk)
    }
}

/// Where a user's stream ends. A commit names the head it was planned on and fails if the stream has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamHead {
    /// The highest `server_id` handed out; 0 for a user without changes.
    pub seq: ServerSeq,
    /// The life of the stream in which it was handed out.
    pub epoch: Epoch,
}

/// From where on a stream is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The highest `server_id` of a deletion that was pruned: a device whose cursor is lower may not know of it.
    pub floor: ServerSeq,
    /// The number that the stream gave to the pruning itself. A window that ends there or later was opened after it.
    pub moved_at: ServerSeq,
}

/// What [`Planner`](crate::Planner) has to know before it can decide some uploads of one user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The rows named by the changes, and those that their payloads refer to, each once.
    pub rows: Vec<WantedRow>,
    /// The idempotency keys of the changes, each once.
    pub keys: Vec<(SourceId, SourceChangeId)>,
    /// The sources of the keys, each once.
    pub sources: Vec<SourceId>,
}

/// A row whose state is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct WantedRow {
    /// The row.
    pub key: RowKey,
    /// Whether its payload is wanted.
    pub payload: PayloadWanted,
}

/// When the payload of a live row is wanted. A store may load it all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadWanted {
    /// Whatever the row's version is.
    Always,
    /// Unless the row is at this version: the only change of it will apply, and not look at what it replaces, but for
    /// [few](crate::Planner::lacks_payloads).
    UnlessAt(RowVersion),
    /// Not at all: the row is only referred to.
    Never,
}

impl PayloadWanted {
    /// Whether the payload of a live row at that version may not be left out.
    pub fn is_wanted_at(self, version: RowVersion) -> bool {
        match self {
            Self::Always => true,
            Self::UnlessAt(known) => known != version,
            Self::Never => false,
        }
    }

    /// The version at which the payload may be left out, for a query: none for [`Always`](Self::Always), and for
    /// [`Never`](Self::Never) -1, at which there is no row.
    pub fn unless_at(self) -> Option<i64> {
        match self {
            Self::Always => None,
            Self::UnlessAt(known) => Some(known.0),
            Self::Never => Some(-1),
        }
    }
}

/// What a store answers to [`Wanted`], all of it as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The end of the user's stream.
    pub head: StreamHead,
    /// The wanted rows that the server has seen, tombstones included.
    pub rows: HashMap<RowKey, (RowVersion, RowState)>,
    /// The wanted keys that are in the log, or remembered since their entries were pruned.
    pub logged: HashMap<(SourceId, SourceChangeId), Logged>,
    /// The wanted keys of changes that were settled without an entry. One may be in the log as well, at another version:
    /// that counts.
    pub unlogged: HashMap<(SourceId, SourceChangeId), Unlogged>,
    /// The highest number of each wanted source that was forgotten, if any was.
    pub forgotten: HashMap<SourceId, SourceChangeId>,
    /// Whether nobody has looked, and this is [assumed](Self::assumed).
    pub is_assumed: bool,
}

impl Snapshot {
    /// What there is if the devices are right: the stream ends at `head`, every row exists at the version that its change
    /// names, or was never there if that is 0, and no change has come before. None if no row can be at such a version, or if
    /// the rules look at more than that: at a row that is changed twice, or referred to and not changed.
    ///
    /// What is decided on it holds only for changes that are applied, and only if [`Plan::is_assumed`](crate::Plan) is
    /// heeded when they are written.
    pub fn assumed(head: StreamHead, wanted: &Wanted) -> Option<Self> {
        let mut rows = HashMap::new();
        for WantedRow { key, payload } in &wanted.rows {
            match *payload {
                PayloadWanted::UnlessAt(RowVersion(0)) => {}
                PayloadWanted::UnlessAt(version) if (1..i64::MAX).contains(&version.0) => {
                    rows.insert(key.clone(), (version, RowState::Unloaded));
                }
                _ => return None,
            }
        }
        Some(Self { head, rows, is_assumed: true, ..Self::default() })
    }

    /// Whether it would have been right to [assume](Self::assumed) this.
    pub fn was_to_be_assumed(&self, head: StreamHead, wanted: &Wanted) -> bool {
        let is_new = |(source, number): &(SourceId, SourceChangeId)| {
            self.forgotten.get(source).is_none_or(|highest| number > highest)
        };
        let is_right = |row: &WantedRow| match (row.payload, self.rows.get(&row.key)) {
            (PayloadWanted::UnlessAt(version), None) => version == RowVersion(0),
            (PayloadWanted::UnlessAt(version), Some((at, state))) => version == *at && *state != RowState::Deleted,
            (PayloadWanted::Always | PayloadWanted::Never, _) => false,
        };
        self.head == head
            && self.logged.is_empty()
            && self.unlogged.is_empty()
            && wanted.keys.iter().all(is_new)
            && wanted.rows.iter().all(is_right)
    }
}

/// The state of a row that the server has seen.
#[derive(Clone, Debug, PartialEq)]
pub enum RowState {
    /// The row was deleted; its version is kept.
    Deleted,
    /// The row exists with this payload.
    Live(Payload),
    /// The row exists; its payload was not asked for.
    Unloaded,
}

/// An applied change as its idempotency key remembers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// What the change did.
    pub op: OpKind,
    /// The row it changed.
    pub row: RowKey,
    /// What is remembered of its payload; none for a delete.
    pub payload: Option<LoggedPayload>,
    /// The version it gave the row.
    pub version: RowVersion,
}

/// What is remembered of the payload of an applied change.
#[derive(Clone, Debug, PartialEq)]
pub enum LoggedPayload {
    /// All of it: the change is in the log.
    Whole(Payload),
    /// Its [digest](Payload::digest): the change was pruned from the log.
    Digest([u8; 32]),
}

impl LoggedPayload {
    /// Whether it is of the same JSON value.
    pub fn is_of(&self, payload: &Payload) -> bool {
        match self {
            Self::Whole(logged) => logged == payload,
            Self::Digest(digest) => digest == payload.digest(),
        }
    }
}

/// A change that was answered and left no entry in the log, as its idempotency key remembers it.
///
/// The version is part of it: a device may resolve a conflict and send the change under the same number, at the version
/// that it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlogged {
    /// What the change would have done.
    pub op: OpKind,
    /// The row that it was about.
    pub row: RowKey,
    /// The version that it named.
    pub base: RowVersion,
    /// What it was answered.
    pub settled: Settled,
}

impl Unlogged {
    /// What is remembered of a change.
    pub fn of(change: &Change, settled: Settled) -> Self {
        Self { op: change.op.kind(), row: change.row.clone(), base: change.base, settled }
    }

    /// Whether that is the change.
    pub fn is_of(&self, change: &Change) -> bool {
        self.op == change.op.kind() && self.row == change.row && self.base == change.base
    }
}

/// How a change was settled without an entry in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It was a conflict.
    Conflict,
    /// It was to delete a row that had never been there.
    NeverThere,
    /// It was to delete a row that had been deleted, at its version.
    DeletedBefore,
}

impl Settled {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Conflict, Self::NeverThere, Self::DeletedBefore];

    /// Its name in a store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::NeverThere => "never_there",
            Self::DeletedBefore => "deleted_before",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|settled| settled.as_str() == name)
    }
}

/// A change that is about to be appended to a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct LogEntry {
    /// Its place in the stream.
    pub server_id: ServerSeq,
    /// The source that made it.
    pub source: SourceId,
    /// The change.
    pub change: Arc<Change>,
    /// The version it gives the row.
    pub version: RowVersion,
}

/// A change as it is handed to a device.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamChange {
    /// Its place in the stream.
    pub server_id: ServerSeq,
    /// The row it changed.
    pub row: RowKey,
    /// What it did.
    pub op: OpKind,
    /// The payload; none for a delete.
    pub payload: Option<Payload>,
    /// The version it gave the row.
    pub version: RowVersion,
    /// The source that made it.
    pub source: SourceId,
    /// The source's own number for it.
    pub source_change_id: SourceChangeId,
    /// When the server applied it, to the microsecond.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u128) -> RowKey {
        RowKey { table: TableName::parse(None, "notes").unwrap(), pk: Uuid::from_u128(n) }
    }

    fn wanted(rows: &[(u128, PayloadWanted)]) -> Wanted {
        let source = SourceId::parse("phone").unwrap();
        Wanted {
            rows: rows.iter().map(|&(n, payload)| WantedRow { key: key(n), payload }).collect(),
            keys: vec![(source.clone(), SourceChangeId(5))],
            sources: vec![source],
        }
    }

    #[test]
    fn what_is_assumed_is_what_the_changes_name() {
        let head = StreamHead { seq: ServerSeq(7), ..StreamHead::default() };
        let at = |version| PayloadWanted::UnlessAt(RowVersion(version));
        let plain = wanted(&[(1, at(0)), (2, at(3))]);
        let assumed = Snapshot::assumed(head, &plain).unwrap();
        assert!(assumed.is_assumed && assumed.head == head);
        assert_eq!(assumed.rows, HashMap::from([(key(2), (RowVersion(3), RowState::Unloaded))]));
        assert!(assumed.was_to_be_assumed(head, &plain));
        for more in [PayloadWanted::Always, PayloadWanted::Never, at(-1), at(i64::MAX)] {
            let more = wanted(&[(1, at(0)), (2, more)]);
            assert_eq!(Snapshot::assumed(head, &more), None);
            assert!(!Snapshot { head, ..Snapshot::default() }.was_to_be_assumed(head, &more));
        }
    }

    #[test]
    fn whatever_is_otherwise_was_not_to_be_assumed() {
        let head = StreamHead { seq: ServerSeq(7), ..StreamHead::default() };
        let at = |version| PayloadWanted::UnlessAt(RowVersion(version));
        let wanted = wanted(&[(1, at(0)), (2, at(3))]);
        let (name, source) = (wanted.keys[0].clone(), wanted.sources[0].clone());
        let unlogged = Unlogged { op: OpKind::Insert, row: key(1), base: RowVersion(0), settled: Settled::Conflict };
        let logged = Logged { op: OpKind::Delete, row: key(1), payload: None, version: RowVersion(2) };
        let put = |n, version, state| (key(n), (RowVersion(version), state));
        let changed = |change: &dyn Fn(&mut Snapshot)| {
            let mut loaded = Snapshot { is_assumed: false, ..Snapshot::assumed(head, &wanted).unwrap() };
            change(&mut loaded);
            loaded.was_to_be_assumed(head, &wanted)
        };
        assert!(changed(&|_| ()));
        assert!(changed(&|loaded| loaded.rows.extend([put(
            2,
            3,
            RowState::Live(Payload::from_text("{}".into()).unwrap())
        )])));
        assert!(changed(&|loaded| loaded.forgotten.extend([(source.clone(), SourceChangeId(4))])));
        assert!(!changed(&|loaded| loaded.forgotten.extend([(source.clone(), SourceChangeId(5))])));
        assert!(!changed(&|loaded| loaded.head.seq = ServerSeq(8)));
        assert!(!changed(&|loaded| loaded.head.epoch = Epoch(Uuid::from_u128(1))));
        assert!(!changed(&|loaded| loaded.rows.extend([put(1, 1, RowState::Unloaded)])));
        assert!(!changed(&|loaded| loaded.rows.extend([put(2, 4, RowState::Unloaded)])));
        assert!(!changed(&|loaded| loaded.rows.extend([put(2, 3, RowState::Deleted)])));
        assert!(!changed(&|loaded| loaded.rows.clear()));
        assert!(!changed(&|loaded| loaded.logged.extend([(name.clone(), logged.clone())])));
        assert!(!changed(&|loaded| loaded.unlogged.extend([(name.clone(), unlogged.clone())])));
    }
}
