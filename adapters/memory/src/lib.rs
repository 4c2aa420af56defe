//! A store in memory: for tests, and for a server whose data may go when it stops.
//!
//! It is also the shortest statement of what [`SyncStore`] asks of a store.

mod projection;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use outrigger_application::ports::projection::Failure;
use outrigger_application::ports::store::{StoreError, SyncStore};
use outrigger_domain::limits::PAGE_BYTES_MAX;
use outrigger_domain::stream::{StreamChange, StreamHead};
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{
    Logged, Payload, Plan, RowKey, RowState, RowVersion, ServerSeq, Snapshot, SourceChangeId, SourceId, TableName,
    UserId, Wanted,
};

/// The streams of all users, kept in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    users: HashMap<UserId, Stream>,
    projected: HashSet<TableName>,
    business: HashMap<RowKey, Payload>,
}

#[derive(Debug, Default)]
struct Stream {
    log: BTreeMap<ServerSeq, StreamChange>,
    keys: HashMap<(SourceId, SourceChangeId), ServerSeq>,
    rows: HashMap<RowKey, Row>,
    failures: BTreeMap<i64, Failure>,
    last_failure_id: i64,
}

#[derive(Clone, Debug)]
struct Row {
    version: RowVersion,
    state: RowState,
    /// Whether a projection for this user put the business row there.
    ours: bool,
}

impl Stream {
    fn head(&self) -> StreamHead {
        StreamHead { seq: self.log.last_key_value().map_or(ServerSeq(0), |(&seq, _)| seq) }
    }

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
        }
    }
}

impl MemoryStore {
    /// A store that projects these tables onto business tables in memory.
    pub fn projecting(tables: impl IntoIterator<Item = TableName>) -> Self {
        let state = State { projected: tables.into_iter().collect(), ..State::default() };
        Self { state: Mutex::new(state) }
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
        let Some(stream) = state.users.get(user) else { return Ok(Snapshot::default()) };
        let row = |key: &RowKey| stream.rows.get(key).map(|row| (key.clone(), (row.version, row.state.clone())));
        let logged = |key: &(SourceId, SourceChangeId)| {
            let change = &stream.log[stream.keys.get(key)?];
            let (row, payload) = (change.row.clone(), change.payload.clone());
            Some((key.clone(), Logged { op: change.op, row, payload, version: change.version }))
        };
        Ok(Snapshot {
            head: stream.head(),
            rows: wanted.rows.iter().filter_map(|wanted| row(&wanted.key)).collect(),
            logged: wanted.keys.iter().filter_map(logged).collect(),
        })
    }

    async fn commit(&self, user: &UserId, plan: Plan) -> Result<(), StoreError> {
        let mut state = self.state();
        let stream = state.users.entry(user.clone()).or_default();
        if stream.head() != plan.head {
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
        let Some(stream) = state.users.get(user) else { return Ok(Slice::default()) };
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
        Ok(Slice { head: stream.head(), changes, more: matching.peek().is_some() })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
