//! What is known of the devices.

use async_trait::async_trait;
use outrigger_application::StoreError;
use outrigger_application::ports::contacts::{Contact, ContactStore, SourceRecord};
use outrigger_domain::{ServerSeq, SourceChangeId, SourceId, UserId};
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::PostgresStore;
use crate::error::{corrupt, from_sqlx};
use crate::timestamp::TimestampTz;

/// In the order of the keys, so that two nodes that note the same devices wait for each other and do not deadlock.
const NOTE: &str = "
INSERT INTO sync.sync_source AS s (user_id, source_id, first_contact, last_contact, last_cursor)
SELECT c.user_id, c.source_id, c.at, c.at, c.cursor
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::int8[]) AS c (user_id, source_id, at, cursor)
ORDER BY c.user_id, c.source_id
ON CONFLICT (user_id, source_id) DO UPDATE SET
    first_contact = coalesce(s.first_contact, excluded.first_contact),
    last_contact = excluded.last_contact,
    last_cursor = coalesce(excluded.last_cursor, s.last_cursor)
WHERE s.last_contact IS NULL OR s.last_contact <= excluded.last_contact";

const SOURCE: &str = "
SELECT s.first_contact, s.last_contact, s.last_cursor, greatest(
    coalesce(s.forgotten_id, 0),
    coalesce((
        SELECT source_change_id FROM sync.server_change_log
        WHERE user_id = $1 AND source_id = $2 ORDER BY source_change_id DESC LIMIT 1
    ), 0),
    coalesce((
        SELECT source_change_id FROM sync.sync_pruned_key
        WHERE user_id = $1 AND source_id = $2 ORDER BY source_change_id DESC LIMIT 1
    ), 0)
)
FROM (SELECT 1) one LEFT JOIN sync.sync_source s ON s.user_id = $1 AND s.source_id = $2";

#[async_trait]
impl ContactStore for PostgresStore {
    async fn note(&self, contacts: &[Contact]) -> Result<(), StoreError> {
        let statement = sqlx::query(NOTE)
            .bind(contacts.iter().map(|contact| contact.user.as_str()).collect::<Vec<_>>())
            .bind(contacts.iter().map(|contact| contact.source.as_str()).collect::<Vec<_>>())
            .bind(contacts.iter().map(|contact| TimestampTz(contact.at)).collect::<Vec<_>>())
            .bind(contacts.iter().map(|contact| contact.cursor.map(|cursor| cursor.0)).collect::<Vec<_>>());
        self.sessions.rows(statement).await.map(drop).map_err(from_sqlx)
    }

    async fn source(&self, user: &UserId, source: &SourceId) -> Result<SourceRecord, StoreError> {
        let statement = sqlx::query(SOURCE).bind(user.as_str()).bind(source.as_str());
        let rows = self.sessions.rows(statement).await.map_err(from_sqlx)?;
        let row = rows.first().ok_or_else(|| corrupt("a look-up without a row"))?;
        read(row).map_err(from_sqlx)
    }
}

fn read(row: &PgRow) -> Result<SourceRecord, sqlx::Error> {
    Ok(SourceRecord {
        first_contact: row.try_get::<Option<TimestampTz>, _>(0)?.map(|at| at.0),
        last_contact: row.try_get::<Option<TimestampTz>, _>(1)?.map(|at| at.0),
        cursor: row.try_get::<Option<i64>, _>(2)?.map(ServerSeq),
        highest_source_change_id: SourceChangeId(row.try_get(3)?),
    })
}
