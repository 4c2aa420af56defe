//! Writes a plan, or nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use outrigger_application::StoreError;
use outrigger_application::projection::net;
use outrigger_domain::{Plan, TableName, UserId};
use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row};

use crate::PostgresStore;
use crate::error::{self, from_commit, from_sqlx};
use crate::projection::careful::{Careful, TIMED_OUT};
use crate::projection::parts::{self, Part};
use crate::projection::values::{self, NetChange};
use crate::projection::{Targets, failures};
use crate::session;
use crate::timestamp::TimestampTz;
use sidecar::Sidecar;

mod assumed;
pub(crate) mod sidecar;
mod unlogged;

/// The rows that the statement projects have no failures any more. A row that is not known has none: they are forgotten
/// with it. Most users have none at all, which is asked once.
const CURED: &str = ", cured AS (
    DELETE FROM sync.materialize_failures f USING entry e
    WHERE (SELECT EXISTS (SELECT FROM sync.materialize_failures a WHERE a.user_id = $1))
      AND e.projected IS NOT NULL AND f.user_id = e.user_id AND f.schema_name = e.schema_name
      AND f.table_name = e.table_name AND f.pk_uuid = e.pk_uuid
)";

/// What came of writing the sidecar and the business tables in one statement.
enum Whole {
    Done,
    /// Nothing was written; it has to be done in parts.
    Refused {
        /// Whether it took too long, so that it is of no use to try the same again.
        timed_out: bool,
    },
}

/// Appends the plan to the user's stream if that still ends where the plan was made, and projects its rows.
pub(crate) async fn commit(store: &PostgresStore, user: &UserId, plan: &Plan) -> Result<(), StoreError> {
    debug_assert!(!plan.is_empty(), "a commit that writes nothing");
    let rows = values::of_plan(plan);
    let targets = store.projection.targets();
    if !rows.iter().any(|row| store.projection.projects(&targets, &row.key.table)) {
        let written = store.sessions.rows(statement(Sidecar::of(plan).text(), user, (plan, None))).await;
        return won(&written.map_err(from_commit)?);
    }
    let started = Instant::now();
    let mut whole = commit_whole(store, user, (plan, &rows, &targets)).await?;
    if matches!(whole, Whole::Refused { timed_out: false }) {
        let changed = store.projection.reload(&store.projecting).await.unwrap_or_else(|error| {
            tracing::warn!(error = error::describe(&error), "cannot read the catalog of the business tables");
            false
        });
        if changed {
            whole = commit_whole(store, user, (plan, &rows, &store.projection.targets())).await?;
        }
    }
    if matches!(whole, Whole::Done) {
        return Ok(());
    }
    let bound = store.projection.timeout();
    let left = bound - started.elapsed().min(bound / 2);
    let in_parts = async |time: Result<Duration, &str>| {
        let answer = commit_in_parts(store, user, (plan, &rows, time));
        let answered = tokio::time::timeout(store.sessions.answer_timeout() + bound, answer).await;
        answered.unwrap_or_else(|_| Err(session::timed_out().into()))
    };
    match in_parts(Ok(left)).await {
        // What a trigger of the app had put off to the very end. The sidecar is written in any case.
        Err(Failed::AtCommit(_)) => {
            in_parts(Err("the database refused it at the commit")).await.map_err(Failed::into_store)
        }
        // A trigger that does not let itself be stopped. If it is the database that is gone, this fails as well.
        Err(Failed::Projecting(_)) => in_parts(Err(TIMED_OUT)).await.map_err(Failed::into_store),
        answer => answer.map_err(Failed::into_store),
    }
}

/// One statement for all of it.
async fn commit_whole(
    store: &PostgresStore,
    user: &UserId,
    (plan, rows, targets): (&Plan, &[NetChange<'_>], &Targets),
) -> Result<Whole, StoreError> {
    let refused = Whole::Refused { timed_out: false };
    let Some(mut parts) = parts::sorted(&store.projection, targets, rows) else { return Ok(refused) };
    let sidecar = Sidecar::of(plan);
    let key = |parts: &[Part<'_>]| (parts.iter().map(Part::form).collect(), Some(sidecar));
    let text = targets.statement(key(&parts), || whole_text(&parts, sidecar)).or_else(|| {
        parts = parts::merged(std::mem::take(&mut parts));
        targets.statement(key(&parts), || whole_text(&parts, sidecar))
    });
    let Some(text) = text else { return Ok(refused) };
    let names: Vec<&TableName> = parts.iter().map(Part::table).collect();
    let statement = statement(text, user, (plan, Some(&names)));
    let statement = parts.into_iter().fold(statement, |statement, part| part.bind(statement, sidecar));
    match store.projecting.rows(statement).await {
        Ok(answer) => won(&answer).map(|()| Whole::Done),
        Err(error) if error::is_timeout(&error) => Ok(Whole::Refused { timed_out: true }),
        Err(error) if error::ends_connection(&error) => Err(from_commit(error)),
        // Be it of the sidecar or of a business table: the parts tell. Not even a code that means contention says
        // which, since a trigger may raise any.
        Err(_) => Ok(refused),
    }
}

fn whole_text(parts: &[Part<'_>], sidecar: Sidecar) -> String {
    let mut text = sidecar.writes(true);
    let shortfalls = parts::fragments(&mut text, parts, sidecar);
    text += if sidecar.has_known { CURED } else { "" };
    text += &sidecar.answer();
    for shortfall in shortfalls {
        text += &format!(", 1 / ({shortfall} = 0)::int4");
    }
    text
}

/// Why a transaction did not come about.
enum Failed {
    Before(StoreError),
    Projecting(sqlx::Error),
    AtCommit(sqlx::Error),
}

impl Failed {
    fn into_store(self) -> StoreError {
        match self {
            Self::Before(error) => error,
            Self::Projecting(error) | Self::AtCommit(error) => from_commit(error),
        }
    }
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Before(from_commit(error))
    }
}

/// The sidecar first, and then what can be projected in the time that is left; or nothing, for the reason that is given.
async fn commit_in_parts(
    store: &PostgresStore,
    user: &UserId,
    (plan, rows, time): (&Plan, &[NetChange<'_>], Result<Duration, &str>),
) -> Result<(), Failed> {
    let mut tx = store.sessions.begin().await?;
    let written = statement(Sidecar::of(plan).text(), user, (plan, None)).fetch_all(tx.connection()).await?;
    if let Err(lost) = won(&written) {
        tx.rollback().await?;
        return Err(Failed::Before(lost));
    }
    let (projection, targets) = (&store.projection, &store.projection.targets());
    let failed = match time {
        Ok(left) => {
            let careful = Careful { projection, targets, user, rows, deadline: Instant::now() + left };
            careful.run(tx.connection(), net::groups(plan)).await.map_err(Failed::Projecting)?
        }
        Err(why) => {
            let projected = (0..rows.len()).filter(|&row| projection.projects(targets, &rows[row].key.table));
            projected.map(|row| (row, why.to_owned())).collect()
        }
    };
    failures::record(tx.connection(), user, plan.at, (rows, &failed)).await?;
    match tx.commit().await {
        Err(error @ sqlx::Error::Database(_)) => Err(Failed::AtCommit(error)),
        ended => Ok(ended?),
    }
}

fn won(answer: &[PgRow]) -> Result<(), StoreError> {
    let was_our_turn: Result<bool, _> = answer.first().ok_or(sqlx::Error::RowNotFound).and_then(|row| row.try_get(0));
    if was_our_turn.map_err(from_sqlx)? { Ok(()) } else { Err(StoreError::Contention) }
}

/// With the tables whose rows the same statement projects.
fn statement<'q>(
    text: Arc<str>,
    user: &'q UserId,
    (plan, projected): (&'q Plan, Option<&[&TableName]>),
) -> Query<'q, Postgres, PgArguments> {
    let log = &plan.log;
    let mut known = vec![None; log.len()];
    let mut marks = vec![None; log.len()];
    for effect in &plan.rows {
        let change = &log[effect.entry].change;
        known[effect.entry] = Some(effect.known);
        if projected.is_some_and(|tables| tables.contains(&&change.row.table)) {
            marks[effect.entry] = Some(change.op.payload().is_some());
        }
    }
    let statement = sqlx::query(AssertSqlSafe(text))
        .bind(user.as_str())
        .bind(plan.head.seq.0)
        .bind(plan.next_head().0)
        .bind(TimestampTz(plan.at));
    let statement = match log.as_slice() {
        [entry] => statement
            .bind(entry.change.row.table.schema())
            .bind(entry.change.row.table.table())
            .bind(entry.change.op.kind().as_str())
            .bind(entry.change.row.pk)
            .bind(entry.change.op.payload().map(|payload| payload.as_str()))
            .bind(entry.source.as_str())
            .bind(entry.change.source_change_id.0)
            .bind(entry.version.0)
            .bind(known[0])
            .bind(marks[0]),
        _ => statement
            .bind(log.iter().map(|entry| entry.change.row.table.schema()).collect::<Vec<_>>())
            .bind(log.iter().map(|entry| entry.change.row.table.table()).collect::<Vec<_>>())
            .bind(log.iter().map(|entry| entry.change.op.kind().as_str()).collect::<Vec<_>>())
            .bind(log.iter().map(|entry| entry.change.row.pk).collect::<Vec<_>>())
            .bind(log.iter().map(|entry| entry.change.op.payload().map(|payload| payload.as_str())).collect::<Vec<_>>())
            .bind(log.iter().map(|entry| entry.source.as_str()).collect::<Vec<_>>())
            .bind(log.iter().map(|entry| entry.change.source_change_id.0).collect::<Vec<_>>())
            .bind(log.iter().map(|entry| entry.version.0).collect::<Vec<_>>())
            .bind(known)
            .bind(marks),
    };
    unlogged::bind(assumed::bind(statement, plan), plan)
}
