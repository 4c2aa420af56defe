//! The port [`ProjectionStore`].

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::projection::{
    Failure as Recorded, FailureFilter, ProjectionStore, RebuildCursor, RebuildStep, Retried,
};
use outrigger_application::ports::store::StoreError;
use outrigger_domain::{Reference, RowKey, TableName, UserId};
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::careful::Outcome;
use super::{Listed, careful, failures};
use crate::SqliteStore;
use crate::error::Failure;
use crate::read::parsed;

#[async_trait]
impl ProjectionStore for SqliteStore {
    async fn refresh_catalog(&self) -> Result<Vec<(TableName, Reference)>, StoreError> {
        let refresh = |connection: &mut Connection, projection: &mut super::Projection| {
            projection.refresh(connection)?;
            Ok(projection.references().to_vec())
        };
        self.writer.call(refresh).await
    }

    async fn failures(
        &self,
        user: &UserId,
        filter: &FailureFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Recorded>, StoreError> {
        let (user, filter) = (user.clone(), filter.clone());
        self.readers.read(move |tx| failures::of_user(tx, &user, &filter, (after, limit))).await
    }

    async fn all_failures(
        &self,
        filter: &FailureFilter,
        after: Option<(UserId, i64)>,
        limit: u32,
    ) -> Result<Vec<Recorded>, StoreError> {
        let filter = filter.clone();
        self.readers.read(move |tx| failures::of_all(tx, &filter, (after.as_ref(), limit))).await
    }

    /// Never [`Retried::InProgress`]: the writer does one thing at a time, and so do those of other processes.
    async fn retry(&self, user: &UserId, id: i64) -> Result<Retried, StoreError> {
        let user = user.clone();
        let retry = move |connection: &mut Connection, projection: &mut super::Projection| {
            let Some(found) = failures::find(connection, &user, id)? else { return Ok(Retried::Unknown) };
            let task = Listed { user, at: found.first_seen, keys: vec![found.row], retried: Some(id) };
            let outcome = careful::run(connection, projection, &task)?;
            if outcome == Outcome::default() {
                // Of a row that is forgotten nothing is left to be tried.
                failures::remove(connection, &task.user, id)?;
                return Ok(Retried::Unknown);
            }
            if outcome.failed == 0 {
                return Ok(Retried::Materialized);
            }
            Ok(failures::find(connection, &task.user, id)?.map_or(Retried::Unknown, Retried::Failed))
        };
        self.writer.call(retry).await
    }

    async fn rebuild(
        &self,
        table: &TableName,
        after: Option<RebuildCursor>,
        limit: u32,
        at: Timestamp,
    ) -> Result<RebuildStep, StoreError> {
        let wanted = table.clone();
        let mut rows = self.readers.read(move |tx| list(tx, &wanted, after.as_ref(), limit)).await?;
        let mut step = RebuildStep::default();
        if rows.len() > limit as usize {
            rows.truncate(limit as usize);
            step.next = rows.last().map(|(user, pk)| RebuildCursor { user: user.clone(), pk: *pk });
        }
        for of_user in rows.chunk_by(|a, b| a.0 == b.0) {
            let key = |pk: &Uuid| RowKey { table: table.clone(), pk: *pk };
            let keys = of_user.iter().map(|(_, pk)| key(pk)).collect();
            let task = Listed { user: of_user[0].0.clone(), at, keys, retried: None };
            // One call per user: uploads get their turn between them.
            let wanted = table.clone();
            let run = move |connection: &mut Connection, projection: &mut super::Projection| {
                projection.look_again(connection)?;
                let is_projected = projection.covers(&wanted);
                if is_projected { careful::run(connection, projection, &task) } else { Ok(Outcome::default()) }
            };
            let outcome = self.writer.call(run).await?;
            step.projected += outcome.projected as u64;
            step.failed += outcome.failed as u64;
        }
        Ok(step)
    }
}

/// The first rows of a table behind the cursor, one more than the limit. Tombstones count only where the business row
/// may still be there: one that was never ours may be another user's now.
fn list(
    tx: &Connection,
    table: &TableName,
    after: Option<&RebuildCursor>,
    limit: u32,
) -> Result<Vec<(UserId, Uuid)>, Failure> {
    // User by user, since every key leads with the user.
    let mut statement = tx.prepare_cached(
        "SELECT meta.user_id, meta.pk_uuid FROM user_stream AS stream CROSS JOIN sync_row_meta AS meta \
         ON meta.user_id = stream.user_id AND meta.schema_name = ?1 AND meta.table_name = ?2 \
         WHERE stream.user_id >= ?3 AND (stream.user_id > ?3 OR meta.pk_uuid > ?4) AND (meta.projected OR NOT meta.deleted) \
         ORDER BY stream.user_id, meta.pk_uuid LIMIT ?5",
    )?;
    let (user, pk) = after.map_or(("", String::new()), |after| (after.user.as_str(), after.pk.to_string()));
    let mut rows = statement.query(params![table.schema(), table.table(), user, pk, i64::from(limit) + 1])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((parsed(row, 0, UserId::parse)?, parsed(row, 1, Uuid::try_parse)?));
    }
    Ok(found)
}
