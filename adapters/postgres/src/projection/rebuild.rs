//! Projecting again what the sidecar has.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::Timestamp;
use outrigger_application::StoreError;
use outrigger_application::ports::projection::{RebuildCursor, RebuildStep, Retried};
use outrigger_domain::change::OpKind;
use outrigger_domain::{Payload, RowKey, RowVersion, TableName, UserId};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use super::careful::Careful;
use super::failures;
use super::values::NetChange;
use crate::PostgresStore;
use crate::error::{self, corrupt, from_sqlx};

/// In the order of the primary key, so that no index is needed that every commit would have to keep up. A tombstone that
/// left nothing of its user's behind has nothing to do with who is there now.
const KEYS: &str = "
SELECT user_id, pk_uuid FROM sync.sync_row_meta
WHERE (user_id, schema_name, table_name, pk_uuid) > ($1, $2, $3, $4) AND schema_name = $2 AND table_name = $3
  AND (projected OR NOT deleted)
ORDER BY user_id, schema_name, table_name, pk_uuid LIMIT $5";
const STATES: &str = "
SELECT w.pk, m.server_version, m.deleted, m.payload
FROM unnest($4::uuid[]) AS w (pk)
CROSS JOIN LATERAL (
    SELECT r.server_version, r.deleted, (
        SELECT s.payload::text FROM sync.sync_state s
        WHERE s.user_id = $1 AND s.schema_name = $2 AND s.table_name = $3 AND s.pk_uuid = w.pk
    ) AS payload
    FROM sync.sync_row_meta r
    WHERE r.user_id = $1 AND r.schema_name = $2 AND r.table_name = $3 AND r.pk_uuid = w.pk
    LIMIT 1
) m";
/// Serialises a transaction with the user's uploads. A commit that waits for it looks at the rows as they were before, and
/// must not: it is told by the counter, which need not be without gaps.
const TURN: &str = "UPDATE sync.user_stream SET last_failure_id = last_failure_id + 1 WHERE user_id = $1";
/// One retry of a failure at a time. Not a lock of the failure's row: an upload takes that while it holds the user's
/// row, and a retry would have to take the two the other way round.
const RETRY_LOCK: &str = "SELECT pg_try_advisory_xact_lock(hashtextextended($1, $2))";

/// The state of a row in the sidecar.
struct State {
    key: RowKey,
    version: RowVersion,
    payload: Option<Payload>,
}

impl State {
    fn change(&self) -> NetChange<'_> {
        let op = match &self.payload {
            None => OpKind::Delete,
            Some(_) if self.version.0 == 1 => OpKind::Insert,
            Some(_) => OpKind::Update,
        };
        NetChange { key: &self.key, version: self.version, op, payload: self.payload.as_ref(), known: true }
    }
}

/// See [`ProjectionStore::retry`](outrigger_application::ProjectionStore::retry).
pub(crate) async fn retry(store: &PostgresStore, user: &UserId, id: i64) -> Result<Retried, StoreError> {
    look_again(store).await;
    let mut tx = store.sessions.begin().await.map_err(from_sqlx)?;
    let free = sqlx::query_scalar(RETRY_LOCK).bind(user.as_str()).bind(id).fetch_one(tx.connection());
    if !free.await.map_err(from_sqlx)? {
        tx.rollback().await.map_err(from_sqlx)?;
        return Ok(Retried::InProgress);
    }
    sqlx::query(TURN).bind(user.as_str()).execute(tx.connection()).await.map_err(from_sqlx)?;
    let select = format!("SELECT {} FROM sync.materialize_failures WHERE user_id = $1 AND id = $2", failures::COLUMNS);
    let found = sqlx::query(AssertSqlSafe(select)).bind(user.as_str()).bind(id).fetch_optional(tx.connection());
    let Some(found) = found.await.map_err(from_sqlx)? else {
        tx.rollback().await.map_err(from_sqlx)?;
        return Ok(Retried::Unknown);
    };
    let RowKey { table, pk } = failures::read(&found)?.row;
    let states = states(tx.connection(), user, (&table, &[pk])).await?;
    if states.is_empty() {
        // Of a row that is forgotten nothing is left to be tried.
        let remove = sqlx::query("DELETE FROM sync.materialize_failures WHERE user_id = $1 AND id = $2");
        remove.bind(user.as_str()).bind(id).execute(tx.connection()).await.map_err(from_sqlx)?;
        tx.commit().await.map_err(from_sqlx)?;
        return Ok(Retried::Unknown);
    }
    if !store.projection.projects(&store.projection.targets(), &table) {
        let failed = count_up(tx.connection(), user, (id, format!("table {table} is not projected"))).await?;
        tx.commit().await.map_err(from_sqlx)?;
        return Ok(failed);
    }
    let failed = project(store, tx.connection(), user, &states).await?;
    let retried = match failed.into_values().next() {
        None => Retried::Materialized,
        Some(why) => count_up(tx.connection(), user, (id, why)).await?,
    };
    tx.commit().await.map_err(from_sqlx)?;
    Ok(retried)
}

/// See [`ProjectionStore::rebuild`](outrigger_application::ProjectionStore::rebuild).
pub(crate) async fn rebuild(
    store: &PostgresStore,
    table: &TableName,
    (after, limit): (Option<RebuildCursor>, u32),
    at: Timestamp,
) -> Result<RebuildStep, StoreError> {
    let mut step = RebuildStep::default();
    look_again(store).await;
    if !store.projection.projects(&store.projection.targets(), table) {
        return Ok(step);
    }
    let (user, pk) = after.as_ref().map_or(("", Uuid::nil()), |after| (after.user.as_str(), after.pk));
    let keys =
        sqlx::query(KEYS).bind(user).bind(table.schema()).bind(table.table()).bind(pk).bind(i64::from(limit) + 1);
    let mut keys = store.sessions.rows(keys).await.map_err(from_sqlx)?;
    let more = keys.len() > limit as usize;
    keys.truncate(limit as usize);
    let mut by_user: BTreeMap<String, Vec<Uuid>> = BTreeMap::new();
    for row in &keys {
        let (user, pk) = (row.try_get(0).map_err(from_sqlx)?, row.try_get(1).map_err(from_sqlx)?);
        by_user.entry(user).or_default().push(pk);
    }
    for (user, pks) in by_user {
        let user = UserId::parse(&user).map_err(|_| corrupt("a row of a user whose id is none"))?;
        let (rows, failed) = rebuild_user(store, &user, (table, &pks), at).await?;
        step.failed += failed as u64;
        step.projected += (rows - failed) as u64;
        step.next = pks.last().map(|&pk| RebuildCursor { user, pk });
    }
    step.next = step.next.filter(|_| more);
    Ok(step)
}

/// A failure is tried again because something was mended, which may be the table itself.
async fn look_again(store: &PostgresStore) {
    if let Err(error) = store.projection.reload(&store.projecting).await {
        tracing::warn!(error = error::describe(&error), "cannot read the catalog of the business tables");
    }
}

/// Gives how many rows there were, and how many of them failed. One that was forgotten meanwhile is not there.
async fn rebuild_user(
    store: &PostgresStore,
    user: &UserId,
    (table, pks): (&TableName, &[Uuid]),
    at: Timestamp,
) -> Result<(usize, usize), StoreError> {
    let mut tx = store.sessions.begin().await.map_err(from_sqlx)?;
    sqlx::query(TURN).bind(user.as_str()).execute(tx.connection()).await.map_err(from_sqlx)?;
    let states = states(tx.connection(), user, (table, pks)).await?;
    let failed = project(store, tx.connection(), user, &states).await?;
    let rows: Vec<NetChange<'_>> = states.iter().map(State::change).collect();
    failures::record(tx.connection(), user, at, (&rows, &failed)).await.map_err(from_sqlx)?;
    tx.commit().await.map_err(from_sqlx)?;
    Ok((rows.len(), failed.len()))
}

async fn states(
    tx: &mut PgConnection,
    user: &UserId,
    (table, pks): (&TableName, &[Uuid]),
) -> Result<Vec<State>, StoreError> {
    let found = sqlx::query(STATES).bind(user.as_str()).bind(table.schema()).bind(table.table()).bind(pks);
    let mut states = Vec::new();
    for row in found.fetch_all(tx).await.map_err(from_sqlx)? {
        let pk = row.try_get(0).map_err(from_sqlx)?;
        let text: Option<String> = row.try_get(3).map_err(from_sqlx)?;
        let payload = text.and_then(Payload::from_text);
        if payload.is_none() != row.try_get::<bool, _>(2).map_err(from_sqlx)? {
            return Err(corrupt(format!("the state of {table} {pk} is missing or no object")));
        }
        let version = RowVersion(row.try_get(1).map_err(from_sqlx)?);
        states.push(State { key: RowKey { table: table.clone(), pk }, version, payload });
    }
    Ok(states)
}

async fn project(
    store: &PostgresStore,
    tx: &mut PgConnection,
    user: &UserId,
    states: &[State],
) -> Result<BTreeMap<usize, String>, StoreError> {
    let rows: Vec<NetChange<'_>> = states.iter().map(State::change).collect();
    let targets = store.projection.targets();
    let deadline = Instant::now() + store.projection.timeout();
    let careful = Careful { projection: &store.projection, targets: &targets, user, rows: &rows, deadline };
    careful.run(tx, (0..rows.len()).map(|row| vec![row]).collect()).await.map_err(from_sqlx)
}

async fn count_up(tx: &mut PgConnection, user: &UserId, (id, why): (i64, String)) -> Result<Retried, StoreError> {
    let update = format!(
        "UPDATE sync.materialize_failures SET retry_count = retry_count + 1, error = $3
         WHERE user_id = $1 AND id = $2 RETURNING {}",
        failures::COLUMNS
    );
    let updated =
        sqlx::query(AssertSqlSafe(update)).bind(user.as_str()).bind(id).bind(why.replace('\0', "")).fetch_one(tx).await;
    failures::read(&updated.map_err(from_sqlx)?).map(Retried::Failed)
}
