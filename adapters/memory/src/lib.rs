//! A store in memory: for tests, and for a server whose data may go when it stops.
//!
//! It is also the shortest statement of what [`SyncStore`] asks of a store.

mod contacts;
mod projection;
mod retention;
mod users;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::contacts::SourceRecord;
use outrigger_application::ports::projection::Failure;
use outrigger_application::ports::store::{LiveRow, Rows, RowsQuery, StoreError, SyncStore};
use outrigger_domain::limits::PAGE_BYTES_MAX;
use outrigger_domain::stream::{StreamChange, StreamHead};
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{
    Epoch, Kept, Logged, LoggedPayload, Payload, Plan, RowKey, RowState, RowVersion, ServerSeq, Snapshot,
    SourceChangeId, SourceId, TableName, Unlogged, UserId, Wanted,
};
use uuid::Uuid;

/// The streams of all users, kept in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

type Key = (SourceId, SourceChangeId);

#[derive(Debug)]
struct State {
    epoch: Epoch,
    users: HashMap<UserId, Stream>,
    sources: HashMap<(UserId, SourceId), SourceRecord>,
    projected: HashSet<TableName>,
    business: HashMap<RowKey, Payload>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            epoch: Epoch(Uuid::new_v4()),
            users: HashMap::new(),
            sources: HashMap::new(),
            projected: HashSet::new(),
            business: HashMap::new(),
        }
    }
}

#[derive(Debug, Default)]
struct Stream {
    last: ServerSeq,
    /// That of this stream alone, if it has begun anew.
    epoch: Option<Epoch>,
    kept: Kept,
    log: BTreeMap<ServerSeq, StreamChange>,
    keys: HashMap<Key, ServerSeq>,
    /// The keys that are remembered without an entry of the log.
    remembered: HashMap<Key, Remembered>,
    /// The highest of each source's keys that are not even kept there any more.
    forgotten: HashMap<SourceId, SourceChangeId>,
    swept_at: Option<Timestamp>,
    clean_at: Option<ServerSeq>,
    rows: HashMap<RowKey, Row>,
    failures: BTreeMap<i64, Failure>,
    last_failure_id: i64,
}

/// What a key stands for, and since when it is remembered.
#[derive(Debug)]
enum Remembered {
    /// An entry that was pruned.
    Pruned(Logged, Timestamp),
    /// A change that left no entry. It may have been applied since, at another version.
    Unlogged(Unlogged, Timestamp),
}

#[derive(Clone, Debug)]
struct Row {
    version: RowVersion,
    state: RowState,
    /// Whether a projection for this user put the business row there.
    ours: bool,
}

impl Stream {
    fn append(&mut self, plan: Plan) {
        for effect in &plan.rows {
            let entry = &plan.log[effect.entry];
            let state = entry.change.op.payload().map_or(RowState::Deleted, |payload| RowState::Live(payload.clone()));
            let ours = self.rows.get(&entry.change.row).is_some_and(|row| row.ours);
            self.rows.insert(entry.change.row.clone(), Row { version: entry.version, state, ours });
        }
        for entry in plan.log {
            self.keys.insert((entry.source.clone(), entry.change.source_change_id), entry.server_id);
            let change = StreamChange {
                server_id: entry.server_id,
                row: entry.change.row.clone(),
                op: entry.change.op.kind(),
                payload: entry.change.op.payload().cloned(),
                version: entry.version,
                source: entry.source,
                source_change_id: entry.change.source_change_id,
                at: plan.at,
            };
            self.log.insert(entry.server_id, change);
            self.last = entry.server_id;
        }
        for (key, unlogged) in plan.unlogged {
            self.remembered.insert(key, Remembered::Unlogged(unlogged, plan.at));
            self.clean_at = None;
        }
    }
}

impl MemoryStore {
    /// A store that projects these tables onto business tables in memory.
    pub fn projecting(tables: impl IntoIterator<Item = TableName>) -> Self {
        let state = State { projected: tables.into_iter().collect(), ..State::default() };
        Self { state: Mutex::new(state) }
    }

    /// The same store with its streams in that epoch, for tests that look at it.
    #[must_use]
    pub fn in_epoch(self, epoch: Epoch) -> Self {
        self.state().epoch = epoch;
        self
    }

    /// The user's stream, and its end.
    fn stream<'s>(state: &'s State, user: &UserId) -> (Option<&'s Stream>, StreamHead) {
        let stream = state.users.get(user);
        let epoch = stream.and_then(|stream| stream.epoch).unwrap_or(state.epoch);
        (stream, StreamHead { seq: stream.map_or(ServerSeq(0), |stream| stream.last), epoch })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SyncStore for MemoryStore {
    async fn load(&self, user: &UserId, wanted: &Wanted) -> Result<Snapshot, StoreError> {
        let state = self.state();
        let (stream, head) = Self::stream(&state, user);
        let Some(stream) = stream else { return Ok(Snapshot { head, ..Snapshot::default() }) };
        let row = |key: &RowKey| stream.rows.get(key).map(|row| (key.clone(), (row.version, row.state.clone())));
        let logged = |key: &Key| {
            let Some(seq) = stream.keys.get(key) else {
                let Remembered::Pruned(logged, _) = stream.remembered.get(key)? else { return None };
                return Some((key.clone(), logged.clone()));
            };
            let change = &stream.log[seq];
            let (row, payload) = (change.row.clone(), change.payload.clone().map(LoggedPayload::Whole));
            Some((key.clone(), Logged { op: change.op, row, payload, version: change.version }))
        };
        let unlogged = |key: &Key| {
            let Remembered::Unlogged(unlogged, _) = stream.remembered.get(key)? else { return None };
            Some((key.clone(), unlogged.clone()))
        };
        let forgotten = |source: &SourceId| Some((source.clone(), *stream.forgotten.get(source)?));
        Ok(Snapshot {
            head,
            rows: wanted.rows.iter().filter_map(|wanted| row(&wanted.key)).collect(),
            logged: wanted.keys.iter().filter_map(logged).collect(),
            unlogged: wanted.keys.iter().filter_map(unlogged).collect(),
            forgotten: wanted.sources.iter().filter_map(forgotten).collect(),
            is_assumed: false,
        })
    }

    async fn commit(&self, user: &UserId, plan: Plan) -> Result<(), StoreError> {
        let mut state = self.state();
        let stream = state.users.entry(user.clone()).or_default();
        if stream.last != plan.head.seq {
            return Err(StoreError::Contention);
        }
        let at = plan.at;
        let changed: Vec<RowKey> = plan.rows.iter().map(|row| plan.log[row.entry].change.row.clone()).collect();
        stream.append(plan);
        for row in changed {
            state.project(user, &row, at);
        }
        Ok(())
    }

    async fn page(&self, user: &UserId, query: &PageQuery) -> Result<Slice, StoreError> {
        let state = self.state();
        let (stream, head) = Self::stream(&state, user);
        let Some(stream) = stream else { return Ok(Slice { head, ..Slice::default() }) };
        let matches = |change: &&StreamChange| {
            query.schema.as_deref().is_none_or(|schema| change.row.table.schema() == schema)
                && query.exclude.as_ref().is_none_or(|source| change.source != *source)
                && query.until.is_none_or(|until| change.server_id <= until)
        };
        let after = stream.log.range((Bound::Excluded(query.after), Bound::Unbounded)).map(|(_, change)| change);
        let mut matching = after.filter(matches).peekable();
        let (mut changes, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE_BYTES_MAX
            && changes.len() < query.limit as usize
            && let Some(change) = matching.next()
        {
            bytes += change.payload.as_ref().map_or(0, |payload| payload.as_str().len());
            changes.push(change.clone());
        }
        Ok(Slice { head, kept: stream.kept, changes, more: matching.peek().is_some() })
    }

    async fn head(&self, user: &UserId) -> Result<(StreamHead, Kept), StoreError> {
        let state = self.state();
        let (stream, head) = Self::stream(&state, user);
        Ok((head, stream.map_or_else(Kept::default, |stream| stream.kept)))
    }

    async fn rows(&self, user: &UserId, query: &RowsQuery) -> Result<Rows, StoreError> {
        let state = self.state();
        let (stream, head) = Self::stream(&state, user);
        let is_wanted = |key: &RowKey| key.table == query.table && query.after.is_none_or(|after| key.pk > after);
        let live = |(key, row): (&RowKey, &Row)| match &row.state {
            RowState::Live(payload) if is_wanted(key) => {
                Some(LiveRow { pk: key.pk, version: row.version, payload: payload.clone() })
            }
            _ => None,
        };
        let mut matching: Vec<LiveRow> = stream.into_iter().flat_map(|stream| &stream.rows).filter_map(live).collect();
        matching.sort_by_key(|row| row.pk);
        let mut bytes = 0;
        let fits = |row: &&LiveRow| {
            let before = bytes;
            bytes += row.payload.as_str().len();
            before < PAGE_BYTES_MAX
        };
        let count = matching.iter().take(query.limit as usize).take_while(fits).count();
        let more = count < matching.len();
        matching.truncate(count);
        Ok(Rows { head, rows: matching, more })
    }

    async fn tables(&self, user: &UserId) -> Result<Vec<TableName>, StoreError> {
        let state = self.state();
        let rows = state.users.get(user).into_iter().flat_map(|stream| &stream.rows);
        let live = rows.filter(|(_, row)| matches!(row.state, RowState::Live(_)));
        Ok(live.map(|(key, _)| key.table.clone()).collect::<HashSet<_>>().into_iter().collect())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
