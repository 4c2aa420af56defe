//! Business tables in memory: one map, in which a row belongs to the user whose change put it there.

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::projection::{
    Failure, FailureFilter, ProjectionStore, RebuildCursor, RebuildStep, Retried,
};
use outrigger_application::ports::store::StoreError;
use outrigger_domain::change::OpKind;
use outrigger_domain::{Payload, Reference, RowKey, RowState, TableName, UserId};

use crate::{MemoryStore, State};

/// What is recorded when a row of a business table was put there by somebody else.
const NOT_OURS: &str = "the business row was not put there by this user";

impl MemoryStore {
    /// The payload of a business row.
    pub fn business_row(&self, row: &RowKey) -> Option<Payload> {
        self.state().business.get(row).cloned()
    }
}

impl State {
    /// Makes the business row what the sidecar has, or records why not. Gives whether it did.
    pub(crate) fn project(&mut self, user: &UserId, key: &RowKey, at: Timestamp) -> bool {
        if !self.projected.contains(&key.table) {
            return true;
        }
        let Some(stream) = self.users.get_mut(user) else { return true };
        let Some(row) = stream.rows.get_mut(key) else { return true };
        if !row.ours && self.business.contains_key(key) {
            stream.record_failure(user, key, at);
            return false;
        }
        match &row.state {
            RowState::Live(payload) => self.business.insert(key.clone(), payload.clone()),
            RowState::Deleted | RowState::Unloaded => self.business.remove(key),
        };
        row.ours = matches!(row.state, RowState::Live(_));
        stream.failures.retain(|_, failure| failure.row != *key);
        true
    }
}

impl crate::Stream {
    fn record_failure(&mut self, user: &UserId, key: &RowKey, at: Timestamp) {
        let row = &self.rows[key];
        let attempted_version = row.version;
        let known = |failure: &&mut Failure| failure.row == *key && failure.attempted_version == attempted_version;
        if let Some(failure) = self.failures.values_mut().find(known) {
            failure.retry_count += 1;
            return;
        }
        self.last_failure_id += 1;
        let logged = self.log.values().rev().find(|change| change.row == *key);
        let failure = Failure {
            id: self.last_failure_id,
            user: user.clone(),
            row: key.clone(),
            attempted_version,
            op: logged.map_or(OpKind::Delete, |change| change.op),
            payload: logged.and_then(|change| change.payload.clone()),
            error: NOT_OURS.into(),
            first_seen: at,
            retry_count: 0,
        };
        self.failures.insert(failure.id, failure);
    }
}

fn matches(filter: &FailureFilter, failure: &Failure) -> bool {
    filter.schema.as_deref().is_none_or(|schema| failure.row.table.schema() == schema)
        && filter.table.as_deref().is_none_or(|table| failure.row.table.table() == table)
}

#[async_trait]
impl ProjectionStore for MemoryStore {
    async fn refresh_catalog(&self) -> Result<Vec<(TableName, Reference)>, StoreError> {
        Ok(Vec::new())
    }

    async fn failures(
        &self,
        user: &UserId,
        filter: &FailureFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Failure>, StoreError> {
        let state = self.state();
        let of_user = state.users.get(user).into_iter().flat_map(|stream| stream.failures.range(after + 1..));
        let matching = of_user.map(|(_, failure)| failure).filter(|failure| matches(filter, failure));
        Ok(matching.take(limit as usize).cloned().collect())
    }

    async fn all_failures(
        &self,
        filter: &FailureFilter,
        after: Option<(UserId, i64)>,
        limit: u32,
    ) -> Result<Vec<Failure>, StoreError> {
        let state = self.state();
        let mut all: Vec<&Failure> = state.users.values().flat_map(|stream| stream.failures.values()).collect();
        all.retain(|failure| matches(filter, failure) && Some((failure.user.clone(), failure.id)) > after);
        all.sort_by(|a, b| (&a.user, a.id).cmp(&(&b.user, b.id)));
        Ok(all.into_iter().take(limit as usize).cloned().collect())
    }

    async fn retry(&self, user: &UserId, id: i64) -> Result<Retried, StoreError> {
        let mut state = self.state();
        let failure = |state: &State| state.users.get(user).and_then(|stream| stream.failures.get(&id)).cloned();
        let Some(found) = failure(&state) else { return Ok(Retried::Unknown) };
        if state.project(user, &found.row, found.first_seen) {
            return Ok(Retried::Materialized);
        }
        // The row may have gone on since; then the attempt was recorded under its newer version.
        let version = state.users[user].rows[&found.row].version;
        if version != found.attempted_version
            && let Some(stale) = state.users.get_mut(user).and_then(|stream| stream.failures.get_mut(&id))
        {
            stale.retry_count += 1;
        }
        Ok(failure(&state).map_or(Retried::Unknown, Retried::Failed))
    }

    async fn rebuild(
        &self,
        table: &TableName,
        after: Option<RebuildCursor>,
        limit: u32,
        at: Timestamp,
    ) -> Result<RebuildStep, StoreError> {
        let mut state = self.state();
        if !state.projected.contains(table) {
            return Ok(RebuildStep::default());
        }
        let rows_of = |(user, stream): (&UserId, &crate::Stream)| -> Vec<(UserId, RowKey)> {
            // A tombstone that left nothing of this user's behind has nothing to do with who is there now.
            let rows = stream.rows.iter().filter(|(_, row)| row.ours || matches!(row.state, RowState::Live(_)));
            rows.map(|(key, _)| (user.clone(), key.clone())).collect()
        };
        let mut rows: Vec<(UserId, RowKey)> = state.users.iter().flat_map(rows_of).collect();
        rows.retain(|(user, key)| {
            key.table == *table && after.as_ref().is_none_or(|after| (user, key.pk) > (&after.user, after.pk))
        });
        rows.sort();
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        let mut step = RebuildStep::default();
        for (user, key) in &rows {
            let done = state.project(user, key, at);
            *(if done { &mut step.projected } else { &mut step.failed }) += 1;
        }
        step.next = rows.pop().filter(|_| more).map(|(user, key)| RebuildCursor { user, pk: key.pk });
        Ok(step)
    }
}
