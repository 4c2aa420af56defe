//! Sessions: how they are set up, and what runs in one.

use std::io;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Postgres};
use tracing::{Instrument, debug_span};

use crate::PostgresOptions;
use crate::error::{self, ConnectError};
use crate::pool::{Lease, Pool};

/// What a call waits for an answer beyond the time in which the server must have cancelled it: then the network
/// or the server is gone without a word.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// Where to connect to, and how.
pub(crate) fn target(url: &str, options: &PostgresOptions) -> Result<PgConnectOptions, ConnectError> {
    let mut target: PgConnectOptions = url.parse().map_err(ConnectError::Url)?;
    if target.get_application_name().is_none() {
        target = target.application_name("outrigger");
    }
    // There are no floats here, and a proxy may refuse the parameter.
    target = target.extra_float_digits(None);
    if options.session_settings {
        target = target.options(settings(options));
    }
    Ok(target)
}

/// Every statement is a handful of look-ups by a whole key, whatever the arguments. So one plan is made per
/// connection and kept, and it must not depend on how small the tables were at that time.
fn settings(options: &PostgresOptions) -> [(&'static str, String); 9] {
    let ms = options.statement_timeout.as_millis().to_string();
    [
        ("plan_cache_mode", "force_generic_plan".into()),
        ("enable_seqscan", "off".into()),
        // Without statistics, as behind a restored dump, a stream is taken for short: to collect what is left of it and
        // then to sort it looks cheaper than to read one page in the order of the key.
        ("enable_bitmapscan", "off".into()),
        ("jit", "off".into()),
        ("default_transaction_isolation", "read committed".into()),
        ("statement_timeout", ms.clone()),
        ("lock_timeout", options.lock_timeout.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", ms),
        // A call that was dropped closes its connection, but the backend would not look at it before the statement
        // ends: without this, impatient devices and a slow database use up the connections of the server.
        ("client_connection_check_interval", "500".into()),
    ]
}

/// Opens one connection outside the pool, whose errors would hide the cause.
pub(crate) async fn open(target: &PgConnectOptions, timeout: Duration) -> Result<PgConnection, ConnectError> {
    let opened = tokio::time::timeout(timeout, target.connect()).await;
    opened.unwrap_or_else(|_| Err(timed_out())).map_err(|source| ConnectError::Unreachable {
        host: target.get_host().to_owned(),
        port: target.get_port(),
        source,
    })
}

/// Closes a connection politely; that it was gone already is no loss.
pub(crate) async fn close(connection: PgConnection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "a connection did not close cleanly");
    }
}

/// What a pool of connections has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// Connections that are waiting for work.
    pub idle: usize,
    /// Connections that are lent out, or being opened.
    pub busy: usize,
    /// Connections that may be open.
    pub max: usize,
}

/// The store's connections.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    pool: Pool,
    answer_timeout: Duration,
    /// What begins the transaction of a statement, where the sessions themselves have no bounds.
    bounded: Option<String>,
}

impl Sessions {
    /// Opens connections to the target when they are needed.
    pub(crate) fn new(target: PgConnectOptions, options: &PostgresOptions, connections: u32) -> Self {
        let pool = Pool::new(target, connections, options.acquire_timeout);
        Self { pool, answer_timeout: options.statement_timeout + ANSWER_GRACE, bounded: None }
    }

    /// For statements that project, which have half of the bound, and an eighth for each lock.
    ///
    /// No statement timeout bounds what a trigger does at the commit. So the answer is not waited for any longer: the
    /// connection is closed, and the server undoes what it was doing.
    pub(crate) fn projecting(target: &PgConnectOptions, options: &PostgresOptions, connections: u32) -> Self {
        let of = |part: u32| (options.projection_timeout / part).max(Duration::from_millis(1));
        let (statement, lock) = (of(2).as_millis().to_string(), of(8).as_millis().to_string());
        let (target, bounded) = if options.session_settings {
            (target.clone().options([("statement_timeout", &statement), ("lock_timeout", &lock)]), None)
        } else {
            let bounds = format!("SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock}");
            (target.clone(), Some(format!("{BEGIN}; {bounds}")))
        };
        Self { answer_timeout: of(2) + of(8), bounded, ..Self::new(target, options, connections) }
    }

    /// Runs one statement, in a transaction of its own, and collects its rows.
    pub(crate) async fn rows(&self, statement: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, sqlx::Error> {
        self.run(statement).instrument(debug_span!("sql", db.system.name = "postgresql")).await
    }

    async fn run(&self, statement: Query<'_, Postgres, PgArguments>) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut lease = self.pool.lend().await?;
        let answer = self.answer(lease.connection(), statement);
        let answer = tokio::time::timeout(self.answer_timeout, answer).await.unwrap_or_else(|_| Err(timed_out()));
        lease.reusable = answer.as_ref().err().is_none_or(error::leaves_connection_usable);
        answer
    }

    async fn answer(
        &self,
        connection: &mut PgConnection,
        statement: Query<'_, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let Some(begin) = &self.bounded else { return connection.fetch_all(statement).await };
        sqlx::raw_sql(AssertSqlSafe(begin.clone())).execute(&mut *connection).await?;
        let answer = connection.fetch_all(statement).await;
        let end = if answer.is_ok() { "COMMIT" } else { "ROLLBACK" };
        // A transaction that could not even be undone has taken its connection with it, which counts for more.
        sqlx::raw_sql(end).execute(connection).await?;
        answer
    }

    /// What a transaction of a few statements may take, beyond which the network or the server is gone.
    pub(crate) fn answer_timeout(&self) -> Duration {
        self.answer_timeout
    }

    /// Opens a transaction. Dropped before its end it closes its connection, whatever that was doing.
    pub(crate) async fn begin(&self) -> Result<Open, sqlx::Error> {
        let mut lease = self.pool.lend().await?;
        sqlx::raw_sql(BEGIN).execute(lease.connection()).await?;
        Ok(Open { lease })
    }

    /// What the pool has open now.
    pub(crate) fn in_use(&self) -> PoolUse {
        self.pool.in_use()
    }

    /// Closes all connections, waiting for the calls that are under way. Later ones fail.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// An open transaction.
pub(crate) struct Open {
    lease: Lease,
}

impl Open {
    /// The connection, inside the transaction.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.lease.connection()
    }

    /// Makes it last.
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        self.end("COMMIT").await
    }

    /// Undoes it.
    pub(crate) async fn rollback(self) -> Result<(), sqlx::Error> {
        self.end("ROLLBACK").await
    }

    async fn end(mut self, how: &'static str) -> Result<(), sqlx::Error> {
        let ended = sqlx::raw_sql(how).execute(self.lease.connection()).await.map(drop);
        self.lease.reusable = ended.as_ref().err().is_none_or(error::leaves_connection_usable);
        ended
    }
}

pub(crate) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_the_systems_user_unless_the_url_names_one() {
        let role = |url: &str| target(url, &PostgresOptions::default()).unwrap().get_username().to_owned();
        assert_eq!(role("postgres://app@localhost/app"), "app");
        if std::env::var_os("PGUSER").is_none() {
            let id = std::process::Command::new("id").arg("-un").output().unwrap();
            assert_eq!(role("postgres://localhost/app"), String::from_utf8(id.stdout).unwrap().trim());
        }
    }
}
