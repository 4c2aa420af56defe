//! A page of a stream, with the stream's end as of the same moment.

use outrigger_application::StoreError;
use outrigger_domain::change::OpKind;
use outrigger_domain::ids::BadId;
use outrigger_domain::limits::PAGE_BYTES_MAX;
use outrigger_domain::stream::StreamChange;
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{
    Epoch, Kept, Payload, RowKey, RowVersion, ServerSeq, SourceChangeId, SourceId, StreamHead, TableName, UserId,
};
use sqlx::postgres::PgRow;
use sqlx::{Row, ValueRef};

use crate::error::{corrupt, from_sqlx};
use crate::session::Sessions;
use crate::timestamp::TimestampTz;

/// One statement, and so one snapshot. The end of the stream stands in a row of its own, which is the first.
///
/// Whether all that matches fits a page is asked before: only where it does not are bytes counted from row to row, which
/// takes a copy of every row. Then `found` says how many there were before those beyond the page were left out.
const PAGE: &str = "
WITH h AS (
    SELECT coalesce(s.last_server_id, 0) AS head, coalesce(s.epoch, e.epoch) AS epoch,
           coalesce(s.kept_floor, 0) AS floor, coalesce(s.kept_moved_at, 0) AS moved_at,
           coalesce((
               SELECT sum(octet_length(l.payload::text)) FROM (
                   SELECT payload
                   FROM sync.server_change_log
                   WHERE user_id = $1 AND server_id > $2 AND server_id <= $3
                     AND ($4::text IS NULL OR schema_name = $4) AND ($5::text IS NULL OR source_id <> $5)
                   ORDER BY server_id
                   LIMIT $6
               ) l
           ), 0) < $7 AS fits
    FROM sync.sync_epoch e LEFT JOIN sync.user_stream s ON s.user_id = $1
    WHERE e.is_present
)
SELECT head AS server_id, NULL::text AS schema_name, NULL::text AS table_name, NULL::text AS op, epoch AS pk_uuid,
       NULL::text AS payload, NULL::text AS source_id, floor AS source_change_id, moved_at AS server_version,
       NULL::timestamptz AS ts, NULL::int8 AS found
FROM h
UNION ALL
SELECT * FROM (
    SELECT server_id, schema_name, table_name, op, pk_uuid, payload::text, source_id, source_change_id, server_version,
           ts, NULL::int8
    FROM sync.server_change_log
    WHERE (SELECT fits FROM h) AND user_id = $1 AND server_id > $2 AND server_id <= $3
      AND ($4::text IS NULL OR schema_name = $4) AND ($5::text IS NULL OR source_id <> $5)
    ORDER BY server_id
    LIMIT $6
) whole
UNION ALL
SELECT server_id, schema_name, table_name, op, pk_uuid, payload, source_id, source_change_id, server_version, ts, found
FROM (
    SELECT l.*, sum(octet_length(l.payload)) OVER (ORDER BY l.server_id) AS bytes, count(*) OVER () AS found
    FROM (
        SELECT server_id, schema_name, table_name, op, pk_uuid, payload::text AS payload, source_id,
               source_change_id, server_version, ts
        FROM sync.server_change_log
        WHERE NOT (SELECT fits FROM h) AND user_id = $1 AND server_id > $2 AND server_id <= $3
          AND ($4::text IS NULL OR schema_name = $4) AND ($5::text IS NULL OR source_id <> $5)
        ORDER BY server_id
        LIMIT $6
    ) l
) w
WHERE coalesce(w.bytes - coalesce(octet_length(w.payload), 0), 0) < $7";

/// The first matching changes.
pub(crate) async fn page(sessions: &Sessions, user: &UserId, query: &PageQuery) -> Result<Slice, StoreError> {
    let limit = query.limit as usize;
    let statement = sqlx::query(PAGE)
        .bind(user.as_str())
        .bind(query.after.0)
        .bind(query.until.map_or(i64::MAX, |until| until.0))
        .bind(query.schema.as_deref())
        .bind(query.exclude.as_ref().map(SourceId::as_str))
        // One more than asked for, to know whether more match.
        .bind(i64::from(query.limit) + 1)
        .bind(PAGE_BYTES_MAX as i64);
    let rows = sessions.rows(statement).await.map_err(from_sqlx)?;
    let is_end = |row: &&PgRow| row.try_get_raw(1).is_ok_and(|schema| schema.is_null());
    let first = rows.iter().find(is_end).ok_or_else(|| corrupt("the table sync.sync_epoch is empty"))?;
    let (head, kept) = end(first, [0, 4, 7, 8]).map_err(from_sqlx)?;
    let (mut changes, mut known, mut found) = (Vec::with_capacity(rows.len()), Known::default(), None);
    for row in rows.iter().filter(|row| !is_end(row)) {
        if changes.is_empty() {
            found = row.try_get::<Option<i64>, _>(10).map_err(from_sqlx)?;
        }
        changes.push(known.change(row)?);
    }
    // The order of a subquery is kept in practice, but not by promise.
    changes.sort_unstable_by_key(|change| change.server_id);
    let found = found.map_or(changes.len(), |found| found as usize);
    changes.truncate(limit);
    Ok(Slice { head, kept, more: found > changes.len(), changes })
}

const HEAD: &str = "
SELECT coalesce(s.last_server_id, 0), coalesce(s.epoch, e.epoch), coalesce(s.kept_floor, 0), coalesce(s.kept_moved_at, 0)
FROM sync.sync_epoch e LEFT JOIN sync.user_stream s ON s.user_id = $1
WHERE e.is_present";

/// Where the stream ends, and from where on it is kept.
pub(crate) async fn head(sessions: &Sessions, user: &UserId) -> Result<(StreamHead, Kept), StoreError> {
    let rows = sessions.rows(sqlx::query(HEAD).bind(user.as_str())).await.map_err(from_sqlx)?;
    let row = rows.first().ok_or_else(|| corrupt("the table sync.sync_epoch is empty"))?;
    end(row, [0, 1, 2, 3]).map_err(from_sqlx)
}

/// Reads the end from its columns: number, epoch, floor, and the number at which that moved.
fn end(row: &PgRow, [seq, epoch, floor, moved_at]: [usize; 4]) -> Result<(StreamHead, Kept), sqlx::Error> {
    let head = StreamHead { seq: ServerSeq(row.try_get(seq)?), epoch: Epoch(row.try_get(epoch)?) };
    Ok((head, Kept { floor: ServerSeq(row.try_get(floor)?), moved_at: ServerSeq(row.try_get(moved_at)?) }))
}

/// The names that the last change had: most changes have the same.
#[derive(Default)]
struct Known {
    table: Option<TableName>,
    source: Option<SourceId>,
}

impl Known {
    fn change(&mut self, row: &PgRow) -> Result<StreamChange, StoreError> {
        let entry = Entry::read(row).map_err(from_sqlx)?;
        let server_id = entry.server_id;
        let what = |what: &str| corrupt(format!("entry {server_id} of a stream has {what}"));
        let table = match &self.table {
            Some(table) if table.schema() == entry.schema_name && table.table() == entry.table_name => table.clone(),
            _ => TableName::parse(Some(entry.schema_name), entry.table_name).map_err(|_| what("no table name"))?,
        };
        let source = match &self.source {
            Some(source) if source.as_str() == entry.source_id => source.clone(),
            _ => SourceId::parse(entry.source_id).map_err(|bad: BadId| what(&format!("a source that {bad}")))?,
        };
        (self.table, self.source) = (Some(table.clone()), Some(source.clone()));
        // The column's type has seen to it that it is JSON.
        let payload = entry.payload.map(|text| Payload::from_json(text.into()));
        Ok(StreamChange {
            server_id: ServerSeq(server_id),
            row: RowKey { table, pk: entry.pk_uuid },
            op: OpKind::parse(entry.op).ok_or_else(|| what("no op"))?,
            payload: payload.map(|payload| payload.ok_or_else(|| what("a payload that is no object"))).transpose()?,
            version: RowVersion(entry.server_version),
            source,
            source_change_id: SourceChangeId(entry.source_change_id),
            at: entry.ts.0,
        })
    }
}

/// The columns of a log entry, borrowed from the answer.
struct Entry<'r> {
    server_id: i64,
    schema_name: &'r str,
    table_name: &'r str,
    op: &'r str,
    pk_uuid: uuid::Uuid,
    payload: Option<&'r str>,
    source_id: &'r str,
    source_change_id: i64,
    server_version: i64,
    ts: TimestampTz,
}

impl<'r> Entry<'r> {
    fn read(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            server_id: row.try_get(0)?,
            schema_name: row.try_get(1)?,
            table_name: row.try_get(2)?,
            op: row.try_get(3)?,
            pk_uuid: row.try_get(4)?,
            payload: row.try_get(5)?,
            source_id: row.try_get(6)?,
            source_change_id: row.try_get(7)?,
            server_version: row.try_get(8)?,
            ts: row.try_get(9)?,
        })
    }
}
