//! The statements that read, each call in one transaction, so that it sees one moment.

use outrigger_domain::change::OpKind;
use outrigger_domain::limits::PAGE_BYTES_MAX;
use outrigger_domain::stream::{StreamChange, StreamHead, WantedRow};
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{
    Epoch, Kept, Logged, LoggedPayload, Payload, RowKey, RowState, RowVersion, ServerSeq, Settled, Snapshot,
    SourceChangeId, SourceId, TableName, Unlogged, UserId, Wanted,
};
use rusqlite::types::ValueRef;
use rusqlite::{Row, Statement, Transaction, params};
use uuid::Uuid;

use crate::commit::{buffer, text};
use crate::error::Failure;

/// What is known of the wanted rows and keys. One lookup each: with prepared statements that is faster than
/// handing SQLite the list as JSON, and there is no round trip to save.
pub(crate) fn load(tx: &Transaction<'_>, user: &UserId, wanted: &Wanted) -> Result<Snapshot, Failure> {
    let mut snapshot = Snapshot { head: head(tx, user)?.0, ..Snapshot::default() };
    // The payload is read only where a change may be compared with it, and so conflict with the row.
    let mut row = tx.prepare_cached(
        "SELECT meta.server_version, meta.deleted, state.payload FROM sync_row_meta AS meta \
         LEFT JOIN sync_state AS state ON state.user_id = meta.user_id AND state.schema_name = meta.schema_name \
         AND state.table_name = meta.table_name AND state.pk_uuid = meta.pk_uuid AND (?5 IS NULL OR ?5 >= 0 AND meta.server_version <> ?5) \
         WHERE meta.user_id = ?1 AND meta.schema_name = ?2 AND meta.table_name = ?3 AND meta.pk_uuid = ?4",
    )?;
    for wanted in &wanted.rows {
        if let Some(found) = load_row(&mut row, user, wanted)? {
            snapshot.rows.insert(wanted.key.clone(), found);
        }
    }
    let mut key = tx.prepare_cached(
        "SELECT op, schema_name, table_name, pk_uuid, server_version, payload FROM server_change_log \
         WHERE user_id = ?1 AND source_id = ?2 AND source_change_id = ?3",
    )?;
    let mut pruned = tx.prepare_cached(
        "SELECT op, schema_name, table_name, pk_uuid, server_version, digest, unlogged FROM sync_pruned_key \
         WHERE user_id = ?1 AND source_id = ?2 AND source_change_id = ?3",
    )?;
    for wanted in &wanted.keys {
        let (source, number) = wanted;
        let parameters = params![user.as_str(), source.as_str(), number.0];
        if let Some(row) = key.query(parameters)?.next()? {
            let payload = payload(row, 5)?.map(LoggedPayload::Whole);
            snapshot.logged.insert(wanted.clone(), logged(row, payload)?);
        } else if let Some(row) = pruned.query(parameters)?.next()? {
            let digest = row.get::<_, Option<[u8; 32]>>(5)?.map(LoggedPayload::Digest);
            let found = logged(row, digest)?;
            if matches!(row.get_ref(6)?, ValueRef::Null) {
                snapshot.logged.insert(wanted.clone(), found);
            } else {
                let settled = parsed(row, 6, |name| Settled::parse(name).ok_or("no answer"))?;
                let Logged { op, row, version: base, .. } = found;
                snapshot.unlogged.insert(wanted.clone(), Unlogged { op, row, base, settled });
            }
        }
    }
    let mut forgotten = tx.prepare_cached(
        "SELECT forgotten_id FROM sync_source WHERE user_id = ?1 AND source_id = ?2 AND forgotten_id > 0",
    )?;
    for source in &wanted.sources {
        let mut rows = forgotten.query(params![user.as_str(), source.as_str()])?;
        if let Some(row) = rows.next()? {
            snapshot.forgotten.insert(source.clone(), SourceChangeId(row.get(0)?));
        }
    }
    Ok(snapshot)
}

/// The first changes that match the query. The payload of a change that is filtered out is not read.
pub(crate) fn page(tx: &Transaction<'_>, user: &UserId, query: &PageQuery) -> Result<Slice, Failure> {
    let (head, kept) = head(tx, user)?;
    let mut slice = Slice { head, kept, ..Slice::default() };
    let until = query.until.unwrap_or(slice.head.seq);
    let mut statement = tx.prepare_cached(
        "SELECT server_id, op, schema_name, table_name, pk_uuid, server_version, source_id, source_change_id, ts, \
         payload FROM server_change_log WHERE user_id = ?1 AND server_id > ?2 AND server_id <= ?3 \
         AND (?4 IS NULL OR schema_name = ?4) AND (?5 IS NULL OR source_id <> ?5) ORDER BY server_id LIMIT ?6",
    )?;
    let (schema, exclude) = (query.schema.as_deref(), query.exclude.as_ref().map(SourceId::as_str));
    // One more than asked for, to know whether more match.
    let limit = i64::from(query.limit) + 1;
    let mut rows = statement.query(params![user.as_str(), query.after.0, until.0, schema, exclude, limit])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if slice.changes.len() == query.limit as usize || bytes >= PAGE_BYTES_MAX {
            slice.more = true;
            break;
        }
        let change = change(row)?;
        bytes += change.payload.as_ref().map_or(0, |payload| payload.as_str().len());
        slice.changes.push(change);
    }
    Ok(slice)
}

/// Reads something, so that an answer means that the file is there.
pub(crate) fn ping(tx: &Transaction<'_>) -> Result<(), Failure> {
    Ok(tx.prepare_cached("SELECT max(number) FROM sync_schema_migrations")?.query_row([], |_| Ok(()))?)
}

/// Where the stream ends, and from where on it is kept.
pub(crate) fn head(tx: &Transaction<'_>, user: &UserId) -> Result<(StreamHead, Kept), Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT coalesce(stream.last_server_id, 0), coalesce(stream.epoch, every.epoch), \
         coalesce(stream.kept_floor, 0), coalesce(stream.kept_moved_at, 0) \
         FROM sync_epoch AS every LEFT JOIN user_stream AS stream ON stream.user_id = ?1",
    )?;
    let mut rows = statement.query([user.as_str()])?;
    let row = rows.next()?.ok_or_else(|| Failure::corrupt("the table sync_epoch is empty"))?;
    let head = StreamHead { seq: ServerSeq(row.get(0)?), epoch: Epoch(parsed(row, 1, Uuid::try_parse)?) };
    Ok((head, Kept { floor: ServerSeq(row.get(2)?), moved_at: ServerSeq(row.get(3)?) }))
}

fn load_row(
    statement: &mut Statement<'_>,
    user: &UserId,
    wanted: &WantedRow,
) -> Result<Option<(RowVersion, RowState)>, Failure> {
    let RowKey { table, pk } = &wanted.key;
    let mut buffer = buffer();
    let unless_at = wanted.payload.unless_at();
    let key = params![user.as_str(), table.schema(), table.table(), text(*pk, &mut buffer), unless_at];
    let mut rows = statement.query(key)?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let version = RowVersion(row.get(0)?);
    let state = match (row.get(1)?, payload(row, 2)?) {
        (true, None) => RowState::Deleted,
        (false, Some(payload)) => RowState::Live(payload),
        (false, None) if !wanted.payload.is_wanted_at(version) => RowState::Unloaded,
        (deleted, _) => {
            let what = format!("row {pk} of {table} has deleted = {deleted}, and its state says otherwise");
            return Err(Failure::corrupt(what));
        }
    };
    Ok(Some((version, state)))
}

fn logged(row: &Row<'_>, payload: Option<LoggedPayload>) -> Result<Logged, Failure> {
    Ok(Logged { op: op(row, 0)?, row: row_key(row, 1)?, version: RowVersion(row.get(4)?), payload })
}

fn change(row: &Row<'_>) -> Result<StreamChange, Failure> {
    Ok(StreamChange {
        server_id: ServerSeq(row.get(0)?),
        op: op(row, 1)?,
        row: row_key(row, 2)?,
        version: RowVersion(row.get(5)?),
        source: parsed(row, 6, SourceId::parse)?,
        source_change_id: SourceChangeId(row.get(7)?),
        at: parsed(row, 8, str::parse)?,
        payload: payload(row, 9)?,
    })
}

pub(crate) fn op(row: &Row<'_>, column: usize) -> Result<OpKind, Failure> {
    parsed(row, column, |text| OpKind::parse(text).ok_or("no op"))
}

/// A row's key, from three columns on.
pub(crate) fn row_key(row: &Row<'_>, column: usize) -> Result<RowKey, Failure> {
    let schema = row.get_ref(column)?.as_str()?;
    let table = parsed(row, column + 1, |table| TableName::parse(Some(schema), table))?;
    Ok(RowKey { table, pk: parsed(row, column + 2, Uuid::try_parse)? })
}

pub(crate) fn payload(row: &Row<'_>, column: usize) -> Result<Option<Payload>, Failure> {
    let Some(text) = row.get::<_, Option<String>>(column)? else { return Ok(None) };
    let payload = Payload::from_text(text).ok_or_else(|| Failure::corrupt("a payload is no JSON object"))?;
    Ok(Some(payload))
}

pub(crate) fn parsed<T, E: std::fmt::Display>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, Failure> {
    let text = row.get_ref(column)?.as_str()?;
    parse(text).map_err(|why| {
        let name = row.as_ref().column_name(column).unwrap_or("a column");
        Failure::corrupt(format_args!("{name} is {text:?}: {why}"))
    })
}
