//! The record of what could not be projected.

use std::collections::BTreeMap;

use jiff::Timestamp;
use outrigger_application::ports::projection::{Failure, FailureFilter};
use outrigger_application::{StoreError, measures};
use outrigger_domain::change::OpKind;
use outrigger_domain::{Payload, RowKey, RowVersion, TableName, UserId};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::values::NetChange;
use crate::error::{corrupt, from_sqlx};
use crate::session::Sessions;
use crate::timestamp::TimestampTz;

/// Counts up what is recorded, and numbers what is new. The caller's transaction holds the user's row of `user_stream`,
/// so that nobody else numbers failures of the user.
const RECORD: &str = "
WITH f AS MATERIALIZED (
    SELECT $1::text AS user_id, u.*
    FROM unnest($3::text[], $4::text[], $5::uuid[], $6::int8[], $7::text[], $8::text[], $9::text[])
         WITH ORDINALITY AS u (schema_name, table_name, pk, version, op, payload, error, place)
), again AS (
    UPDATE sync.materialize_failures m SET retry_count = m.retry_count + 1, error = f.error FROM f
    WHERE m.user_id = f.user_id AND m.schema_name = f.schema_name AND m.table_name = f.table_name
      AND m.pk_uuid = f.pk AND m.attempted_version = f.version
    RETURNING f.place
), fresh AS MATERIALIZED (
    SELECT f.*, row_number() OVER (ORDER BY f.place) AS n FROM f WHERE f.place NOT IN (SELECT place FROM again)
), counted AS (
    UPDATE sync.user_stream SET last_failure_id = last_failure_id + (SELECT count(*) FROM fresh)
    WHERE user_id = $1::text
    RETURNING last_failure_id - (SELECT count(*) FROM fresh) AS before
)
INSERT INTO sync.materialize_failures (
    user_id, id, schema_name, table_name, pk_uuid, attempted_version, op, payload, error, first_seen
)
SELECT user_id, before + n, schema_name, table_name, pk, version, op, payload::json, error, $2
FROM fresh CROSS JOIN counted";

/// The columns of a failure, in the order in which [`read`] takes them.
pub(crate) const COLUMNS: &str = "id, user_id, schema_name, table_name, pk_uuid, attempted_version, op, payload::text, error, first_seen, retry_count";

const OF_USER: &str = "
FROM sync.materialize_failures
WHERE user_id = $1 AND id > $2 AND ($3::text IS NULL OR schema_name = $3) AND ($4::text IS NULL OR table_name = $4)
ORDER BY user_id, id LIMIT $5";
const OF_ALL: &str = "
FROM sync.materialize_failures
WHERE (user_id, id) > ($1, $2) AND ($3::text IS NULL OR schema_name = $3) AND ($4::text IS NULL OR table_name = $4)
ORDER BY user_id, id LIMIT $5";

/// Records the rows at these positions.
pub(crate) async fn record(
    tx: &mut PgConnection,
    user: &UserId,
    at: Timestamp,
    (rows, failed): (&[NetChange<'_>], &BTreeMap<usize, String>),
) -> Result<(), sqlx::Error> {
    if failed.is_empty() {
        return Ok(());
    }
    let rows: Vec<&NetChange<'_>> = failed.keys().map(|&position| &rows[position]).collect();
    tracing::warn!(user.id = user.as_str(), rows = rows.len(), "rows could not be projected");
    rows.iter().for_each(|row| measures::not_projected(&row.key.table));
    sqlx::query(RECORD)
        .bind(user.as_str())
        .bind(TimestampTz(at))
        .bind(rows.iter().map(|row| row.key.table.schema()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.key.table.table()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.key.pk).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.version.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.op.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.payload.map(|payload| payload.as_str())).collect::<Vec<_>>())
        .bind(failed.values().map(|why| why.replace('\0', "")).collect::<Vec<_>>())
        .execute(tx)
        .await
        .map(drop)
}

/// The failures of one user, or behind one of all users.
pub(crate) async fn list(
    sessions: &Sessions,
    filter: &FailureFilter,
    (user, after, limit): (Option<&UserId>, Option<(UserId, i64)>, u32),
) -> Result<Vec<Failure>, StoreError> {
    let from = if user.is_some() { OF_USER } else { OF_ALL };
    let (behind, after) = after.map_or((None, 0), |(user, id)| (Some(user), id));
    let name = user.or(behind.as_ref()).map_or("", UserId::as_str);
    let statement = sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS}{from}")))
        .bind(name)
        .bind(after)
        .bind(filter.schema.as_deref())
        .bind(filter.table.as_deref())
        .bind(i64::from(limit));
    sessions.rows(statement).await.map_err(from_sqlx)?.iter().map(read).collect()
}

/// Reads a failure.
pub(crate) fn read(row: &PgRow) -> Result<Failure, StoreError> {
    let text = |column: usize| row.try_get::<String, _>(column).map_err(from_sqlx);
    let unreadable = || corrupt("a recorded failure cannot be read");
    let at: TimestampTz = row.try_get(9).map_err(from_sqlx)?;
    let payload: Option<String> = row.try_get(7).map_err(from_sqlx)?;
    let table = TableName::parse(Some(&text(2)?), &text(3)?).map_err(|_| unreadable())?;
    Ok(Failure {
        id: row.try_get(0).map_err(from_sqlx)?,
        user: UserId::parse(&text(1)?).map_err(|_| unreadable())?,
        row: RowKey { table, pk: row.try_get(4).map_err(from_sqlx)? },
        attempted_version: RowVersion(row.try_get(5).map_err(from_sqlx)?),
        op: OpKind::parse(&text(6)?).ok_or_else(unreadable)?,
        payload: payload.map(|text| Payload::from_text(text).ok_or_else(unreadable)).transpose()?,
        error: text(8)?,
        first_seen: at.0,
        retry_count: row.try_get(10).map_err(from_sqlx)?,
    })
}
