//! The real server on a free port, inside the test: on every store, with any tables, and with tokens that need no key.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use outrigger_application::retention::RetentionAges;
use outrigger_application::{
    AuthError, Authenticator, Caller, Clock, ContactStore, Contacts, Credentials, Download, Drain, ErasurePorts,
    Failures, Hub, ProjectionStore, Retention, RetentionStore, SharedCatalog, Snapshots, SyncStore, SystemClock,
    UploadPorts, UploadService, UserStore, Watch,
};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::{Catalog, SourceId, Table, TableName, UserId};
use outrigger_http::{Admin, Admission, Api, Origins, Pace, Readiness, Serving, router, serve};
use outrigger_memory::MemoryStore;
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_sqlite::{SqliteOptions, SqliteStore};
use outrigger_testkit::TestDatabase;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// What a server is to be like.
#[derive(Clone)]
pub struct Options {
    /// The tables that may be synced.
    pub tables: Vec<Table>,
    /// Bounds of an upload.
    pub limits: UploadLimits,
    /// Bytes of a request.
    pub body_bytes_max: usize,
}

impl Options {
    /// With these tables, as `table` or `schema.table`.
    pub fn of(tables: &[&str]) -> Self {
        let tables = tables.iter().map(|table| Table::new(name(table))).collect();
        Self { tables, limits: UploadLimits::default(), body_bytes_max: 1024 * 1024 }
    }

    /// The column of that table holds keys of the other.
    #[must_use]
    pub fn referring(mut self, table: &str, column: &str, parent: &str) -> Self {
        let at = self.tables.iter().position(|known| known.name == name(table)).expect("the table is one of these");
        let referring = self.tables.remove(at).referring(column, name(parent));
        self.tables.insert(at, referring);
        self
    }
}

fn name(name: &str) -> TableName {
    TableName::parse_qualified(name).expect("the test names its tables well")
}

/// Takes `user/source` for a token; one that begins with `old` has ended.
struct Trusting;

#[async_trait]
impl Authenticator for Trusting {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Caller, AuthError> {
        let rejected = || AuthError::Rejected("the token has ended".into());
        let (user, source) =
            credentials.token.split_once('/').filter(|(user, _)| *user != "old").ok_or_else(rejected)?;
        Ok(Caller {
            user: UserId::parse(user).map_err(|_| rejected())?,
            source: SourceId::parse(source).map_err(|_| rejected())?,
            expires_at: Timestamp::MAX,
            is_admin: false,
        })
    }
}

/// What is kept of the server's storage while it runs.
#[expect(dead_code, reason = "held for its Drop")]
enum Kept {
    Memory,
    Folder(TempDir),
    Database(Box<TestDatabase>),
}

/// A server that runs until this is dropped.
pub struct Server {
    /// Where it listens.
    pub url: String,
    /// What it clears its streams through.
    pub retention: Arc<dyn RetentionStore>,
    forgettings: AtomicI64,
    _stop: oneshot::Sender<()>,
    _kept: Kept,
}

impl Server {
    /// Keeps everything in memory.
    pub async fn memory(options: &Options) -> Self {
        Self::on(Arc::new(MemoryStore::default()), Kept::Memory, options).await
    }

    /// On a SQLite file of its own.
    pub async fn sqlite(options: &Options) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        let store = SqliteStore::open(&folder.path().join("server.db"), SqliteOptions::default());
        Self::on(Arc::new(store.expect("a new file opens")), Kept::Folder(folder), options).await
    }

    /// On a Postgres database of its own.
    pub async fn postgres(options: &Options) -> Self {
        let database = outrigger_testkit::postgres_database().await;
        let store = PostgresStore::connect(database.url(), PostgresOptions::default()).await;
        Self::on(Arc::new(store.expect("a new database opens")), Kept::Database(Box::new(database)), options).await
    }

    /// On a store that somebody else keeps.
    pub async fn with<S>(store: Arc<S>, options: &Options) -> Self
    where
        S: SyncStore + ProjectionStore + RetentionStore + ContactStore + UserStore + 'static,
    {
        Self::on(store, Kept::Memory, options).await
    }

    async fn on<S>(store: Arc<S>, kept: Kept, options: &Options) -> Self
    where
        S: SyncStore + ProjectionStore + RetentionStore + ContactStore + UserStore + 'static,
    {
        let catalog = SharedCatalog::new(Catalog::new(options.tables.iter().cloned()));
        let (clock, hub): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), Hub::default());
        let sync: Arc<dyn SyncStore> = Arc::<S>::clone(&store);
        let ports =
            UploadPorts { store: Arc::clone(&sync), clock: Arc::clone(&clock), notifier: Arc::new(hub.clone()) };
        let snapshots = Snapshots::new(Arc::clone(&sync), catalog.clone());
        let admin = ErasurePorts {
            store: Arc::clone(&sync),
            projection: Arc::<S>::clone(&store),
            retention: Arc::<S>::clone(&store),
            contacts: Arc::<S>::clone(&store),
            users: Arc::<S>::clone(&store),
            clock: Arc::clone(&clock),
            notifier: Arc::new(hub.clone()),
        };
        let api = Api {
            upload: UploadService::new(ports, catalog.clone(), options.limits),
            download: Download::new(Arc::clone(&sync)),
            watch: Watch::new(Arc::clone(&sync), Arc::clone(&clock), hub, Drain::default()),
            admin: Admin::new(admin, snapshots.clone(), catalog),
            snapshots,
            readiness: Readiness::new(Arc::clone(&sync), Drain::default()),
            contacts: Contacts::new(Arc::<S>::clone(&store), clock),
            failures: Failures::new(Arc::<S>::clone(&store)),
            store: sync,
            authenticator: Arc::new(Trusting),
            schema_version: 1,
            body_bytes_max: options.body_bytes_max,
            pace: Pace::default(),
            admission: Admission::default(),
            origins: Origins::default(),
            metrics: None,
            demo: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        let serving = Serving { drain_timeout: Duration::ZERO, ..Serving::default() };
        tokio::spawn(serve(listener, router(api), serving, stopped));
        Self { url, retention: store, forgettings: AtomicI64::new(0), _stop: stop, _kept: kept }
    }

    /// Prunes all that can be pruned, as if years had passed, and more each time.
    pub async fn forget_history(&self) {
        struct Later(i64);
        impl Clock for Later {
            fn now(&self) -> Timestamp {
                let first: Timestamp = "2100-01-01T00:00:00Z".parse().expect("it is a time");
                first + jiff::SignedDuration::from_secs(self.0)
            }
        }
        let later = Later(self.forgettings.fetch_add(1, Ordering::Relaxed));
        let ages = RetentionAges { superseded: Duration::ZERO, tombstones: Duration::ZERO, keys: Duration::MAX };
        let retention = Retention::new(Arc::clone(&self.retention), Arc::new(later), ages, Duration::ZERO);
        retention.sweep(Duration::ZERO, |_| {}).await.expect("the store answers");
    }
}
