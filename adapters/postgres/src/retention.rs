//! What is cleared of the streams.
//!
//! Entries never change, and one that is superseded stays so: those go without any lock that an upload could wait for.
//! With a deletion its row is forgotten, which an upload may be deciding on at that moment. So a step that prunes
//! deletions is a commit like any other: a compare and swap of the stream's end, which it moves on by one.

use std::num::NonZeroU32;

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::StoreError;
use outrigger_application::ports::retention::{PruneStep, RetentionStore, cannot_be};
use outrigger_domain::change::OpKind;
use outrigger_domain::retention::{Aged, Cutoffs, Fate, STEP_BYTES_MAX, STEP_ENTRIES_MAX, Sweep};
use outrigger_domain::{Epoch, Payload, RowVersion, ServerSeq, UserId};
use sqlx::Postgres;
use sqlx::Row;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use uuid::Uuid;

use crate::PostgresStore;
use crate::error::{corrupt, from_commit, from_sqlx};
use crate::timestamp::TimestampTz;

/// Locked in the order of the keys and skipped if locked already: two nodes never wait for each other, and never for
/// an upload.
const TAKE_DUE: &str = "
WITH due AS (
    SELECT user_id FROM sync.user_stream
    WHERE user_id > $1 AND (swept_at IS NULL OR swept_at < $2 OR swept_at > $5)
      AND clean_at IS DISTINCT FROM last_server_id
    ORDER BY user_id
    LIMIT $4
    FOR UPDATE SKIP LOCKED
)
UPDATE sync.user_stream s SET swept_at = $3 FROM due WHERE s.user_id = due.user_id
RETURNING s.user_id";

/// The entries of a step, each with how its row stands now, and the payload where a later change supersedes it.
const ENTRIES: &str = "
SELECT l.server_id, l.ts, l.op, l.server_version, l.row_version, l.projected, l.payload, l.bytes, h.last_server_id, l.found
FROM (SELECT last_server_id FROM sync.user_stream WHERE user_id = $1) h
LEFT JOIN LATERAL (
    SELECT e.*, sum(octet_length(e.payload)) OVER (ORDER BY e.server_id) AS bytes, count(*) OVER () AS found
    FROM (
        SELECT o.server_id, o.ts, o.op, o.server_version, m.server_version AS row_version, m.projected,
               CASE WHEN o.server_version < m.server_version THEN o.payload::text END AS payload
        FROM (
            SELECT * FROM sync.server_change_log
            WHERE user_id = $1 AND server_id > $2
            ORDER BY server_id LIMIT $3
        ) o
        CROSS JOIN LATERAL (
            SELECT r.server_version, r.projected FROM sync.sync_row_meta r
            WHERE r.user_id = $1 AND r.schema_name = o.schema_name AND r.table_name = o.table_name
              AND r.pk_uuid = o.pk_uuid
            LIMIT 1
        ) m
    ) e
) l ON coalesce(l.bytes - coalesce(octet_length(l.payload), 0), 0) < $4
ORDER BY l.server_id";

/// Remembers the keys of entries that go, in place of what their changes may have been settled as before.
macro_rules! remembering {
    ($select:literal) => {
        concat!(
            "
    INSERT INTO sync.sync_pruned_key (
        user_id, source_id, source_change_id, op, schema_name, table_name, pk_uuid, digest, server_version, pruned_at
    )",
            $select,
            "
    ON CONFLICT (user_id, source_id, source_change_id) DO UPDATE SET
        op = excluded.op, schema_name = excluded.schema_name, table_name = excluded.table_name,
        pk_uuid = excluded.pk_uuid, digest = excluded.digest, server_version = excluded.server_version,
        pruned_at = excluded.pruned_at, unlogged = NULL
"
        )
    };
}

const SUPERSEDED: &str = concat!(
    "
WITH gone AS (
    DELETE FROM sync.server_change_log WHERE user_id = $1 AND server_id = ANY ($2)
    RETURNING server_id, source_id, source_change_id, op, schema_name, table_name, pk_uuid, server_version
), remembered AS (",
    remembering!(
        "
    SELECT $1, g.source_id, g.source_change_id, g.op, g.schema_name, g.table_name, g.pk_uuid, d.digest,
           g.server_version, $4
    FROM gone g JOIN unnest($2::int8[], $3::bytea[]) AS d (server_id, digest) ON d.server_id = g.server_id"
    ),
    ")
SELECT count(*) FROM gone"
);

/// `turn` has a row if the stream still ended at $2 and ends behind it now. Then nobody has written for this user since
/// the entries were sorted, nor recorded a failure since the statement began, which `moot` would not see: the look at
/// their number is of then, and the row that it is compared with of when its lock was had.
const TOMBSTONES: &str = concat!(
    "
WITH turn AS (
    UPDATE sync.user_stream s
    SET last_server_id = $2 + 1, kept_moved_at = $2 + 1,
        kept_floor = greatest(kept_floor, (SELECT max(t) FROM unnest($3::int8[]) t))
    WHERE s.user_id = $1 AND s.last_server_id = $2
      AND s.last_failure_id = (SELECT o.last_failure_id FROM sync.user_stream o WHERE o.user_id = $1)
    RETURNING 1
), gone AS (
    DELETE FROM sync.server_change_log l USING turn
    WHERE l.user_id = $1 AND l.server_id = ANY ($3)
    RETURNING l.source_id, l.source_change_id, l.op, l.schema_name, l.table_name, l.pk_uuid, l.server_version
), forgotten AS (
    DELETE FROM sync.sync_row_meta m USING gone g
    WHERE m.user_id = $1 AND m.schema_name = g.schema_name AND m.table_name = g.table_name AND m.pk_uuid = g.pk_uuid
), moot AS (
    DELETE FROM sync.materialize_failures f USING gone g
    WHERE f.user_id = $1 AND f.schema_name = g.schema_name AND f.table_name = g.table_name AND f.pk_uuid = g.pk_uuid
), remembered AS (",
    remembering!(
        "
    SELECT $1, source_id, source_change_id, op, schema_name, table_name, pk_uuid, NULL, server_version, $4 FROM gone"
    ),
    ")
SELECT count(*) FROM turn"
);

const FORGET_KEYS: &str = "
WITH old AS (
    SELECT k.source_id, k.source_change_id FROM sync.sync_pruned_key k
    WHERE k.user_id = $1 AND k.pruned_at < $2 AND NOT EXISTS (
        SELECT 1 FROM sync.sync_row_meta m
        WHERE m.user_id = $1 AND m.schema_name = k.schema_name AND m.table_name = k.table_name AND m.pk_uuid = k.pk_uuid
    )
    LIMIT $3
), noted AS (
    INSERT INTO sync.sync_source AS s (user_id, source_id, forgotten_id)
    SELECT $1, source_id, max(source_change_id) FROM old GROUP BY source_id ORDER BY source_id
    ON CONFLICT (user_id, source_id) DO UPDATE SET forgotten_id = greatest(s.forgotten_id, excluded.forgotten_id)
), gone AS (
    DELETE FROM sync.sync_pruned_key k USING old o
    WHERE k.user_id = $1 AND k.source_id = o.source_id AND k.source_change_id = o.source_change_id
)
SELECT count(*), EXISTS (SELECT 1 FROM sync.sync_pruned_key WHERE user_id = $1) FROM old";

#[async_trait]
impl RetentionStore for PostgresStore {
    async fn take_due(
        &self,
        after: Option<&UserId>,
        before: Timestamp,
        at: Timestamp,
        limit: u32,
    ) -> Result<Vec<UserId>, StoreError> {
        let statement = sqlx::query(TAKE_DUE)
            .bind(after.map_or("", UserId::as_str))
            .bind(TimestampTz(before))
            .bind(TimestampTz(at))
            .bind(i64::from(limit))
            .bind(TimestampTz(cannot_be(before, at)));
        let rows = self.sessions.rows(statement).await.map_err(from_sqlx)?;
        let user = |row: &PgRow| {
            let text: &str = row.try_get(0).map_err(from_sqlx)?;
            UserId::parse(text).map_err(|why| corrupt(format!("a user's id {why}")))
        };
        let mut users: Vec<UserId> = rows.iter().map(user).collect::<Result<_, _>>()?;
        users.sort_unstable();
        Ok(users)
    }

    async fn prune(
        &self,
        user: &UserId,
        cutoffs: Cutoffs,
        after: ServerSeq,
        at: Timestamp,
    ) -> Result<PruneStep, StoreError> {
        let sorted = self.sort(user, cutoffs, after).await?;
        let mut step = sorted.step;
        if !sorted.superseded.is_empty() {
            let statement = sqlx::query(SUPERSEDED)
                .bind(user.as_str())
                .bind(&sorted.superseded)
                .bind(&sorted.digests)
                .bind(TimestampTz(at));
            step.superseded = self.count(statement).await?;
        }
        if !sorted.tombstones.is_empty() {
            let statement = sqlx::query(TOMBSTONES)
                .bind(user.as_str())
                .bind(step.head.0)
                .bind(&sorted.tombstones)
                .bind(TimestampTz(at));
            if self.count(statement).await? == 1 {
                step.tombstones = sorted.tombstones.len() as u64;
            } else if step.superseded > 0 {
                // What went is counted, and the same step is taken again for the rest.
                step.next = Some(after);
            } else {
                return Err(StoreError::Contention);
            }
        }
        Ok(step)
    }

    async fn forget_keys(&self, user: &UserId, before: Timestamp, limit: u32) -> Result<(u64, bool), StoreError> {
        let statement = sqlx::query(FORGET_KEYS).bind(user.as_str()).bind(TimestampTz(before)).bind(i64::from(limit));
        let rows = self.sessions.rows(statement).await.map_err(from_sqlx)?;
        let row = rows.first().ok_or_else(|| corrupt("a count without a row"))?;
        let (gone, any): (i64, bool) = (row.try_get(0).map_err(from_sqlx)?, row.try_get(1).map_err(from_sqlx)?);
        // The statement saw the keys that it has just forgotten.
        Ok((gone.unsigned_abs(), any))
    }

    async fn mark_clean(&self, user: &UserId, head: ServerSeq) -> Result<(), StoreError> {
        let statement = sqlx::query("UPDATE sync.user_stream SET clean_at = $2 WHERE user_id = $1");
        self.sessions.rows(statement.bind(user.as_str()).bind(head.0)).await.map(drop).map_err(from_sqlx)
    }

    async fn restore_mark(&self, skip: NonZeroU32) -> Result<Epoch, StoreError> {
        let epoch = Uuid::new_v4();
        self.mark(epoch, i64::from(skip.get())).await.map_err(from_sqlx)?;
        Ok(Epoch(epoch))
    }
}

/// The entries of one step that go, and the step with nothing counted yet.
#[derive(Default)]
struct Sorted {
    superseded: Vec<i64>,
    digests: Vec<Option<Vec<u8>>>,
    tombstones: Vec<i64>,
    step: PruneStep,
}

impl PostgresStore {
    /// The number that a statement answers which writes.
    async fn count(&self, statement: Query<'_, Postgres, PgArguments>) -> Result<u64, StoreError> {
        let rows = self.sessions.rows(statement).await.map_err(from_commit)?;
        let count: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(from_sqlx)?;
        Ok(count.unsigned_abs())
    }

    /// However long it takes: it is as long as there are streams.
    async fn mark(&self, epoch: Uuid, skip: i64) -> Result<(), sqlx::Error> {
        let mut tx = self.sessions.begin().await?;
        sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(tx.connection()).await?;
        sqlx::query("UPDATE sync.sync_epoch SET epoch = $1").bind(epoch).execute(tx.connection()).await?;
        let skipping = "UPDATE sync.user_stream SET epoch = NULL, last_server_id = last_server_id + $1";
        sqlx::query(skipping).bind(skip).execute(tx.connection()).await?;
        tx.commit().await
    }

    async fn sort(&self, user: &UserId, cutoffs: Cutoffs, after: ServerSeq) -> Result<Sorted, StoreError> {
        let limit = i64::from(STEP_ENTRIES_MAX);
        let statement = sqlx::query(ENTRIES).bind(user.as_str()).bind(after.0).bind(limit).bind(STEP_BYTES_MAX as i64);
        let rows = self.sessions.rows(statement).await.map_err(from_sqlx)?;
        let mut sorted = Sorted::default();
        let Some(first) = rows.first() else { return Ok(sorted) };
        sorted.step.head = ServerSeq(first.try_get(8).map_err(from_sqlx)?);
        let Some(found) = first.try_get::<Option<i64>, _>(9).map_err(from_sqlx)? else { return Ok(sorted) };
        let is_cut = found == limit || found as usize > rows.len();
        let mut sweep = Sweep::new(cutoffs);
        for row in &rows {
            let Entry { aged, payload } = Entry::read(row)?;
            let Some(fate) = sweep.fate(&aged) else {
                sorted.step.next = None;
                break;
            };
            match fate {
                Fate::Kept => {}
                Fate::Superseded => {
                    sorted.superseded.push(aged.server_id.0);
                    sorted.digests.push(payload.map(|payload| payload.digest().to_vec()));
                }
                Fate::Tombstone => sorted.tombstones.push(aged.server_id.0),
            }
            sorted.step.next = is_cut.then_some(aged.server_id);
        }
        sorted.step.left = sweep.left;
        Ok(sorted)
    }
}

struct Entry {
    aged: Aged,
    payload: Option<Payload>,
}

impl Entry {
    fn read(row: &PgRow) -> Result<Self, StoreError> {
        let what = |what: &str| corrupt(format!("an entry of a stream has {what}"));
        let op: &str = row.try_get(2).map_err(from_sqlx)?;
        let text: Option<String> = row.try_get(6).map_err(from_sqlx)?;
        let payload = text.map(|text| Payload::from_text(text).ok_or_else(|| what("a payload that is no object")));
        let aged = || -> Result<Aged, sqlx::Error> {
            Ok(Aged {
                server_id: ServerSeq(row.try_get(0)?),
                at: row.try_get::<TimestampTz, _>(1)?.0,
                op: OpKind::Delete,
                version: RowVersion(row.try_get(3)?),
                row_version: RowVersion(row.try_get(4)?),
                is_projected: row.try_get(5)?,
            })
        };
        let aged = aged().map_err(from_sqlx)?;
        let op = OpKind::parse(op).ok_or_else(|| what("no op"))?;
        Ok(Self { aged: Aged { op, ..aged }, payload: payload.transpose()? })
    }
}
