//! A server on a free port, and devices with databases of their own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use outrigger_application::retention::RetentionAges;
use outrigger_application::{
    AuthError, Authenticator, Caller, Clock, ContactStore, Contacts, Credentials, Download, Drain, Failures, Hub,
    ProjectionStore, Retention, RetentionStore, SharedCatalog, Snapshots, SyncStore, SystemClock, UploadPorts,
    UploadService, Watch,
};
use outrigger_client::transport::{Http, Request, Response, Transport, TransportError};
use outrigger_client::{Client, Config, Event, Report};
use outrigger_domain::limits::UploadLimits;
use outrigger_domain::{Catalog, SourceId, Table, TableName, UserId};
use outrigger_http::{Api, router, serve};
use outrigger_memory::MemoryStore;
use outrigger_postgres::{PostgresOptions, PostgresStore};
use outrigger_sqlite::{SqliteOptions, SqliteStore};
use outrigger_testkit::TestDatabase;
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT, email TEXT UNIQUE, age INTEGER, score REAL);
CREATE TABLE IF NOT EXISTS posts (
    id TEXT PRIMARY KEY, title TEXT NOT NULL DEFAULT '', author_id TEXT REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS files (id BLOB PRIMARY KEY, name TEXT, data BLOB, size INTEGER AS (length(data))) WITHOUT ROWID;";

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

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) retention: Arc<dyn RetentionStore>,
    _stop: oneshot::Sender<()>,
    _kept: Kept,
}

fn name(name: &str) -> TableName {
    TableName::parse_qualified(name).unwrap()
}

impl Server {
    pub(crate) async fn memory() -> Self {
        Self::on(Arc::new(MemoryStore::default()), Kept::Memory, UploadLimits::default()).await
    }

    pub(crate) async fn limited(limits: UploadLimits) -> Self {
        Self::on(Arc::new(MemoryStore::default()), Kept::Memory, limits).await
    }

    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("server.db"), SqliteOptions::default()).unwrap();
        Self::on(Arc::new(store), Kept::Folder(folder), UploadLimits::default()).await
    }

    pub(crate) async fn postgres() -> Self {
        let database = outrigger_testkit::postgres_database().await;
        let store = PostgresStore::connect(database.url(), PostgresOptions::default()).await.unwrap();
        Self::on(Arc::new(store), Kept::Database(Box::new(database)), UploadLimits::default()).await
    }

    async fn on<S>(store: Arc<S>, kept: Kept, limits: UploadLimits) -> Self
    where
        S: SyncStore + ProjectionStore + RetentionStore + ContactStore + 'static,
    {
        let users = Table::new(name("users"));
        let posts = Table::new(name("posts")).referring("author_id", name("users"));
        let catalog = SharedCatalog::new(Catalog::new([users, posts, Table::new(name("files"))]));
        let (clock, hub): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), Hub::default());
        let sync: Arc<dyn SyncStore> = Arc::<S>::clone(&store);
        let ports =
            UploadPorts { store: Arc::clone(&sync), clock: Arc::clone(&clock), notifier: Arc::new(hub.clone()) };
        let api = Api {
            upload: UploadService::new(ports, catalog.clone(), limits),
            download: Download::new(Arc::clone(&sync)),
            watch: Watch::new(Arc::clone(&sync), Arc::clone(&clock), hub, Drain::default()),
            snapshots: Snapshots::new(Arc::clone(&sync), catalog),
            contacts: Contacts::new(Arc::<S>::clone(&store), clock),
            failures: Failures::new(Arc::<S>::clone(&store)),
            store: sync,
            authenticator: Arc::new(Trusting),
            schema_version: 1,
            body_bytes_max: 1024 * 1024,
            demo: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move {
            let _ = stopped.await;
        };
        tokio::spawn(serve(listener, router(api), stopped, Duration::ZERO));
        Self { url, retention: store, _stop: stop, _kept: kept }
    }

    /// Prunes all that can be pruned, as if years had passed.
    pub(crate) async fn forget_history(&self) {
        struct Later;
        impl Clock for Later {
            fn now(&self) -> Timestamp {
                "2100-01-01T00:00:00Z".parse().unwrap()
            }
        }
        let ages = RetentionAges { superseded: Duration::ZERO, tombstones: Duration::ZERO, keys: Duration::MAX };
        let retention = Retention::new(Arc::clone(&self.retention), Arc::new(Later), ages, Duration::ZERO);
        retention.sweep(Duration::ZERO, |_| {}).await.unwrap();
    }

    pub(crate) fn device(&self, name: &str) -> Device {
        self.device_with(name, |config| config)
    }

    /// A device of alice's with a fresh database.
    pub(crate) fn device_with(&self, name: &str, configure: impl Fn(Config) -> Config) -> Device {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let link = Link::new(&self.url);
        let client = open(&path, configure(config(link.clone(), name)));
        Device { client, link, path, name: name.to_owned(), _folder: folder }
    }
}

pub(crate) fn config(link: Link, device: &str) -> Config {
    let token = format!("alice/{device}");
    let token = move || {
        let token = token.clone();
        async move { Ok(token) }
    };
    Config::over(link, token).table("posts").table("users").table("files").poll_every(Duration::from_secs(3600))
}

pub(crate) fn open(path: &std::path::Path, config: Config) -> Client {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "foreign_keys", true).unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    connection.execute_batch(SCHEMA).unwrap();
    Client::open(connection, config).unwrap()
}

/// The way to the server, which can be cut: before a request arrives, or before its answer does.
#[derive(Clone)]
pub(crate) struct Link {
    http: Http,
    pub(crate) is_down: Arc<AtomicBool>,
    /// Answers that get lost on the way back.
    pub(crate) answers_lost: Arc<AtomicUsize>,
    /// Paths that an older server does not have.
    pub(crate) unknown: Arc<std::sync::Mutex<Vec<&'static str>>>,
    pub(crate) uploads: Arc<AtomicUsize>,
}

impl Link {
    pub(crate) fn new(url: &str) -> Self {
        let http = Http::new(url);
        Self {
            http,
            is_down: Arc::default(),
            answers_lost: Arc::default(),
            unknown: Arc::default(),
            uploads: Arc::default(),
        }
    }
}

#[async_trait]
impl Transport for Link {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let lost = || TransportError("the line is down".into());
        if self.is_down.load(Ordering::SeqCst) {
            return Err(lost());
        }
        if self.unknown.lock().unwrap().iter().any(|path| request.path.starts_with(path)) {
            return Ok(Response { status: 404, body: r#"{"error":"not_found","message":""}"#.into() });
        }
        if request.method == "POST" {
            self.uploads.fetch_add(1, Ordering::SeqCst);
        }
        let answer = self.http.send(request).await?;
        let left = self.answers_lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() { Err(lost()) } else { Ok(answer) }
    }

    async fn watch(&self, request: Request) -> Result<BoxStream<'static, String>, TransportError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(TransportError("the line is down".into()));
        }
        self.http.watch(request).await
    }
}

pub(crate) struct Device {
    pub(crate) client: Client,
    pub(crate) link: Link,
    pub(crate) path: PathBuf,
    name: String,
    _folder: TempDir,
}

impl Device {
    pub(crate) fn execute(&self, sql: &str) {
        self.client.with(|connection| connection.execute_batch(sql)).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) async fn sync(&self) -> Report {
        self.client.sync_once().await.unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    pub(crate) fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.client, sql)
    }

    /// All that syncs, as text.
    pub(crate) fn contents(&self) -> Vec<String> {
        contents(&self.client)
    }

    /// Opens the database anew, as after a restart.
    pub(crate) fn reopen(&mut self, configure: impl Fn(Config) -> Config) {
        let _ = self.client.clone().close();
        self.client = open(&self.path, configure(config(self.link.clone(), &self.name)));
    }
}

pub(crate) fn rows(client: &Client, sql: &str) -> Vec<String> {
    let read = |connection: &mut Connection| {
        let mut statement = connection.prepare(sql)?;
        statement.query_map([], |row| row.get(0))?.collect()
    };
    client.with(read).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub(crate) fn contents(client: &Client) -> Vec<String> {
    let value = |column: &str| format!("typeof({column}) || ':' || quote({column})");
    let row = |table: &str, columns: &[&str]| {
        let columns: Vec<String> = columns.iter().map(|column| value(column)).collect();
        format!("SELECT '{table} ' || {} FROM {table}", columns.join(" || ' ' || "))
    };
    let sql = [
        row("users", &["id", "name", "email", "age", "score"]),
        row("posts", &["id", "title", "author_id"]),
        row("files", &["id", "name", "data"]),
    ];
    rows(client, &format!("{} ORDER BY 1", sql.join(" UNION ALL ")))
}

/// Syncs all until nothing moves any more, and checks that all have the same.
pub(crate) async fn settle(devices: &[&Device]) -> Vec<String> {
    for _ in 0..10 {
        let mut quiet = true;
        for device in devices {
            let report = device.sync().await;
            quiet &= report.uploaded + report.downloaded == 0;
        }
        if quiet {
            break;
        }
    }
    let first = devices[0].contents();
    for device in &devices[1..] {
        assert_eq!(device.contents(), first, "{} and {}", devices[0].name, device.name);
    }
    first
}

pub(crate) fn pk(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// The events so far.
pub(crate) fn drained(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<Event> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}
