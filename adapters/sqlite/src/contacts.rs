//! What is known of the devices.

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::contacts::{Contact, ContactStore, SourceRecord};
use outrigger_application::ports::store::StoreError;
use outrigger_domain::{ServerSeq, SourceChangeId, SourceId, UserId};
use rusqlite::{OptionalExtension, Row, Transaction as Read, params};

use crate::SqliteStore;
use crate::error::Failure;
use crate::read::parsed;
use crate::transaction::Transaction;

#[async_trait]
impl ContactStore for SqliteStore {
    async fn note(&self, contacts: &[Contact]) -> Result<(), StoreError> {
        let contacts = contacts.to_vec();
        let note = move |connection: &mut rusqlite::Connection, _: &mut _| {
            let tx = Transaction::begin(connection)?;
            write(tx.connection, &contacts)?;
            Ok(tx.commit()?)
        };
        self.writer.call(note).await
    }

    async fn source(&self, user: &UserId, source: &SourceId) -> Result<SourceRecord, StoreError> {
        let (user, source) = (user.clone(), source.clone());
        self.readers.read(move |tx| read(tx, &user, &source)).await
    }
}

fn write(tx: &rusqlite::Connection, contacts: &[Contact]) -> Result<(), Failure> {
    let mut statement = tx.prepare_cached(
        "INSERT INTO sync_source (user_id, source_id, first_contact, last_contact, last_cursor) \
         VALUES (?1, ?2, ?3, ?3, ?4) ON CONFLICT (user_id, source_id) DO UPDATE SET \
         first_contact = coalesce(first_contact, excluded.first_contact), last_contact = excluded.last_contact, \
         last_cursor = coalesce(excluded.last_cursor, last_cursor) \
         WHERE last_contact IS NULL OR last_contact <= excluded.last_contact",
    )?;
    for Contact { user, source, at, cursor } in contacts {
        let at = format!("{at:.6}");
        statement.execute(params![user.as_str(), source.as_str(), at, cursor.map(|cursor| cursor.0)])?;
    }
    Ok(())
}

fn read(tx: &Read<'_>, user: &UserId, source: &SourceId) -> Result<SourceRecord, Failure> {
    let key = params![user.as_str(), source.as_str()];
    let mut statement = tx.prepare_cached(
        "SELECT first_contact, last_contact, last_cursor, forgotten_id FROM sync_source \
         WHERE user_id = ?1 AND source_id = ?2",
    )?;
    let mut rows = statement.query(key)?;
    let mut record = SourceRecord::default();
    let mut highest = 0;
    if let Some(row) = rows.next()? {
        record.first_contact = moment(row, 0)?;
        record.last_contact = moment(row, 1)?;
        record.cursor = row.get::<_, Option<i64>>(2)?.map(ServerSeq);
        highest = row.get(3)?;
    }
    for table in ["server_change_log", "sync_pruned_key"] {
        let of_table = format!(
            "SELECT source_change_id FROM {table} WHERE user_id = ?1 AND source_id = ?2 \
             ORDER BY source_change_id DESC LIMIT 1"
        );
        let found: Option<i64> = tx.prepare_cached(&of_table)?.query_row(key, |row| row.get(0)).optional()?;
        highest = highest.max(found.unwrap_or(0));
    }
    record.highest_source_change_id = SourceChangeId(highest);
    Ok(record)
}

/// A time, if there is one.
pub(crate) fn moment(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>, Failure> {
    let is_null = matches!(row.get_ref(column)?, rusqlite::types::ValueRef::Null);
    if is_null { Ok(None) } else { parsed(row, column, str::parse).map(Some) }
}
