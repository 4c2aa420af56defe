//! What is cleared of the streams in memory.

use std::num::NonZeroU32;

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::retention::{PruneStep, RetentionStore, cannot_be};
use outrigger_application::ports::store::StoreError;
use outrigger_domain::retention::{Aged, Cutoffs, Fate, STEP_BYTES_MAX, STEP_ENTRIES_MAX, Sweep};
use outrigger_domain::{Epoch, Logged, LoggedPayload, RowKey, ServerSeq, UserId};

use crate::{Key, MemoryStore, Remembered, Stream};

impl Remembered {
    /// The row that the change was about, and since when its key is remembered.
    fn row_since(&self) -> (&RowKey, Timestamp) {
        match self {
            Self::Pruned(logged, at) => (&logged.row, *at),
            Self::Unlogged(unlogged, at) => (&unlogged.row, *at),
        }
    }
}

impl Stream {
    /// Sorts the entries of one step. Gives those that go, and the step with nothing counted yet.
    fn sort(&self, cutoffs: Cutoffs, after: ServerSeq) -> (Vec<(ServerSeq, Fate)>, PruneStep) {
        let mut step = PruneStep { head: self.last, ..PruneStep::default() };
        let (mut sweep, mut fates, mut bytes) = (Sweep::new(cutoffs), Vec::new(), 0);
        for (&server_id, change) in self.log.range(after.next()..) {
            if fates.len() == STEP_ENTRIES_MAX as usize || bytes >= STEP_BYTES_MAX {
                step.next = fates.last().map(|&(seq, _)| seq);
                break;
            }
            let row = &self.rows[&change.row];
            let (op, version, at) = (change.op, change.version, change.at);
            let aged = Aged { server_id, at, op, version, row_version: row.version, is_projected: row.ours };
            let Some(fate) = sweep.fate(&aged) else { break };
            if fate == Fate::Superseded {
                bytes += change.payload.as_ref().map_or(0, |payload| payload.as_str().len());
            }
            fates.push((server_id, fate));
        }
        step.left = sweep.left;
        fates.retain(|(_, fate)| *fate != Fate::Kept);
        (fates, step)
    }

    fn remove(&mut self, seq: ServerSeq, at: Timestamp) {
        let Some(change) = self.log.remove(&seq) else { return };
        let key = (change.source, change.source_change_id);
        self.keys.remove(&key);
        let payload = change.payload.map(|payload| LoggedPayload::Digest(*payload.digest()));
        let logged = Logged { op: change.op, row: change.row, payload, version: change.version };
        self.remembered.insert(key, Remembered::Pruned(logged, at));
    }
}

#[async_trait]
impl RetentionStore for MemoryStore {
    async fn take_due(
        &self,
        after: Option<&UserId>,
        before: Timestamp,
        at: Timestamp,
        limit: u32,
    ) -> Result<Vec<UserId>, StoreError> {
        let mut state = self.state();
        let is_due = |(user, stream): &(&UserId, &mut Stream)| {
            after.is_none_or(|after| *user > after)
                && stream.swept_at.is_none_or(|swept| swept < before || swept > cannot_be(before, at))
                && stream.clean_at != Some(stream.last)
        };
        let mut due: Vec<_> = state.users.iter_mut().filter(is_due).collect();
        due.sort_by_key(|(user, _)| (*user).clone());
        due.truncate(limit as usize);
        due.iter_mut().for_each(|(_, stream)| stream.swept_at = Some(at));
        Ok(due.into_iter().map(|(user, _)| user.clone()).collect())
    }

    async fn prune(
        &self,
        user: &UserId,
        cutoffs: Cutoffs,
        after: ServerSeq,
        at: Timestamp,
    ) -> Result<PruneStep, StoreError> {
        let mut state = self.state();
        let Some(stream) = state.users.get_mut(user) else { return Ok(PruneStep::default()) };
        let (gone, mut step) = stream.sort(cutoffs, after);
        for (seq, fate) in gone {
            if fate == Fate::Superseded {
                step.superseded += 1;
            } else {
                step.tombstones += 1;
                stream.kept.floor = stream.kept.floor.max(seq);
                let row = stream.log[&seq].row.clone();
                stream.rows.remove(&row);
                stream.failures.retain(|_, failure| failure.row != row);
            }
            stream.remove(seq, at);
        }
        if step.tombstones > 0 {
            stream.last = stream.last.next();
            stream.kept.moved_at = stream.last;
        }
        Ok(step)
    }

    async fn forget_keys(&self, user: &UserId, before: Timestamp, limit: u32) -> Result<(u64, bool), StoreError> {
        let mut state = self.state();
        let Some(stream) = state.users.get_mut(user) else { return Ok((0, false)) };
        let is_old = |(_, remembered): &(&Key, &Remembered)| {
            let (row, since) = remembered.row_since();
            since < before && !stream.rows.contains_key(row)
        };
        let old: Vec<Key> =
            stream.remembered.iter().filter(is_old).map(|(key, _)| key.clone()).take(limit as usize).collect();
        for key in &old {
            stream.remembered.remove(key);
            let highest = stream.forgotten.entry(key.0.clone()).or_insert(key.1);
            *highest = key.1.max(*highest);
        }
        Ok((old.len() as u64, !stream.remembered.is_empty()))
    }

    async fn mark_clean(&self, user: &UserId, head: ServerSeq) -> Result<(), StoreError> {
        if let Some(stream) = self.state().users.get_mut(user) {
            stream.clean_at = Some(head);
        }
        Ok(())
    }

    async fn restore_mark(&self, skip: NonZeroU32) -> Result<Epoch, StoreError> {
        let mut state = self.state();
        state.epoch = Epoch(uuid::Uuid::new_v4());
        for stream in state.users.values_mut() {
            stream.last.0 += i64::from(skip.get());
            stream.epoch = None;
        }
        Ok(state.epoch)
    }
}
