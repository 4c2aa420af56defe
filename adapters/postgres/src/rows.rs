//! The rows of a user as they are.

use outrigger_application::StoreError;
use outrigger_application::ports::store::{LiveRow, Rows, RowsQuery};
use outrigger_domain::limits::PAGE_BYTES_MAX;
use outrigger_domain::{Epoch, Payload, RowVersion, ServerSeq, StreamHead, TableName, UserId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::error::{corrupt, from_sqlx};
use crate::session::Sessions;

/// One statement, and so one snapshot. The end of the stream stands in every row, and alone where there are none.
/// `found` says how many rows there were before those beyond the bytes of a page were left out.
const ROWS: &str = "
SELECT h.head, h.epoch, r.found, r.pk_uuid, r.server_version, r.payload
FROM (
    SELECT coalesce(s.last_server_id, 0) AS head, coalesce(s.epoch, e.epoch) AS epoch
    FROM sync.sync_epoch e LEFT JOIN sync.user_stream s ON s.user_id = $1
    WHERE e.is_present
) h
LEFT JOIN LATERAL (
    SELECT w.*
    FROM (
        SELECT l.*, sum(octet_length(l.payload)) OVER (ORDER BY l.pk_uuid) AS bytes, count(*) OVER () AS found
        FROM (
            SELECT s.pk_uuid, m.server_version, s.payload::text AS payload
            FROM (
                SELECT pk_uuid, payload
                FROM sync.sync_state
                WHERE user_id = $1 AND schema_name = $2 AND table_name = $3
                  AND pk_uuid >= coalesce($4, '00000000-0000-0000-0000-000000000000') AND pk_uuid IS DISTINCT FROM $4
                ORDER BY pk_uuid
                LIMIT $5
            ) s
            CROSS JOIN LATERAL (
                SELECT server_version
                FROM sync.sync_row_meta
                WHERE user_id = $1 AND schema_name = $2 AND table_name = $3 AND pk_uuid = s.pk_uuid
                LIMIT 1
            ) m
        ) l
    ) w
    WHERE w.bytes - octet_length(w.payload) < $6
) r ON true";

/// The first rows of a table that match the query.
pub(crate) async fn rows(sessions: &Sessions, user: &UserId, query: &RowsQuery) -> Result<Rows, StoreError> {
    let limit = query.limit as usize;
    let statement = sqlx::query(ROWS)
        .bind(user.as_str())
        .bind(query.table.schema())
        .bind(query.table.table())
        .bind(query.after)
        // One more than asked for, to know whether there are more.
        .bind(i64::from(query.limit) + 1)
        .bind(PAGE_BYTES_MAX as i64);
    let answer = sessions.rows(statement).await.map_err(from_sqlx)?;
    let first = answer.first().ok_or_else(|| corrupt("the table sync.sync_epoch is empty"))?;
    let head = head(first).map_err(from_sqlx)?;
    let found: Option<i64> = first.try_get(2).map_err(from_sqlx)?;
    let mut rows = Vec::with_capacity(answer.len());
    for row in answer.iter().filter(|_| found.is_some()) {
        rows.push(read(row)?);
    }
    // The order of a subquery is kept in practice, but not by promise.
    rows.sort_unstable_by_key(|row| row.pk);
    rows.truncate(limit);
    Ok(Rows { head, more: found.unwrap_or(0) as usize > rows.len(), rows })
}

fn head(row: &PgRow) -> Result<StreamHead, sqlx::Error> {
    Ok(StreamHead { seq: ServerSeq(row.try_get(0)?), epoch: Epoch(row.try_get(1)?) })
}

fn read(row: &PgRow) -> Result<LiveRow, StoreError> {
    let columns =
        || -> Result<(Uuid, i64, String), sqlx::Error> { Ok((row.try_get(3)?, row.try_get(4)?, row.try_get(5)?)) };
    let (pk, version, text) = columns().map_err(from_sqlx)?;
    let payload = Payload::from_text(text).ok_or_else(|| corrupt(format!("the payload of row {pk} is no object")))?;
    Ok(LiveRow { pk, version: RowVersion(version), payload })
}

/// One look-up for each table, whatever it holds.
const TABLES: &str = "
WITH RECURSIVE found AS (
    (
        SELECT schema_name, table_name FROM sync.sync_state
        WHERE user_id = $1
        ORDER BY schema_name, table_name LIMIT 1
    )
    UNION ALL
    SELECT n.schema_name, n.table_name
    FROM found f CROSS JOIN LATERAL (
        SELECT schema_name, table_name FROM sync.sync_state
        WHERE user_id = $1 AND (schema_name, table_name) > (f.schema_name, f.table_name)
        ORDER BY schema_name, table_name LIMIT 1
    ) n
)
SELECT schema_name, table_name FROM found";

/// The tables of which there are rows.
pub(crate) async fn tables(sessions: &Sessions, user: &UserId) -> Result<Vec<TableName>, StoreError> {
    let answer = sessions.rows(sqlx::query(TABLES).bind(user.as_str())).await.map_err(from_sqlx)?;
    let table = |row: &PgRow| {
        let (schema, table): (&str, &str) = (row.try_get(0).map_err(from_sqlx)?, row.try_get(1).map_err(from_sqlx)?);
        TableName::parse(Some(schema), table).map_err(|_| corrupt(format!("{schema:?}.{table:?} is no table")))
    };
    answer.iter().map(table).collect()
}
