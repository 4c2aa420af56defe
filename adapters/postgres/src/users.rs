//! The users, as an operator sees them.

use async_trait::async_trait;
use outrigger_application::StoreError;
use outrigger_application::ports::users::{DeviceRecord, UserRecord, UserStore};
use outrigger_domain::{Epoch, ServerSeq, SourceChangeId, SourceId, UserId};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::PostgresStore;
use crate::error::{corrupt, from_sqlx};
use crate::timestamp::TimestampTz;

/// The users behind $1, or $1 alone. Of a user of whom nothing is kept there is no row.
macro_rules! users {
    ($users:literal) => {
        concat!(
            "SELECT u.user_id, coalesce(s.last_server_id, 0), d.devices, d.last_contact,
                    (SELECT count(*) FROM sync.materialize_failures f WHERE f.user_id = u.user_id)
             FROM (",
            $users,
            ") u
             LEFT JOIN sync.user_stream s ON s.user_id = u.user_id
             CROSS JOIN LATERAL (
                 SELECT count(*) AS devices, max(last_contact) AS last_contact FROM sync.sync_source d
                 WHERE d.user_id = u.user_id AND d.last_contact IS NOT NULL
             ) d
             WHERE d.devices > 0
                OR EXISTS (SELECT 1 FROM sync.server_change_log l WHERE l.user_id = u.user_id)
                OR EXISTS (SELECT 1 FROM sync.sync_row_meta m WHERE m.user_id = u.user_id)
             ORDER BY u.user_id LIMIT $2"
        )
    };
}

const USER: &str = users!("SELECT $1::text COLLATE \"C\" AS user_id");
const USERS: &str = users!(
    "SELECT user_id FROM sync.user_stream WHERE user_id > $1
     UNION SELECT user_id FROM sync.sync_source WHERE user_id > $1"
);

const DEVICES: &str = "
SELECT d.user_id, d.source_id, d.first_contact, d.last_contact, d.last_cursor, coalesce(s.last_server_id, 0), greatest(
    d.forgotten_id,
    coalesce((
        SELECT source_change_id FROM sync.server_change_log k
        WHERE k.user_id = d.user_id AND k.source_id = d.source_id ORDER BY source_change_id DESC LIMIT 1
    ), 0),
    coalesce((
        SELECT source_change_id FROM sync.sync_pruned_key k
        WHERE k.user_id = d.user_id AND k.source_id = d.source_id ORDER BY source_change_id DESC LIMIT 1
    ), 0)
)
FROM sync.sync_source d LEFT JOIN sync.user_stream s ON s.user_id = d.user_id
WHERE (d.user_id, d.source_id) > ($1, $2) AND ($4::text IS NULL OR d.user_id = $4) AND d.last_contact IS NOT NULL
ORDER BY d.user_id, d.source_id
LIMIT $3";

const FORGET: &str = "
WITH gone AS (
    DELETE FROM sync.sync_source WHERE user_id = $1 AND forgotten_id = 0
)
UPDATE sync.sync_source SET first_contact = NULL, last_contact = NULL, last_cursor = NULL
WHERE user_id = $1 AND forgotten_id > 0";

#[async_trait]
impl UserStore for PostgresStore {
    async fn user(&self, user: &UserId) -> Result<Option<UserRecord>, StoreError> {
        let statement = sqlx::query(USER).bind(user.as_str()).bind(1_i64);
        let rows = self.sessions.rows(statement).await.map_err(from_sqlx)?;
        rows.first().map(record).transpose()
    }

    async fn users(&self, after: Option<&UserId>, limit: u32) -> Result<Vec<UserRecord>, StoreError> {
        let statement = sqlx::query(USERS).bind(after.map_or("", UserId::as_str)).bind(i64::from(limit));
        let rows = self.sessions.rows(statement).await.map_err(from_sqlx)?;
        rows.iter().map(record).collect()
    }

    async fn devices(
        &self,
        user: Option<&UserId>,
        after: Option<&(UserId, SourceId)>,
        limit: u32,
    ) -> Result<Vec<DeviceRecord>, StoreError> {
        // Of one user the look-up begins at that user.
        let begin = user.map_or("", UserId::as_str);
        let (after_user, after_source) = after.map_or((begin, ""), |(user, source)| (user.as_str(), source.as_str()));
        let statement = sqlx::query(DEVICES)
            .bind(after_user)
            .bind(after_source)
            .bind(i64::from(limit))
            .bind(user.map(UserId::as_str));
        let rows = self.sessions.rows(statement).await.map_err(from_sqlx)?;
        rows.iter().map(device).collect()
    }

    async fn begin_anew(&self, user: &UserId) -> Result<Option<Epoch>, StoreError> {
        let epoch = Uuid::new_v4();
        let statement = sqlx::query("UPDATE sync.user_stream SET epoch = $2 WHERE user_id = $1 RETURNING 1");
        let rows = self.sessions.rows(statement.bind(user.as_str()).bind(epoch)).await.map_err(from_sqlx)?;
        Ok((!rows.is_empty()).then_some(Epoch(epoch)))
    }

    async fn forget_devices(&self, user: &UserId) -> Result<(), StoreError> {
        self.sessions.rows(sqlx::query(FORGET).bind(user.as_str())).await.map(drop).map_err(from_sqlx)
    }
}

fn user(row: &PgRow) -> Result<UserId, StoreError> {
    let text: &str = row.try_get(0).map_err(from_sqlx)?;
    UserId::parse(text).map_err(|why| corrupt(format!("a user's id {why}")))
}

fn record(row: &PgRow) -> Result<UserRecord, StoreError> {
    let columns = || -> Result<_, sqlx::Error> {
        let (head, devices, failures): (i64, i64, i64) = (row.try_get(1)?, row.try_get(2)?, row.try_get(4)?);
        Ok((head, devices, row.try_get::<Option<TimestampTz>, _>(3)?, failures))
    };
    let (head, devices, last_contact, failures) = columns().map_err(from_sqlx)?;
    Ok(UserRecord {
        user: user(row)?,
        head: ServerSeq(head),
        devices: devices.unsigned_abs(),
        last_contact: last_contact.map(|at| at.0),
        failures: failures.unsigned_abs(),
    })
}

fn device(row: &PgRow) -> Result<DeviceRecord, StoreError> {
    let source: &str = row.try_get(1).map_err(from_sqlx)?;
    let source = SourceId::parse(source).map_err(|why| corrupt(format!("a source's id {why}")))?;
    let columns = || -> Result<_, sqlx::Error> {
        let contacts: (TimestampTz, TimestampTz) = (row.try_get(2)?, row.try_get(3)?);
        Ok((contacts, row.try_get::<Option<i64>, _>(4)?, row.try_get(5)?, row.try_get(6)?))
    };
    let ((first, last), cursor, head, highest) = columns().map_err(from_sqlx)?;
    Ok(DeviceRecord {
        user: user(row)?,
        source,
        first_contact: first.0,
        last_contact: last.0,
        cursor: cursor.map(ServerSeq),
        head: ServerSeq(head),
        highest_source_change_id: SourceChangeId(highest),
    })
}
