//! The table `materialize_failures`.

use jiff::Timestamp;
use outrigger_application::measures;
use outrigger_application::ports::projection::{Failure as Recorded, FailureFilter};
use outrigger_domain::{RowKey, RowVersion, UserId};
use rusqlite::{Connection, Row as Found, params};

use super::Row;
use crate::commit::{buffer, text};
use crate::error::Failure;
use crate::read::{op, parsed, payload, row_key};

const COLUMNS: &str = "user_id, id, schema_name, table_name, pk_uuid, attempted_version, op, error, first_seen, \
                       retry_count, payload";

/// Whether the user has a failure.
pub(super) fn any(tx: &Connection, user: &UserId) -> Result<bool, Failure> {
    Ok(tx.prepare_cached("SELECT 1 FROM materialize_failures WHERE user_id = ?1")?.exists([user.as_str()])?)
}

/// Removes one failure.
pub(super) fn remove(tx: &Connection, user: &UserId, id: i64) -> Result<(), Failure> {
    let mut statement = tx.prepare_cached("DELETE FROM materialize_failures WHERE user_id = ?1 AND id = ?2")?;
    statement.execute(params![user.as_str(), id])?;
    Ok(())
}

/// Removes all failures of a row.
pub(super) fn clear(tx: &Connection, user: &UserId, key: &RowKey) -> Result<(), Failure> {
    let mut statement = tx.prepare_cached(
        "DELETE FROM materialize_failures WHERE user_id = ?1 AND schema_name = ?2 AND table_name = ?3 AND pk_uuid = ?4",
    )?;
    let (table, mut buffer) = (&key.table, buffer());
    statement.execute(params![user.as_str(), table.schema(), table.table(), text(key.pk, &mut buffer)])?;
    Ok(())
}

/// Records that a row was not projected: anew, or as one attempt more at the same version.
pub(super) fn record(tx: &Connection, user: &UserId, row: &Row, (error, at): (&str, Timestamp)) -> Result<(), Failure> {
    measures::not_projected(&row.key.table);
    let (table, mut buffer) = (&row.key.table, buffer());
    let (user, schema, name, pk) = (user.as_str(), table.schema(), table.table(), text(row.key.pk, &mut buffer));
    let mut again = tx.prepare_cached(
        "UPDATE materialize_failures SET retry_count = retry_count + 1, error = ?6 WHERE user_id = ?1 \
         AND schema_name = ?2 AND table_name = ?3 AND pk_uuid = ?4 AND attempted_version = ?5",
    )?;
    if again.execute(params![user, schema, name, pk, row.version.0, error])? == 1 {
        return Ok(());
    }
    let mut number = tx.prepare_cached(
        "UPDATE user_stream SET last_failure_id = last_failure_id + 1 WHERE user_id = ?1 RETURNING last_failure_id",
    )?;
    let id: i64 = number.query_row([user], |row| row.get(0))?;
    let insert =
        format!("INSERT INTO materialize_failures ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?10)");
    let (op, payload) = (row.op.as_str(), row.payload.as_ref().map(|payload| payload.as_str()));
    let values = params![user, id, schema, name, pk, row.version.0, op, error, format!("{at:.6}"), payload];
    tx.prepare_cached(&insert)?.execute(values)?;
    Ok(())
}

/// Counts an attempt of a failure whose row is at another version by now.
pub(super) fn count_up(
    tx: &Connection,
    user: &UserId,
    id: i64,
    (version, error): (RowVersion, &str),
) -> Result<(), Failure> {
    let mut statement = tx.prepare_cached(
        "UPDATE materialize_failures SET retry_count = retry_count + 1, error = ?4 WHERE user_id = ?1 AND id = ?2 \
         AND attempted_version <> ?3",
    )?;
    statement.execute(params![user.as_str(), id, version.0, error])?;
    Ok(())
}

/// One failure.
pub(crate) fn find(tx: &Connection, user: &UserId, id: i64) -> Result<Option<Recorded>, Failure> {
    let sql = format!("SELECT {COLUMNS} FROM materialize_failures WHERE user_id = ?1 AND id = ?2");
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![user.as_str(), id])?;
    rows.next()?.map(read).transpose()
}

/// The failures of one user behind an id.
pub(crate) fn of_user(
    tx: &Connection,
    user: &UserId,
    filter: &FailureFilter,
    (after, limit): (i64, u32),
) -> Result<Vec<Recorded>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS} FROM materialize_failures WHERE user_id = ?1 AND id > ?2 AND (?3 IS NULL OR schema_name = ?3) \
         AND (?4 IS NULL OR table_name = ?4) ORDER BY id LIMIT ?5"
    );
    let mut statement = tx.prepare_cached(&sql)?;
    collect(statement.query(params![user.as_str(), after, filter.schema, filter.table, limit])?)
}

/// The failures of all users behind one.
pub(crate) fn of_all(
    tx: &Connection,
    filter: &FailureFilter,
    (after, limit): (Option<&(UserId, i64)>, u32),
) -> Result<Vec<Recorded>, Failure> {
    let sql = format!(
        "SELECT {COLUMNS} FROM materialize_failures WHERE (user_id, id) > (?1, ?2) AND (?3 IS NULL OR schema_name = ?3) \
         AND (?4 IS NULL OR table_name = ?4) ORDER BY user_id, id LIMIT ?5"
    );
    // Every user id is behind the empty one.
    let (user, id) = after.map_or(("", 0), |(user, id)| (user.as_str(), *id));
    let mut statement = tx.prepare_cached(&sql)?;
    collect(statement.query(params![user, id, filter.schema, filter.table, limit])?)
}

fn collect(mut rows: rusqlite::Rows<'_>) -> Result<Vec<Recorded>, Failure> {
    let mut failures = Vec::new();
    while let Some(row) = rows.next()? {
        failures.push(read(row)?);
    }
    Ok(failures)
}

fn read(row: &Found<'_>) -> Result<Recorded, Failure> {
    Ok(Recorded {
        user: parsed(row, 0, UserId::parse)?,
        id: row.get(1)?,
        row: row_key(row, 2)?,
        attempted_version: RowVersion(row.get(5)?),
        op: op(row, 6)?,
        error: row.get(7)?,
        first_seen: parsed(row, 8, str::parse)?,
        retry_count: row.get(9)?,
        payload: payload(row, 10)?,
    })
}
