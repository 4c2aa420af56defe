//! The statements that write one plan.

use outrigger_application::ports::store::StoreError;
use outrigger_domain::{Plan, TableName, Unlogged, UserId};
use rusqlite::{Connection, params};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::error::Failure;

/// Writes the plan, or fails with [`StoreError::Contention`] before anything is written. After any other
/// failure the transaction holds part of the plan and must be rolled back.
///
/// New rows of the tables that `projects` names are noted as projected: the same transaction does so, or is rolled back.
pub(crate) fn write(
    tx: &Connection,
    user: &UserId,
    plan: &Plan,
    projects: impl Fn(&TableName) -> bool,
) -> Result<(), Failure> {
    let at = format!("{:.6}", plan.at);
    advance(tx, user, plan)?;
    append(tx, user, plan, &at)?;
    remember_unlogged(tx, user, plan, &at)?;
    put_rows(tx, user, plan, (&at, projects))
}

/// Moves the end of the stream: the compare and swap on which all of a user's order rests. Without an entry it stays
/// where it is, and has something to be swept again.
fn advance(tx: &Connection, user: &UserId, plan: &Plan) -> Result<(), Failure> {
    let (before, after) = (plan.head.seq.0, plan.next_head().0);
    let moved = if before == 0 {
        // A user of whom nothing was logged yet may have a stream that ends at 0.
        let mut begin = tx.prepare_cached(
            "INSERT INTO user_stream (user_id, last_server_id) VALUES (?1, ?2) ON CONFLICT (user_id) DO UPDATE \
             SET last_server_id = excluded.last_server_id, clean_at = NULL WHERE last_server_id = 0",
        )?;
        begin.execute(params![user.as_str(), after])?
    } else {
        let mut swap = tx.prepare_cached(
            "UPDATE user_stream SET last_server_id = ?3, clean_at = NULL WHERE user_id = ?1 AND last_server_id = ?2",
        )?;
        swap.execute(params![user.as_str(), before, after])?
    };
    if moved == 1 { Ok(()) } else { Err(Failure(StoreError::Contention)) }
}

fn append(tx: &Connection, user: &UserId, plan: &Plan, at: &str) -> Result<(), Failure> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO server_change_log (user_id, server_id, schema_name, table_name, op, pk_uuid, source_id, \
         source_change_id, server_version, ts, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    for entry in &plan.log {
        let change = &entry.change;
        insert.execute(params![
            user.as_str(),
            entry.server_id.0,
            change.row.table.schema(),
            change.row.table.table(),
            change.op.kind().as_str(),
            text(change.row.pk, &mut buffer()),
            entry.source.as_str(),
            change.source_change_id.0,
            entry.version.0,
            at,
            change.op.payload().map(|payload| payload.as_str()),
        ])?;
    }
    Ok(())
}

fn remember_unlogged(tx: &Connection, user: &UserId, plan: &Plan, at: &str) -> Result<(), Failure> {
    if plan.unlogged.is_empty() {
        return Ok(());
    }
    // The key of an entry that was pruned stays one.
    let mut remember = tx.prepare_cached(
        "INSERT INTO sync_pruned_key (user_id, source_id, source_change_id, op, schema_name, table_name, pk_uuid, \
         digest, server_version, pruned_at, unlogged) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, zeroblob(32), ?8, ?9, ?10) \
         ON CONFLICT (user_id, source_id, source_change_id) DO UPDATE SET op = excluded.op, \
         schema_name = excluded.schema_name, table_name = excluded.table_name, pk_uuid = excluded.pk_uuid, \
         server_version = excluded.server_version, pruned_at = excluded.pruned_at, unlogged = excluded.unlogged \
         WHERE unlogged IS NOT NULL",
    )?;
    for ((source, id), Unlogged { op, row, base, settled }) in &plan.unlogged {
        let (table, mut buffer) = (&row.table, buffer());
        let (schema, name, pk) = (table.schema(), table.table(), text(row.pk, &mut buffer));
        let key = (user.as_str(), source.as_str(), id.0);
        let settled = settled.as_str();
        remember.execute(params![key.0, key.1, key.2, op.as_str(), schema, name, pk, base.0, at, settled])?;
    }
    Ok(())
}

fn put_rows(
    tx: &Connection,
    user: &UserId,
    plan: &Plan,
    (at, projects): (&str, impl Fn(&TableName) -> bool),
) -> Result<(), Failure> {
    let mut insert_meta = tx.prepare_cached(
        "INSERT INTO sync_row_meta (user_id, schema_name, table_name, pk_uuid, server_version, deleted, updated_at, \
         projected) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let mut update_meta = tx.prepare_cached(
        "UPDATE sync_row_meta SET server_version = ?5, deleted = ?6, updated_at = ?7 WHERE user_id = ?1 \
         AND schema_name = ?2 AND table_name = ?3 AND pk_uuid = ?4 AND server_version < ?5",
    )?;
    let mut put_state = tx.prepare_cached(
        "INSERT INTO sync_state (user_id, schema_name, table_name, pk_uuid, payload) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (user_id, schema_name, table_name, pk_uuid) DO UPDATE SET payload = excluded.payload",
    )?;
    let mut delete_state = tx.prepare_cached(
        "DELETE FROM sync_state WHERE user_id = ?1 AND schema_name = ?2 AND table_name = ?3 AND pk_uuid = ?4",
    )?;
    for effect in &plan.rows {
        let entry = &plan.log[effect.entry];
        let (table, payload) = (&entry.change.row.table, entry.change.op.payload());
        let mut buffer = buffer();
        let (user, schema, name) = (user.as_str(), table.schema(), table.table());
        let pk = text(entry.change.row.pk, &mut buffer);
        let (version, deleted) = (entry.version.0, payload.is_none());
        let put = if effect.known {
            update_meta.execute(params![user, schema, name, pk, version, deleted, at])?
        } else {
            let projected = !deleted && projects(table);
            insert_meta.execute(params![user, schema, name, pk, version, deleted, at, projected])?
        };
        if put != 1 {
            let seq = entry.server_id;
            return Err(Failure::corrupt(format_args!("change {seq} is of a row whose version is not as planned")));
        }
        if let Some(payload) = payload {
            put_state.execute(params![user, schema, name, pk, payload.as_str()])?;
        } else if effect.known {
            delete_state.execute(params![user, schema, name, pk])?;
        }
    }
    Ok(())
}

/// Room for a UUID's text.
pub(crate) fn buffer() -> [u8; Hyphenated::LENGTH] {
    [0; Hyphenated::LENGTH]
}

/// A UUID as it stands in the tables, with nothing allocated.
pub(crate) fn text(uuid: Uuid, buffer: &mut [u8; Hyphenated::LENGTH]) -> &str {
    uuid.hyphenated().encode_lower(buffer)
}
