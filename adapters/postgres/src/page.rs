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
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::error::{corrupt, from_sqlx};
use crate::session::Sessions;
use crate::timestamp::TimestampTz;

/// One statement, and so one snapshot. The end of the stream stands in every row, and alone where no change matches.
/// `found` says how many changes there were before those beyond the bytes of a page were left out.
const PAGE: &str = "
SELECT h.head, c.server_id, c.schema_name, c.table_name, c.op, c.pk_uuid, c.payload, c.source_id,
       c.source_change_id, c.server_version, c.ts, c.found, h.epoch, h.floor, h.moved_at
FROM (
    SELECT coalesce(s.last_server_id, 0) AS head, coalesce(s.epoch, e.epoch) AS epoch,
           coalesce(s.kept_floor, 0) AS floor, coalesce(s.kept_moved_at, 0) AS moved_at
    FROM sync.sync_epoch e LEFT JOIN sync.user_stream s ON s.user_id = $1
    WHERE e.is_present
) h
LEFT JOIN LATERAL (
    SELECT w.*
    FROM (
        SELECT l.*, sum(octet_length(l.payload)) OVER (ORDER BY l.server_id) AS bytes, count(*) OVER () AS found
        FROM (
            SELECT server_id, schema_name, table_name, op, pk_uuid, payload::text AS payload, source_id,
                   source_change_id, server_version, ts
            FROM sync.server_change_log
            WHERE user_id = $1 AND server_id > $2 AND server_id <= $3
              AND ($4::text IS NULL OR schema_name = $4) AND ($5::text IS NULL OR source_id <> $5)
            ORDER BY server_id
            LIMIT $6
        ) l
    ) w
    WHERE coalesce(w.bytes - coalesce(octet_length(w.payload), 0), 0) < $7
) c ON true";

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
    let first = rows.first().ok_or_else(|| from_sqlx(sqlx::Error::RowNotFound))?;
    let (head, kept) = end(first, [0, 12, 13, 14]).map_err(from_sqlx)?;
    let found: Option<i64> = first.try_get(11).map_err(from_sqlx)?;
    let mut changes = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(server_id) = row.try_get(1).map_err(from_sqlx)? {
            changes.push(read(row, server_id)?);
        }
    }
    // The order of a subquery is kept in practice, but not by promise.
    changes.sort_unstable_by_key(|change| change.server_id);
    changes.truncate(limit);
    Ok(Slice { head, kept, more: found.unwrap_or(0) as usize > changes.len(), changes })
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

fn read(row: &PgRow, server_id: i64) -> Result<StreamChange, StoreError> {
    let entry = Entry::read(row).map_err(from_sqlx)?;
    let what = |what: &str| corrupt(format!("entry {server_id} of a stream has {what}"));
    Ok(StreamChange {
        server_id: ServerSeq(server_id),
        row: RowKey {
            table: TableName::parse(Some(entry.schema_name), entry.table_name).map_err(|_| what("no table name"))?,
            pk: entry.pk_uuid,
        },
        op: OpKind::parse(entry.op).ok_or_else(|| what("no op"))?,
        payload: match entry.payload {
            Some(text) => Some(Payload::from_text(text).ok_or_else(|| what("a payload that is no object"))?),
            None => None,
        },
        version: RowVersion(entry.server_version),
        source: SourceId::parse(entry.source_id).map_err(|bad: BadId| what(&format!("a source that {bad}")))?,
        source_change_id: SourceChangeId(entry.source_change_id),
        at: entry.ts.0,
    })
}

/// The columns of a log entry, borrowed from the answer where they can be.
struct Entry<'r> {
    schema_name: &'r str,
    table_name: &'r str,
    op: &'r str,
    pk_uuid: uuid::Uuid,
    payload: Option<String>,
    source_id: &'r str,
    source_change_id: i64,
    server_version: i64,
    ts: TimestampTz,
}

impl<'r> Entry<'r> {
    fn read(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            schema_name: row.try_get(2)?,
            table_name: row.try_get(3)?,
            op: row.try_get(4)?,
            pk_uuid: row.try_get(5)?,
            payload: row.try_get(6)?,
            source_id: row.try_get(7)?,
            source_change_id: row.try_get(8)?,
            server_version: row.try_get(9)?,
            ts: row.try_get(10)?,
        })
    }
}
