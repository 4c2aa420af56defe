//! Writes a plan, or nothing.

use outrigger_application::StoreError;
use outrigger_domain::{Plan, UserId};
use sqlx::Row;
use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;

use crate::error::{from_commit, from_sqlx};
use crate::session::Sessions;
use crate::timestamp::TimestampTz;

/// One statement that is its own transaction: a caller that goes away leaves nothing open.
///
/// `turn` has one row if the stream ended at $2 and now ends at $3, and else none; all that is written comes
/// through it. A commit that races this one waits for the row's lock at `moved` (`born` for a user's first),
/// sees the new end once it has it, and writes nothing. A stream that has lost its row stays lost.
///
/// When `turn` has a row, nobody has written for this user since the plan's snapshot, so this statement's own snapshot
/// is as good, and `changed` must find every row that the plan knows, at a lower version. If it does
/// not, someone else wrote to the tables; the last line then divides by zero, which undoes all.
///
/// `entry` carries the user, so that the joins on it can only look up whole keys: with a constant, the
/// planner may prefer to read all rows of the user. `known` is null for an entry that a later one of the same
/// row supersedes.
const COMMIT: &str = "
WITH moved AS (
    UPDATE sync.user_stream SET last_server_id = $3
    WHERE user_id = $1 AND last_server_id = $2
    RETURNING 1
), born AS (
    INSERT INTO sync.user_stream (user_id, last_server_id)
    SELECT $1, $3 WHERE $2 = 0
    ON CONFLICT (user_id) DO NOTHING
    RETURNING 1
), turn AS (
    SELECT 1 FROM moved UNION ALL SELECT 1 FROM born LIMIT 1
), entry AS MATERIALIZED (
    SELECT $1 AS user_id, $2 + e.place AS server_id, e.schema_name, e.table_name, e.op, e.pk_uuid,
           e.payload::json AS payload, e.source_id, e.source_change_id, e.server_version, e.known
    FROM turn CROSS JOIN unnest(
        $5::text[], $6::text[], $7::text[], $8::uuid[], $9::text[], $10::text[], $11::int8[], $12::int8[], $13::bool[]
    ) WITH ORDINALITY AS e (
        schema_name, table_name, op, pk_uuid, payload, source_id, source_change_id, server_version, known, place
    )
), logged AS (
    INSERT INTO sync.server_change_log (
        user_id, server_id, schema_name, table_name, op, pk_uuid, payload, source_id, source_change_id,
        server_version, ts
    )
    SELECT user_id, server_id, schema_name, table_name, op, pk_uuid, payload, source_id, source_change_id,
           server_version, $4
    FROM entry
), created AS (
    INSERT INTO sync.sync_row_meta (
        user_id, schema_name, table_name, pk_uuid, server_version, deleted, updated_at
    )
    SELECT user_id, schema_name, table_name, pk_uuid, server_version, op = 'DELETE', $4
    FROM entry WHERE NOT known
), changed AS (
    UPDATE sync.sync_row_meta m
    SET server_version = e.server_version, deleted = e.op = 'DELETE', updated_at = $4
    FROM entry e
    WHERE e.known AND m.user_id = e.user_id AND m.schema_name = e.schema_name AND m.table_name = e.table_name
      AND m.pk_uuid = e.pk_uuid AND m.server_version < e.server_version
    RETURNING 1
), stored AS (
    INSERT INTO sync.sync_state (user_id, schema_name, table_name, pk_uuid, payload)
    SELECT user_id, schema_name, table_name, pk_uuid, payload
    FROM entry WHERE known IS NOT NULL AND op <> 'DELETE'
    ON CONFLICT (user_id, schema_name, table_name, pk_uuid) DO UPDATE SET payload = excluded.payload
), cleared AS (
    DELETE FROM sync.sync_state s USING entry e
    WHERE e.known AND e.op = 'DELETE' AND s.user_id = e.user_id AND s.schema_name = e.schema_name
      AND s.table_name = e.table_name AND s.pk_uuid = e.pk_uuid
)
SELECT (SELECT count(*) FROM turn),
       1 / ((SELECT count(*) FROM changed) = (SELECT count(*) FROM entry WHERE known))::int4";

/// Appends the plan to the user's stream if that still ends where the plan was made.
pub(crate) async fn commit(sessions: &Sessions, user: &UserId, plan: &Plan) -> Result<(), StoreError> {
    debug_assert!(!plan.log.is_empty(), "a plan without entries swaps nothing, so it could win along with another");
    let answer = sessions.rows(statement(user, plan)).await.map_err(from_commit)?;
    let turns: Result<i64, _> = answer.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| row.try_get(0));
    let turns = turns.map_err(from_sqlx)?;
    if turns == 1 { Ok(()) } else { Err(StoreError::Contention) }
}

fn statement<'q>(user: &'q UserId, plan: &'q Plan) -> Query<'q, Postgres, PgArguments> {
    let log = &plan.log;
    let mut known = vec![None; log.len()];
    for effect in &plan.rows {
        known[effect.entry] = Some(effect.known);
    }
    sqlx::query(COMMIT)
        .bind(user.as_str())
        .bind(plan.head.seq.0)
        .bind(plan.next_head().0)
        .bind(TimestampTz(plan.at))
        .bind(log.iter().map(|entry| entry.change.row.table.schema()).collect::<Vec<_>>())
        .bind(log.iter().map(|entry| entry.change.row.table.table()).collect::<Vec<_>>())
        .bind(log.iter().map(|entry| entry.change.op.kind().as_str()).collect::<Vec<_>>())
        .bind(log.iter().map(|entry| entry.change.row.pk).collect::<Vec<_>>())
        .bind(log.iter().map(|entry| entry.change.op.payload().map(|payload| payload.as_str())).collect::<Vec<_>>())
        .bind(log.iter().map(|entry| entry.source.as_str()).collect::<Vec<_>>())
        .bind(log.iter().map(|entry| entry.change.source_change_id.0).collect::<Vec<_>>())
        .bind(log.iter().map(|entry| entry.version.0).collect::<Vec<_>>())
        .bind(known)
}
