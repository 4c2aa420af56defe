//! The rows of a user as they are.

use outrigger_application::ports::store::{LiveRow, Rows, RowsQuery};
use outrigger_domain::limits::PAGE_BYTES_MAX;
use outrigger_domain::{RowVersion, TableName, UserId};
use rusqlite::{Transaction, params};
use uuid::Uuid;

use crate::error::Failure;
use crate::read::{head, parsed, payload};

/// The first rows of a table that match the query.
pub(crate) fn rows(tx: &Transaction<'_>, user: &UserId, query: &RowsQuery) -> Result<Rows, Failure> {
    let mut found = Rows { head: head(tx, user)?.0, ..Rows::default() };
    let mut statement = tx.prepare_cached(
        "SELECT state.pk_uuid, meta.server_version, state.payload FROM sync_state AS state CROSS JOIN sync_row_meta AS meta \
         ON meta.user_id = state.user_id AND meta.schema_name = state.schema_name \
         AND meta.table_name = state.table_name AND meta.pk_uuid = state.pk_uuid \
         WHERE state.user_id = ?1 AND state.schema_name = ?2 AND state.table_name = ?3 AND state.pk_uuid > ?4 \
         ORDER BY state.pk_uuid LIMIT ?5",
    )?;
    // Keys are compared as text, which for lower-case hexadecimal is the order of their bytes. All are longer than this.
    let after = query.after.map_or_else(String::new, |after| after.to_string());
    let limit = i64::from(query.limit) + 1;
    let mut rows = statement.query(params![user.as_str(), query.table.schema(), query.table.table(), after, limit])?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if found.rows.len() == query.limit as usize || bytes >= PAGE_BYTES_MAX {
            found.more = true;
            break;
        }
        let payload = payload(row, 2)?.ok_or_else(|| Failure::corrupt("a row has no payload"))?;
        bytes += payload.as_str().len();
        found.rows.push(LiveRow { pk: parsed(row, 0, Uuid::try_parse)?, version: RowVersion(row.get(1)?), payload });
    }
    Ok(found)
}

/// The tables of which there are rows: one look-up for each, whatever it holds.
pub(crate) fn tables(tx: &Transaction<'_>, user: &UserId) -> Result<Vec<TableName>, Failure> {
    let mut statement = tx.prepare_cached(
        "SELECT schema_name, table_name FROM sync_state WHERE user_id = ?1 AND (schema_name, table_name) > (?2, ?3) \
         ORDER BY schema_name, table_name LIMIT 1",
    )?;
    let mut tables: Vec<TableName> = Vec::new();
    loop {
        let (schema, table) = tables.last().map_or(("", ""), |last| (last.schema(), last.table()));
        let mut rows = statement.query(params![user.as_str(), schema, table])?;
        let Some(row) = rows.next()? else { return Ok(tables) };
        let schema = row.get_ref(0)?.as_str()?;
        let next = parsed(row, 1, |table| TableName::parse(Some(schema), table))?;
        tables.push(next);
    }
}
