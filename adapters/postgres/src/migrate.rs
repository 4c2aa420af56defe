//! Brings the schema up to date, however many nodes start at once.
//!
//! All that is missing is applied in one transaction under a lock that ends with it: a failed migration leaves
//! nothing behind, and a session-less proxy may stand in between. The record of what was applied is in
//! the schema `sync`, where it cannot collide with the migrations of an app in the same database.

use std::time::Duration;

use outrigger_application::StoreError;
use sqlx::migrate::{Migration, Migrator};
use sqlx::{Connection, PgConnection};

use crate::error::{self, ConnectError};
use crate::session::Sessions;

/// The oldest major version of Postgres that is supported upstream.
const POSTGRES_MAJOR_MIN: i32 = 14;
/// The key of the advisory lock, unique to this purpose: "outrig" in ASCII.
const LOCK_KEY: i64 = 0x6f75_7472_6967;
const RECORD: &str = "sync.schema_migrations";

/// Applies the migrations that are missing; fails if the database has any that this binary does not know.
pub(crate) async fn run(connection: &mut PgConnection, timeout: Duration) -> Result<(), ConnectError> {
    let migrator = migrator();
    check_server(connection).await?;
    // Without a lock: what is there is there as a whole, and a role that may not create anything can start.
    if is_up_to_date(connection, &migrator).await? {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    sqlx::query("SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', $1, true)")
        .bind(timeout.as_millis().to_string())
        .execute(&mut *transaction)
        .await?;
    lock(&mut transaction, timeout).await?;
    if !is_up_to_date(&mut transaction, &migrator).await? {
        // Not `run`: its bound keeps the future from being `Send` wherever the connection's lifetime is generic.
        migrator.run_direct(None, &mut *transaction, false).await.map_err(ConnectError::Migrate)?;
    }
    transaction.commit().await?;
    Ok(())
}

/// How many migrations the database has, and how many this binary knows. Changes nothing. It fails where [`run`] would.
pub(crate) async fn state(connection: &mut PgConnection) -> Result<(usize, usize), ConnectError> {
    let migrator = migrator();
    check_server(connection).await?;
    Ok((applied(connection, &migrator).await?, migrator.iter().count()))
}

/// Whether the database answers, can be written to, and has the migrations of this binary as they are known here. That a
/// later release has added some does not count: while that is rolled out, both work on the same tables.
pub(crate) async fn still_there(sessions: &Sessions) -> Result<(), StoreError> {
    let mut tx = sessions.begin().await.map_err(error::from_sqlx)?;
    let question =
        "SELECT version, checksum, current_setting('transaction_read_only')::bool FROM sync.schema_migrations";
    let rows = sqlx::query_as(question).fetch_all(tx.connection()).await;
    let rows: Vec<(i64, Vec<u8>, bool)> = rows.map_err(error::from_sqlx)?;
    if rows.iter().any(|(_, _, is_read_only)| *is_read_only) {
        // Left open, so that the connection is closed: after a failover the pool would go on asking a server that is no
        // primary any more, and nobody sends changes to a node that is not ready, of which the first would notice.
        return Err(StoreError::Unavailable("the database can only be read".into()));
    }
    tx.rollback().await.map_err(error::from_sqlx)?;
    let is_known = |migration: &Migration| {
        rows.iter().any(|(version, checksum, _)| *version == migration.version && **checksum == *migration.checksum)
    };
    match migrator().iter().find(|migration| !is_known(migration)) {
        Some(missing) => Err(error::corrupt(format!("migration {} is not there as it is known here", missing.version))),
        None => Ok(()),
    }
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!("../../migrations/postgres");
    migrator.create_schema("sync");
    migrator.dangerous_set_table_name(RECORD);
    // Its own lock belongs to the session and is waited for in silence; `lock` takes another.
    migrator.set_locking(false);
    migrator
}

async fn check_server(connection: &mut PgConnection) -> Result<(), ConnectError> {
    let question = "SELECT current_setting('server_version_num')::int4 / 10000, current_setting('server_encoding')";
    let (major, encoding): (i32, String) = sqlx::query_as(question).fetch_one(connection).await?;
    if major < POSTGRES_MAJOR_MIN {
        return Err(ConnectError::TooOld { found: major, needed: POSTGRES_MAJOR_MIN });
    }
    if encoding != "UTF8" {
        return Err(ConnectError::Encoding { found: encoding });
    }
    Ok(())
}

/// Whether the database has all migrations that this binary knows. That it has others is an error.
async fn is_up_to_date(connection: &mut PgConnection, migrator: &Migrator) -> Result<bool, ConnectError> {
    Ok(applied(connection, migrator).await? == migrator.iter().count())
}

/// How many of the migrations that this binary knows the database has. That it has others is an error.
async fn applied(connection: &mut PgConnection, migrator: &Migrator) -> Result<usize, ConnectError> {
    let exists = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(RECORD);
    if !exists.fetch_one(&mut *connection).await? {
        return Ok(0);
    }
    let applied: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM sync.schema_migrations ORDER BY version DESC")
            .fetch_all(connection)
            .await?;
    let binary = migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
    for (version, checksum) in &applied {
        if *version > binary {
            return Err(ConnectError::Newer { database: *version, binary });
        }
        let known = migrator.iter().find(|migration| migration.version == *version);
        if known.is_none_or(|migration| *migration.checksum != **checksum) {
            return Err(ConnectError::Diverged { version: *version });
        }
    }
    Ok(applied.len())
}

async fn lock(connection: &mut PgConnection, timeout: Duration) -> Result<(), ConnectError> {
    let free = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)").bind(LOCK_KEY);
    if free.fetch_one(&mut *connection).await? {
        return Ok(());
    }
    tracing::info!("another node is migrating the database, waiting for it");
    match sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK_KEY).execute(connection).await {
        Err(error) if error::is_lock_timeout(&error) => Err(ConnectError::Locked { waited: timeout }),
        locked => Ok(locked.map(drop)?),
    }
}
