//! The store for production: streams in the schema `sync` of a Postgres database.
//!
//! Every call of the port is one statement, and with it one round trip and one snapshot: `load` and `page` see one
//! moment, and `commit` is a single statement that is in force as a whole or not at all. Most uploads are a commit alone,
//! made on what [`assume`](SyncStore::assume) takes for likely and checked as it is written. No call opens a
//! transaction that could outlive it. Correctness rests on the compare-and-swap of `sync.user_stream`
//! alone, whatever the isolation level of the server; the settings of the session only make it fast.
//!
//! # Behind a transaction-pooling proxy
//!
//! Nothing relies on a session, so a proxy such as `PgBouncer` may stand in front of Postgres. It has to support
//! prepared statements (`PgBouncer` 1.21 with `max_prepared_statements` above 0), and
//! [`PostgresOptions::session_settings`] has to be off unless it lets the start-up parameter `options` through.
//! The same settings can then be given to the role: `ALTER ROLE … SET plan_cache_mode = force_generic_plan`.

mod assume;
mod commit;
mod contacts;
mod demo;
mod error;
mod examine;
mod load;
mod migrate;
mod news;
mod page;
mod pool;
mod projection;
mod ranges;
mod retention;
mod rows;
mod session;
mod timestamp;
mod users;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::ports::projection::{Failure, FailureFilter, RebuildCursor, RebuildStep, Retried};
use outrigger_application::ports::store::{Rows, RowsQuery};
use outrigger_application::{ProjectionStore, StoreError, SyncStore, TableConfig};
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{Kept, Plan, Reference, Snapshot, StreamHead, TableName, UserId, Wanted};

use assume::Assumptions;
pub use error::ConnectError;
pub use examine::{Examined, examine};
pub use news::PostgresNews;
pub use projection::Materializers;
use projection::Projection;
pub use session::PoolUse;
use session::Sessions;
use sqlx::postgres::PgConnectOptions;

/// How long [`PostgresStore::ping`] waits for an answer.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// How the store uses its database.
///
/// What belongs to the connection itself (TLS, `application_name`, `statement-cache-capacity`) is part of the url.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Connections that the store opens, at the most. With tables to project, two thirds of them are for uploads, and
    /// there is at least one of either kind.
    ///
    /// An upload holds one while the database flushes its log to the disk. Whatever is committed meanwhile shares the
    /// next flush, so what a disk can do is used only by about as many connections as there are devices that upload.
    pub max_connections: u32,
    /// How long a call waits for a connection, and a start-up for the first one.
    pub acquire_timeout: Duration,
    /// How long a statement may run before the server cancels it.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock before the server cancels it.
    pub lock_timeout: Duration,
    /// How long a start-up waits for another node that is migrating the database.
    pub migration_timeout: Duration,
    /// Whether to send the settings of a session as it is opened. Some proxies refuse that.
    pub session_settings: bool,
    /// The registered tables, which are projected as their configuration has it.
    pub tables: Vec<TableConfig>,
    /// All the time that the projection of one upload may take.
    pub projection_timeout: Duration,
    /// What projects the rows of these tables in place of the declarative projection. Constraints are checked at once,
    /// and the rows are marked as the user's when it has succeeded.
    pub materializers: Materializers,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("max_connections", &self.max_connections)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("migration_timeout", &self.migration_timeout)
            .field("session_settings", &self.session_settings)
            .field("tables", &self.tables)
            .field("projection_timeout", &self.projection_timeout)
            .field("materializers", &self.materializers.keys())
            .finish()
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            max_connections: 24,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
            lock_timeout: Duration::from_secs(5),
            migration_timeout: Duration::from_secs(60),
            session_settings: true,
            tables: Vec::new(),
            projection_timeout: Duration::from_secs(2),
            materializers: Materializers::new(),
        }
    }
}

/// A [`SyncStore`] on a Postgres database. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct PostgresStore {
    sessions: Sessions,
    /// For commits that project.
    projecting: Sessions,
    projection: Arc<Projection>,
    assumptions: Arc<Assumptions>,
    /// Where the database is.
    target: PgConnectOptions,
}

impl PostgresStore {
    /// Connects to the database and brings its schema up to date. Any number of nodes may do so at once.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self, ConnectError> {
        let target = session::target(url, &options)?;
        let mut connection = session::open(&target, options.acquire_timeout).await?;
        migrate::run(&mut connection, options.migration_timeout).await?;
        let PostgresOptions { tables, materializers, projection_timeout, .. } = options.clone();
        let projection = Projection::start(&mut connection, tables, (materializers, projection_timeout)).await?;
        session::close(connection).await;
        let uploads = if options.tables.is_empty() { 0 } else { options.max_connections * 2 / 3 };
        Ok(Self {
            projecting: Sessions::projecting(&target, &options, uploads.max(1)),
            sessions: Sessions::new(target.clone(), &options, (options.max_connections - uploads).max(1)),
            projection: Arc::new(projection),
            assumptions: Arc::default(),
            target,
        })
    }

    /// What the pools have open: that of plain statements, and that of statements which project.
    pub fn connections(&self) -> [(&'static str, PoolUse); 2] {
        [("plain", self.sessions.in_use()), ("projecting", self.projecting.in_use())]
    }

    /// Closes all connections, waiting for the calls that are under way. Later calls fail.
    pub async fn close(&self) {
        self.sessions.close().await;
        self.projecting.close().await;
    }
}

#[async_trait]
impl SyncStore for PostgresStore {
    async fn load(&self, user: &UserId, wanted: &Wanted) -> Result<Snapshot, StoreError> {
        let loaded = load::load(&self.sessions, user, wanted).await?;
        self.assumptions.loaded(user, wanted, &loaded);
        Ok(loaded)
    }

    fn assume(&self, user: &UserId, wanted: &Wanted) -> Option<Snapshot> {
        self.assumptions.make(user, wanted)
    }

    async fn commit(&self, user: &UserId, plan: Plan) -> Result<(), StoreError> {
        let answer = commit::commit(self, user, &plan).await;
        self.assumptions.committed(user, &plan, &answer);
        answer
    }

    async fn page(&self, user: &UserId, query: &PageQuery) -> Result<Slice, StoreError> {
        page::page(&self.sessions, user, query).await
    }

    async fn head(&self, user: &UserId) -> Result<(StreamHead, Kept), StoreError> {
        page::head(&self.sessions, user).await
    }

    async fn rows(&self, user: &UserId, query: &RowsQuery) -> Result<Rows, StoreError> {
        rows::rows(&self.sessions, user, query).await
    }

    async fn tables(&self, user: &UserId) -> Result<Vec<TableName>, StoreError> {
        rows::tables(&self.sessions, user).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        match tokio::time::timeout(PING_TIMEOUT, migrate::still_there(&self.sessions)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(StoreError::Unavailable(elapsed.into())),
        }
    }
}

#[async_trait]
impl ProjectionStore for PostgresStore {
    async fn refresh_catalog(&self) -> Result<Vec<(TableName, Reference)>, StoreError> {
        self.projection.reload(&self.sessions).await.map_err(error::from_sqlx)?;
        let mut tx = self.sessions.begin().await.map_err(error::from_sqlx)?;
        let found = projection::shape::references(tx.connection(), self.projection.tables()).await;
        tx.rollback().await.map_err(error::from_sqlx)?;
        found.map_err(error::from_sqlx)
    }

    async fn failures(
        &self,
        user: &UserId,
        filter: &FailureFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Failure>, StoreError> {
        let after = Some((user.clone(), after));
        projection::failures::list(&self.sessions, filter, (Some(user), after, limit)).await
    }

    async fn all_failures(
        &self,
        filter: &FailureFilter,
        after: Option<(UserId, i64)>,
        limit: u32,
    ) -> Result<Vec<Failure>, StoreError> {
        projection::failures::list(&self.sessions, filter, (None, after, limit)).await
    }

    async fn retry(&self, user: &UserId, id: i64) -> Result<Retried, StoreError> {
        projection::rebuild::retry(self, user, id).await
    }

    async fn rebuild(
        &self,
        table: &TableName,
        after: Option<RebuildCursor>,
        limit: u32,
        at: Timestamp,
    ) -> Result<RebuildStep, StoreError> {
        projection::rebuild::rebuild(self, table, (after, limit), at).await
    }
}
