//! The users, as an operator sees them.

use async_trait::async_trait;
use outrigger_application::ports::store::StoreError;
use outrigger_application::ports::users::{DeviceRecord, UserRecord, UserStore};
use outrigger_domain::{Epoch, ServerSeq, SourceChangeId, SourceId, UserId};
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use crate::SqliteStore;
use crate::contacts::moment;
use crate::error::Failure;
use crate::read::parsed;

/// What there is of one user, whose id is `u.user_id`. Nothing, if nothing is kept.
const RECORD: &str = "SELECT u.user_id, \
    coalesce((SELECT last_server_id FROM user_stream AS s WHERE s.user_id = u.user_id), 0), \
    (SELECT count(*) FROM sync_source AS d WHERE d.user_id = u.user_id AND d.last_contact IS NOT NULL) AS devices, \
    (SELECT max(last_contact) FROM sync_source AS d WHERE d.user_id = u.user_id), \
    (SELECT count(*) FROM materialize_failures AS f WHERE f.user_id = u.user_id) \
    FROM (@users) AS u WHERE devices > 0 \
    OR EXISTS (SELECT 1 FROM server_change_log AS l WHERE l.user_id = u.user_id) \
    OR EXISTS (SELECT 1 FROM sync_row_meta AS m WHERE m.user_id = u.user_id)";

#[async_trait]
impl UserStore for SqliteStore {
    async fn user(&self, user: &UserId) -> Result<Option<UserRecord>, StoreError> {
        let user = user.clone();
        let read = move |tx: &rusqlite::Transaction<'_>| {
            let mut statement = tx.prepare_cached(&RECORD.replace("@users", "SELECT ?1 AS user_id"))?;
            let mut rows = statement.query([user.as_str()])?;
            rows.next()?.map(record).transpose()
        };
        self.readers.read(read).await
    }

    async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRecord>, StoreError> {
        let after = after.map_or_else(String::new, |after| after.as_str().to_owned());
        let read = move |tx: &rusqlite::Transaction<'_>| {
            let users = "SELECT user_id FROM user_stream WHERE user_id > ?1 \
                         UNION SELECT user_id FROM sync_source WHERE user_id > ?1";
            let mut statement =
                tx.prepare_cached(&(RECORD.replace("@users", users) + " ORDER BY u.user_id LIMIT ?2"))?;
            let mut rows = statement.query(params![after, limit])?;
            let mut users = Vec::new();
            while let Some(row) = rows.next()? {
                users.push(record(row)?);
            }
            Ok(users)
        };
        self.readers.read(read).await
    }

    async fn devices(
        &self,
        user: Option<&UserId>,
        after: Option<&(UserId, SourceId)>,
        limit: u32,
    ) -> Result<Vec<DeviceRecord>, StoreError> {
        let (user, after) = (user.cloned(), after.cloned());
        let read = move |tx: &rusqlite::Transaction<'_>| devices(tx, user.as_ref(), after.as_ref(), limit);
        self.readers.read(read).await
    }

    async fn begin_anew(&self, user: &UserId) -> Result<Option<Epoch>, StoreError> {
        let (user, epoch) = (user.clone(), Uuid::new_v4());
        let begin = move |tx: &Connection| {
            let changed = tx
                .prepare_cached("UPDATE user_stream SET epoch = ?2 WHERE user_id = ?1")?
                .execute(params![user.as_str(), epoch.to_string()])?;
            Ok((changed > 0).then_some(Epoch(epoch)))
        };
        self.write(begin).await
    }

    async fn forget_devices(&self, user: &UserId) -> Result<(), StoreError> {
        let user = user.clone();
        let forget = move |tx: &Connection| {
            let gone = "DELETE FROM sync_source WHERE user_id = ?1 AND forgotten_id = 0";
            tx.execute(gone, [user.as_str()])?;
            let kept = "UPDATE sync_source SET first_contact = NULL, last_contact = NULL, last_cursor = NULL \
                        WHERE user_id = ?1";
            tx.execute(kept, [user.as_str()])?;
            Ok(())
        };
        self.write(forget).await
    }
}

fn record(row: &Row<'_>) -> Result<UserRecord, Failure> {
    Ok(UserRecord {
        user: parsed(row, 0, UserId::parse)?,
        head: ServerSeq(row.get(1)?),
        devices: row.get::<_, u32>(2)?.into(),
        last_contact: moment(row, 3)?,
        failures: row.get::<_, u32>(4)?.into(),
    })
}

fn devices(
    tx: &Connection,
    user: Option<&UserId>,
    after: Option<&(UserId, SourceId)>,
    limit: u32,
) -> Result<Vec<DeviceRecord>, Failure> {
    let highest = |table: &str| {
        format!(
            "coalesce((SELECT max(source_change_id) FROM {table} AS k \
             WHERE k.user_id = d.user_id AND k.source_id = d.source_id), 0)"
        )
    };
    let (of_log, of_pruned) = (highest("server_change_log"), highest("sync_pruned_key"));
    let one_user = if user.is_some() { "AND d.user_id = ?4" } else { "AND ?4 IS NULL" };
    let mut statement = tx.prepare_cached(&format!(
        "SELECT d.user_id, d.source_id, d.first_contact, d.last_contact, d.last_cursor, \
         coalesce(s.last_server_id, 0), max(d.forgotten_id, {of_log}, {of_pruned}) \
         FROM sync_source AS d LEFT JOIN user_stream AS s ON s.user_id = d.user_id \
         WHERE (d.user_id, d.source_id) > (?1, ?2) {one_user} AND d.last_contact IS NOT NULL \
         ORDER BY d.user_id, d.source_id LIMIT ?3"
    ))?;
    let (after_user, after_source) = after.map_or(("", ""), |(user, source)| (user.as_str(), source.as_str()));
    let mut rows = statement.query(params![after_user, after_source, limit, user.map(UserId::as_str)])?;
    let mut devices = Vec::new();
    let no_contact = || Failure::corrupt("a device has no first contact");
    while let Some(row) = rows.next()? {
        devices.push(DeviceRecord {
            user: parsed(row, 0, UserId::parse)?,
            source: parsed(row, 1, SourceId::parse)?,
            first_contact: moment(row, 2)?.ok_or_else(no_contact)?,
            last_contact: moment(row, 3)?.ok_or_else(no_contact)?,
            cursor: row.get::<_, Option<i64>>(4)?.map(ServerSeq),
            head: ServerSeq(row.get(5)?),
            highest_source_change_id: SourceChangeId(row.get(6)?),
        });
    }
    Ok(devices)
}
