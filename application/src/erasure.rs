//! Removing a user: the rows, their business rows, the log, the keys and the devices.
//!
//! It is made of what is there already, so that it is as safe as that: rows are deleted by commits like any other, in
//! which the projection takes the business rows along, and the log is then swept as if everything in it were old. Each
//! step is bounded and leaves a stream that devices can follow. What is stopped half-way goes on when it is called again.
//!
//! Of the user nothing is left but the id, where the stream ended and the highest number of each source: without them a
//! device that is still signed in could have a number twice, or a change that it sends again applied again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use outrigger_domain::change::{Change, Op, Submission, Upload};
use outrigger_domain::limits::{PAYLOAD_BYTES_MAX, UploadLimits};
use outrigger_domain::retention::Cutoffs;
use outrigger_domain::{Planner, RowKey, ServerSeq, SourceChangeId, SourceId, TableName, UserId, Wanted};

use crate::ports::clock::Clock;
use crate::ports::contacts::ContactStore;
use crate::ports::notifier::{News, Notifier};
use crate::ports::projection::{FailureFilter, ProjectionStore, Retried};
use crate::ports::retention::RetentionStore;
use crate::ports::store::{LiveRow, RowsQuery, StoreError, SyncStore};
use crate::ports::users::UserStore;
use crate::tables::{SharedCatalog, parents_first};

/// Rows that are deleted by one commit, and keys that are forgotten at once.
const BATCH: u32 = 500;
/// Failures that are read at once. Each may hold a payload of a megabyte.
const FAILURES: u32 = 20;
/// Times that all of it is done again because devices have uploaded in between.
const ROUNDS_MAX: u32 = 10;
/// Times that one step is taken again because an upload was faster.
const ATTEMPTS_MAX: u32 = 20;
/// Who makes the deletions. No device is called that: they would only be conflicts of its own numbers.
const SOURCE: &str = "outrigger:delete-user";

/// What an erasure stands on.
#[derive(Clone)]
pub struct ErasurePorts {
    /// Keeps the streams.
    pub store: Arc<dyn SyncStore>,
    /// The business tables.
    pub projection: Arc<dyn ProjectionStore>,
    /// Clears the log.
    pub retention: Arc<dyn RetentionStore>,
    /// Knows the numbers of sources.
    pub contacts: Arc<dyn ContactStore>,
    /// Knows the users.
    pub users: Arc<dyn UserStore>,
    /// Says when a row was deleted.
    pub clock: Arc<dyn Clock>,
    /// Is told of every commit.
    pub notifier: Arc<dyn Notifier>,
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Rows that were deleted.
    pub rows: u64,
    /// Entries of the log.
    pub entries: u64,
    /// Keys of entries.
    pub keys: u64,
    /// Rows whose business rows could not be deleted. Their failures say why; the rest is gone.
    pub stuck: u64,
    /// Whether nothing is left. If not, and nothing is stuck, there was no time for more, or devices keep uploading.
    pub done: bool,
}

/// Removes users. Cheap to clone.
#[derive(Clone)]
pub struct Erasure {
    ports: ErasurePorts,
    catalog: SharedCatalog,
}

impl Erasure {
    /// Removes users of this store.
    pub fn new(ports: ErasurePorts, catalog: SharedCatalog) -> Self {
        Self { ports, catalog }
    }

    /// Removes all that is kept of a user, for as long as `go_on` says so; it is asked between two steps of a kind, so that
    /// every run comes further. None if nothing is kept of a user of that id.
    pub async fn erase(
        &self,
        user: &UserId,
        mut go_on: impl FnMut(&Erased) -> bool + Send,
    ) -> Result<Option<Erased>, StoreError> {
        if self.ports.users.user(user).await?.is_none() {
            return Ok(None);
        }
        self.ports.users.begin_anew(user).await?;
        let mut erased = Erased::default();
        for _ in 0..ROUNDS_MAX {
            let whole = self.delete_rows(user, &mut erased, &mut go_on).await?
                && self.clear_log(user, &mut erased, &mut go_on).await?;
            if !whole {
                return Ok(Some(erased));
            }
            if self.ports.store.tables(user).await?.is_empty() {
                break;
            }
        }
        self.ports.users.forget_devices(user).await?;
        erased.done = erased.stuck == 0 && self.ports.users.user(user).await?.is_none();
        Ok(Some(erased))
    }

    /// Deletes rows, children first, until none is left. False if it was stopped.
    async fn delete_rows(
        &self,
        user: &UserId,
        erased: &mut Erased,
        go_on: &mut (impl FnMut(&Erased) -> bool + Send),
    ) -> Result<bool, StoreError> {
        for table in self.children_first(user).await? {
            loop {
                let query = RowsQuery { table: table.clone(), after: None, limit: BATCH };
                let found = self.ports.store.rows(user, &query).await?;
                if found.rows.is_empty() {
                    break;
                }
                erased.rows += self.delete(user, &table, &found.rows).await?;
                if !found.more {
                    break;
                }
                if !go_on(erased) {
                    return Ok(false);
                }
            }
        }
        self.retry(user).await?;
        Ok(true)
    }

    async fn children_first(&self, user: &UserId) -> Result<Vec<TableName>, StoreError> {
        let filled = self.ports.store.tables(user).await?;
        let mut ordered = parents_first(&self.catalog.current());
        ordered.reverse();
        ordered.retain(|table| filled.contains(table));
        let others = filled.into_iter().filter(|table| !ordered.contains(table)).collect::<Vec<_>>();
        Ok(others.into_iter().chain(ordered).collect())
    }

    /// Deletes these rows at the versions that they have; how many were. One that a device has changed since is not.
    async fn delete(&self, user: &UserId, table: &TableName, rows: &[LiveRow]) -> Result<u64, StoreError> {
        let ErasurePorts { store, contacts, clock, notifier, .. } = &self.ports;
        let source = SourceId::parse(SOURCE).map_err(|why| StoreError::Backend(why.to_string().into()))?;
        let used = contacts.source(user, &source).await?.highest_source_change_id;
        let submission = |(number, row): (i64, &LiveRow)| {
            let row_key = RowKey { table: table.clone(), pk: row.pk };
            let id = SourceChangeId(number);
            let change =
                Change { source_change_id: id, row: row_key, base: row.version, op: Op::Delete, parents: Vec::new() };
            Submission { source_change_id: number, change: Ok(Arc::new(change)) }
        };
        let submissions = (used.0 + 1..).zip(rows).map(submission).collect();
        let upload = Upload { source: source.clone(), submissions, atomic: false, epoch: None };
        let wanted = Wanted::of([&upload]);
        let limits = UploadLimits { changes_max: BATCH as usize, payload_bytes_max: PAYLOAD_BYTES_MAX };
        for _ in 0..ATTEMPTS_MAX {
            let mut planner = Planner::new(store.load(user, &wanted).await?, limits);
            // What was decided stands in the plan.
            let _ = planner.decide(&upload);
            let plan = planner.finish(clock.now());
            let (count, after, head) = (plan.log.len() as u64, plan.head.seq, plan.next_head());
            if count == 0 {
                return Ok(0);
            }
            match store.commit(user, plan).await {
                Err(StoreError::Contention) => tokio::time::sleep(Duration::from_millis(fastrand::u64(1..20))).await,
                committed => {
                    committed?;
                    notifier.announce(News { user: user.clone(), after, head, only: Some(source) });
                    return Ok(count);
                }
            }
        }
        Err(StoreError::Contention)
    }

    /// Tries again what could not be deleted, for as long as that helps: a row may have had to wait for one that refers
    /// to it.
    async fn retry(&self, user: &UserId) -> Result<(), StoreError> {
        let projection = &self.ports.projection;
        loop {
            let (mut after, mut helped) = (0, false);
            loop {
                let failures = projection.failures(user, &FailureFilter::default(), after, FAILURES).await?;
                let Some(last) = failures.last() else { break };
                after = last.id;
                for failure in &failures {
                    helped |= matches!(projection.retry(user, failure.id).await?, Retried::Materialized);
                }
            }
            if !helped {
                return Ok(());
            }
        }
    }

    /// Clears the log of everything, with the keys. False if it was stopped.
    async fn clear_log(
        &self,
        user: &UserId,
        erased: &mut Erased,
        go_on: &mut (impl FnMut(&Erased) -> bool + Send),
    ) -> Result<bool, StoreError> {
        let (retention, now) = (&self.ports.retention, self.ports.clock.now());
        let cutoffs = Cutoffs::new(Timestamp::MAX, Timestamp::MAX);
        let (mut from, mut attempts, mut left) = (ServerSeq(0), 0, false);
        loop {
            let step = match retention.prune(user, cutoffs, from, now).await {
                Err(StoreError::Contention) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                    continue;
                }
                step => step?,
            };
            attempts = 0;
            erased.entries += step.superseded + step.tombstones;
            left |= step.left;
            match step.next {
                Some(next) if go_on(erased) => from = next,
                Some(_) => return Ok(false),
                None => break,
            }
        }
        erased.stuck = if left { self.stuck(user).await? } else { 0 };
        loop {
            let (forgotten, _) = retention.forget_keys(user, Timestamp::MAX, BATCH).await?;
            erased.keys += forgotten;
            if forgotten < u64::from(BATCH) {
                return Ok(true);
            }
            if !go_on(erased) {
                return Ok(false);
            }
        }
    }

    async fn stuck(&self, user: &UserId) -> Result<u64, StoreError> {
        let (mut after, mut stuck) = (0, 0);
        loop {
            let failures = self.ports.projection.failures(user, &FailureFilter::default(), after, FAILURES).await?;
            let Some(last) = failures.last() else { return Ok(stuck) };
            after = last.id;
            stuck += failures.len() as u64;
        }
    }
}
