//! What is cleared of the streams. Every call is one short transaction of the writer, between those of the uploads.

use std::num::NonZeroU32;

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::retention::{PruneStep, RetentionStore, cannot_be};
use outrigger_application::ports::store::StoreError;
use outrigger_domain::retention::{Aged, Cutoffs, Fate, STEP_BYTES_MAX, STEP_ENTRIES_MAX, Sweep};
use outrigger_domain::{Epoch, RowVersion, ServerSeq, UserId};
use rusqlite::{Connection, params};
use uuid::Uuid;

use crate::SqliteStore;
use crate::error::Failure;
use crate::read::{op, parsed, payload};
use crate::transaction::Transaction;

impl SqliteStore {
    /// Runs something in a transaction of its own on the writer's connection.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        body: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let call = move |connection: &mut Connection, _: &mut _| {
            let tx = Transaction::begin(connection)?;
            let done = body(tx.connection)?;
            tx.commit()?;
            Ok(done)
        };
        self.writer.call(call).await
    }
}

#[async_trait]
impl RetentionStore for SqliteStore {
    async fn take_due(
        &self,
        after: Option<&UserId>,
        before: Timestamp,
        at: Timestamp,
        limit: u32,
    ) -> Result<Vec<UserId>, StoreError> {
        let after = after.map_or_else(String::new, |after| after.as_str().to_owned());
        self.write(move |tx| take_due(tx, &after, (before, at), limit)).await
    }

    async fn prune(
        &self,
        user: &UserId,
        cutoffs: Cutoffs,
        after: ServerSeq,
        at: Timestamp,
    ) -> Result<PruneStep, StoreError> {
        let user = user.clone();
        self.write(move |tx| prune(tx, &user, (cutoffs, after), at)).await
    }

    async fn forget_keys(&self, user: &UserId, before: Timestamp, limit: u32) -> Result<(u64, bool), StoreError> {
        let user = user.clone();
        self.write(move |tx| forget_keys(tx, &user, before, limit)).await
    }

    async fn mark_clean(&self, user: &UserId, head: ServerSeq) -> Result<(), StoreError> {
        let user = user.clone();
        let mark = move |tx: &Connection| {
            let mut statement = tx.prepare_cached("UPDATE user_stream SET clean_at = ?2 WHERE user_id = ?1")?;
            statement.execute(params![user.as_str(), head.0])?;
            Ok(())
        };
        self.write(mark).await
    }

    async fn restore_mark(&self, skip: NonZeroU32) -> Result<Epoch, StoreError> {
        let epoch = Uuid::new_v4();
        let mark = move |tx: &Connection| {
            tx.execute("UPDATE sync_epoch SET epoch = ?1", [epoch.to_string()])?;
            tx.execute("UPDATE user_stream SET epoch = NULL, last_server_id = last_server_id + ?1", [skip.get()])?;
            Ok(Epoch(epoch))
        };
        self.write(mark).await
    }
}

fn text(at: Timestamp) -> String {
    format!("{at:.6}")
}

fn take_due(
    tx: &Connection,
    after: &str,
    (before, at): (Timestamp, Timestamp),
    limit: u32,
) -> Result<Vec<UserId>, Failure> {
    let mut due = tx.prepare_cached(
        "SELECT user_id FROM user_stream WHERE user_id > ?1 AND (swept_at IS NULL OR swept_at < ?2 OR swept_at > ?4) \
         AND clean_at IS NOT last_server_id ORDER BY user_id LIMIT ?3",
    )?;
    let mut rows = due.query(params![after, text(before), limit, text(cannot_be(before, at))])?;
    let mut users = Vec::new();
    while let Some(row) = rows.next()? {
        users.push(parsed(row, 0, UserId::parse)?);
    }
    let mut take = tx.prepare_cached("UPDATE user_stream SET swept_at = ?2 WHERE user_id = ?1")?;
    for user in &users {
        take.execute(params![user.as_str(), text(at)])?;
    }
    Ok(users)
}

fn prune(
    tx: &Connection,
    user: &UserId,
    (cutoffs, after): (Cutoffs, ServerSeq),
    at: Timestamp,
) -> Result<PruneStep, Failure> {
    let (gone, mut step) = sort(tx, user, cutoffs, after)?;
    let mut floor = 0;
    for Gone { seq, fate, digest } in gone {
        if fate == Fate::Tombstone {
            step.tombstones += 1;
            floor = seq.0;
            forget_row(tx, user, seq)?;
        } else {
            step.superseded += 1;
        }
        remember_key(tx, user, seq, (digest, at))?;
        tx.prepare_cached("DELETE FROM server_change_log WHERE user_id = ?1 AND server_id = ?2")?
            .execute(params![user.as_str(), seq.0])?;
    }
    if step.tombstones > 0 {
        let mut moved = tx.prepare_cached(
            "UPDATE user_stream SET last_server_id = last_server_id + 1, kept_moved_at = last_server_id + 1, \
             kept_floor = max(kept_floor, ?2) WHERE user_id = ?1",
        )?;
        moved.execute(params![user.as_str(), floor])?;
    }
    Ok(step)
}

/// An entry that goes.
struct Gone {
    seq: ServerSeq,
    fate: Fate,
    digest: Option<[u8; 32]>,
}

/// Sorts the entries of one step. Gives those that go, and the step with nothing counted yet.
fn sort(tx: &Connection, user: &UserId, cutoffs: Cutoffs, after: ServerSeq) -> Result<(Vec<Gone>, PruneStep), Failure> {
    let mut head = tx.prepare_cached("SELECT last_server_id FROM user_stream WHERE user_id = ?1")?;
    let mut heads = head.query([user.as_str()])?;
    let Some(row) = heads.next()? else { return Ok((Vec::new(), PruneStep::default())) };
    let mut step = PruneStep { head: ServerSeq(row.get(0)?), ..PruneStep::default() };
    let mut statement = tx.prepare_cached(
        "SELECT log.server_id, log.ts, log.op, log.server_version, meta.server_version, meta.projected, \
         CASE WHEN log.server_version < meta.server_version THEN log.payload END \
         FROM server_change_log AS log CROSS JOIN sync_row_meta AS meta ON meta.user_id = log.user_id \
         AND meta.schema_name = log.schema_name AND meta.table_name = log.table_name AND meta.pk_uuid = log.pk_uuid \
         WHERE log.user_id = ?1 AND log.server_id > ?2 ORDER BY log.server_id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![user.as_str(), after.0, STEP_ENTRIES_MAX])?;
    let (mut sweep, mut gone) = (Sweep::new(cutoffs), Vec::new());
    let (mut seen, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let entry = Aged {
            server_id: ServerSeq(row.get(0)?),
            at: parsed(row, 1, str::parse)?,
            op: op(row, 2)?,
            version: RowVersion(row.get(3)?),
            row_version: RowVersion(row.get(4)?),
            is_projected: row.get(5)?,
        };
        let Some(fate) = sweep.fate(&entry) else { break };
        if fate != Fate::Kept {
            let payload = payload(row, 6)?;
            bytes += payload.as_ref().map_or(0, |payload| payload.as_str().len());
            gone.push(Gone { seq: entry.server_id, fate, digest: payload.map(|payload| *payload.digest()) });
        }
        seen += 1;
        if seen == STEP_ENTRIES_MAX || bytes >= STEP_BYTES_MAX {
            step.next = Some(entry.server_id);
            break;
        }
    }
    step.left = sweep.left;
    Ok((gone, step))
}

/// Remembers the key of an entry that goes, in place of what its change may have been settled as before.
fn remember_key(
    tx: &Connection,
    user: &UserId,
    seq: ServerSeq,
    (digest, at): (Option<[u8; 32]>, Timestamp),
) -> Result<(), Failure> {
    let mut remember = tx.prepare_cached(
        "INSERT INTO sync_pruned_key (user_id, source_id, source_change_id, op, schema_name, table_name, pk_uuid, \
         digest, server_version, pruned_at) \
         SELECT user_id, source_id, source_change_id, op, schema_name, table_name, pk_uuid, ?3, server_version, ?4 \
         FROM server_change_log WHERE user_id = ?1 AND server_id = ?2 \
         ON CONFLICT (user_id, source_id, source_change_id) DO UPDATE SET op = excluded.op, \
         schema_name = excluded.schema_name, table_name = excluded.table_name, pk_uuid = excluded.pk_uuid, \
         digest = excluded.digest, server_version = excluded.server_version, pruned_at = excluded.pruned_at, \
         unlogged = NULL",
    )?;
    remember.execute(params![user.as_str(), seq.0, digest, text(at)])?;
    Ok(())
}

/// Forgets the row of a deletion, and its failures, which there is nothing left to try again for.
fn forget_row(tx: &Connection, user: &UserId, seq: ServerSeq) -> Result<(), Failure> {
    for table in ["sync_row_meta", "materialize_failures"] {
        let mut forget = tx.prepare_cached(&format!(
            "DELETE FROM {table} WHERE user_id = ?1 AND (schema_name, table_name, pk_uuid) = \
             (SELECT schema_name, table_name, pk_uuid FROM server_change_log WHERE user_id = ?1 AND server_id = ?2)",
        ))?;
        forget.execute(params![user.as_str(), seq.0])?;
    }
    Ok(())
}

fn forget_keys(tx: &Connection, user: &UserId, before: Timestamp, limit: u32) -> Result<(u64, bool), Failure> {
    let mut old = tx.prepare_cached(
        "SELECT source_id, source_change_id FROM sync_pruned_key AS key WHERE user_id = ?1 AND pruned_at < ?2 \
         AND NOT EXISTS (SELECT 1 FROM sync_row_meta AS meta WHERE meta.user_id = key.user_id \
         AND meta.schema_name = key.schema_name AND meta.table_name = key.table_name AND meta.pk_uuid = key.pk_uuid) \
         LIMIT ?3",
    )?;
    let keys = old.query_map(params![user.as_str(), text(before), limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let keys: Vec<(String, i64)> = keys.collect::<Result<_, _>>()?;
    let mut note = tx.prepare_cached(
        "INSERT INTO sync_source (user_id, source_id, forgotten_id) VALUES (?1, ?2, ?3) \
         ON CONFLICT (user_id, source_id) DO UPDATE SET forgotten_id = max(forgotten_id, excluded.forgotten_id)",
    )?;
    let mut forget = tx.prepare_cached(
        "DELETE FROM sync_pruned_key WHERE user_id = ?1 AND source_id = ?2 AND source_change_id = ?3",
    )?;
    for (source, id) in &keys {
        note.execute(params![user.as_str(), source, id])?;
        forget.execute(params![user.as_str(), source, id])?;
    }
    let mut left = tx.prepare_cached("SELECT 1 FROM sync_pruned_key WHERE user_id = ?1 LIMIT 1")?;
    Ok((keys.len() as u64, left.exists([user.as_str()])?))
}
