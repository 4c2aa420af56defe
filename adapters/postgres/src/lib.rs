//! The store for production: streams in the schema `sync` of a Postgres database.
//!
//! Every call of the port is one statement, and with it one round trip and one snapshot: `load` and `page` see one
//! moment, and `commit` is a single statement that is in force as a whole or not at all. No call opens a
//! transaction that could outlive it. Correctness rests on the compare-and-swap of `sync.user_stream`
//! alone, whatever the isolation level of the server; the settings of the session only make it fast.
//!
//! # Behind a transaction-pooling proxy
//!
//! Nothing relies on a session, so a proxy such as `PgBouncer` may stand in front of Postgres. It has to support
//! prepared statements (`PgBouncer` 1.21 with `max_prepared_statements` above 0), and
//! [`PostgresOptions::session_settings`] has to be off unless it lets the start-up parameter `options` through.
//! The same settings can then be given to the role: `ALTER ROLE … SET plan_cache_mode = force_generic_plan`.

mod commit;
mod demo;
mod error;
mod load;
mod migrate;
mod page;
mod session;
mod timestamp;

use std::time::Duration;

use async_trait::async_trait;
use outrigger_application::{StoreError, SyncStore};
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{Plan, Snapshot, UserId, Wanted};

pub use error::ConnectError;
use session::Sessions;

/// How long [`PostgresStore::ping`] waits for an answer.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How the store uses its database.
///
/// What belongs to the connection itself (TLS, `application_name`, `statement-cache-capacity`) is part of the url.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Connections that the store opens, at the most.
    pub max_connections: u32,
    /// How long a call waits for a connection, and a start-up for the first one.
    pub acquire_timeout: Duration,
    /// How long a statement may run before the server cancels it.
    pub statement_timeout: Duration,
    /// How long a start-up waits for another node that is migrating the database.
    pub migration_timeout: Duration,
    /// Whether to send the settings of a session as it is opened. Some proxies refuse that.
    pub session_settings: bool,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
            migration_timeout: Duration::from_secs(60),
            session_settings: true,
        }
    }
}

/// A [`SyncStore`] on a Postgres database. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    sessions: Sessions,
}

impl PostgresStore {
    /// Connects to the database and brings its schema up to date. Any number of nodes may do so at once.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self, ConnectError> {
        let target = session::target(url, &options)?;
        let mut connection = session::open(&target, options.acquire_timeout).await?;
        migrate::run(&mut connection, options.migration_timeout).await?;
        session::close(connection).await;
        Ok(Self { sessions: Sessions::new(target, &options) })
    }

    /// Closes all connections, waiting for the calls that are under way. Later calls fail.
    pub async fn close(&self) {
        self.sessions.close().await;
    }
}

#[async_trait]
impl SyncStore for PostgresStore {
    async fn load(&self, user: &UserId, wanted: &Wanted) -> Result<Snapshot, StoreError> {
        load::load(&self.sessions, user, wanted).await
    }

    async fn commit(&self, user: &UserId, plan: Plan) -> Result<(), StoreError> {
        commit::commit(&self.sessions, user, &plan).await
    }

    async fn page(&self, user: &UserId, query: &PageQuery) -> Result<Slice, StoreError> {
        page::page(&self.sessions, user, query).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let answer = self.sessions.rows(sqlx::query("SELECT 1"));
        match tokio::time::timeout(PING_TIMEOUT, answer).await {
            Ok(answer) => answer.map(drop).map_err(error::from_sqlx),
            Err(elapsed) => Err(StoreError::Unavailable(elapsed.into())),
        }
    }
}
