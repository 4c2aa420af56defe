//! A server on a free port, and devices with databases of their own.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use outrigger_client::transport::{Http, Request, Response, Transport, TransportError, Watched};
use outrigger_client::{Client, Config, Event, Report};
use outrigger_domain::limits::UploadLimits;
use outrigger_testserver::Options;
use rusqlite::Connection;
use tempfile::TempDir;

pub(crate) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT, email TEXT UNIQUE, age INTEGER, score REAL);
CREATE TABLE IF NOT EXISTS posts (
    id TEXT PRIMARY KEY, title TEXT NOT NULL DEFAULT '', author_id TEXT REFERENCES users (id) ON DELETE CASCADE
);
CREATE TABLE IF NOT EXISTS files (id BLOB PRIMARY KEY, name TEXT, data BLOB, size INTEGER AS (length(data))) WITHOUT ROWID;";

/// The server under test, and the way to it.
pub(crate) struct Server(outrigger_testserver::Server);

impl Deref for Server {
    type Target = outrigger_testserver::Server;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

fn options() -> Options {
    Options::of(&["users", "posts", "files"]).referring("posts", "author_id", "users")
}

impl Server {
    pub(crate) async fn memory() -> Self {
        Self(outrigger_testserver::Server::memory(&options()).await)
    }

    pub(crate) async fn limited(limits: UploadLimits) -> Self {
        Self(outrigger_testserver::Server::memory(&Options { limits, ..options() }).await)
    }

    pub(crate) async fn sqlite() -> Self {
        Self(outrigger_testserver::Server::sqlite(&options()).await)
    }

    pub(crate) async fn postgres() -> Self {
        Self(outrigger_testserver::Server::postgres(&options()).await)
    }

    pub(crate) fn device(&self, name: &str) -> Device {
        self.device_with(name, |config| config)
    }

    /// A device of alice's with a fresh database.
    pub(crate) fn device_with(&self, name: &str, configure: impl Fn(Config) -> Config) -> Device {
        self.device_of(name, SCHEMA, configure)
    }

    /// A device whose app has these tables.
    pub(crate) fn device_of(&self, name: &str, schema: &str, configure: impl Fn(Config) -> Config) -> Device {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let link = Link::new(&self.url);
        let client = Client::open(connect(&path, schema), configure(config(link.clone(), name))).unwrap();
        Device { client, link, path, name: name.to_owned(), _folder: folder }
    }
}

pub(crate) fn config(link: Link, device: &str) -> Config {
    bare_config(link, &format!("alice/{device}")).table("posts").table("users").table("files")
}

/// Without any tables.
pub(crate) fn bare_config(link: Link, token: &str) -> Config {
    let token = token.to_owned();
    let token = move || {
        let token = token.clone();
        async move { Ok(token) }
    };
    Config::over(link, token).poll_every(Duration::from_secs(3600))
}

pub(crate) fn connect(path: &std::path::Path, schema: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "foreign_keys", true).unwrap();
    connection.pragma_update(None, "synchronous", "off").unwrap();
    connection.execute_batch(schema).unwrap();
    connection
}

pub(crate) fn open(path: &std::path::Path, config: Config) -> Client {
    Client::open(connect(path, SCHEMA), config).unwrap()
}

/// Looks at an answer of the server's, and may put another in its place.
type Tamper = Box<dyn FnMut(&Request, Response) -> Response + Send>;

/// The way to the server, which can be cut: before a request arrives, or before its answer does.
#[derive(Clone)]
pub(crate) struct Link {
    http: Http,
    pub(crate) is_down: Arc<AtomicBool>,
    /// Answers that get lost on the way back.
    pub(crate) answers_lost: Arc<AtomicUsize>,
    /// Paths that an older server does not have.
    pub(crate) unknown: Arc<Mutex<Vec<&'static str>>>,
    pub(crate) uploads: Arc<AtomicUsize>,
    /// All requests, by path.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    tamper: Arc<Mutex<Option<Tamper>>>,
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
            asked: Arc::default(),
            tamper: Arc::default(),
        }
    }

    /// From here on answers go through that.
    pub(crate) fn tamper(&self, tamper: impl FnMut(&Request, Response) -> Response + Send + 'static) {
        *self.tamper.lock().unwrap() = Some(Box::new(tamper));
    }

    /// Answers come as they are again.
    pub(crate) fn leave_alone(&self) {
        *self.tamper.lock().unwrap() = None;
    }

    /// How often that was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.starts_with(path)).count()
    }

    fn is_unknown(&self, path: &str) -> bool {
        self.unknown.lock().unwrap().iter().any(|unknown| path.starts_with(unknown))
    }
}

fn not_found() -> Response {
    Response { status: 404, body: r#"{"error":"not_found","message":""}"#.into(), retry_after: None }
}

#[async_trait]
impl Transport for Link {
    async fn send(&self, request: Request) -> Result<Response, TransportError> {
        let lost = || TransportError("the line is down".into());
        if self.is_down.load(Ordering::SeqCst) {
            return Err(lost());
        }
        self.asked.lock().unwrap().push(request.path.clone());
        if self.is_unknown(&request.path) {
            return Ok(not_found());
        }
        if request.method == "POST" {
            self.uploads.fetch_add(1, Ordering::SeqCst);
        }
        let mut answer = self.http.send(request.clone()).await?;
        if let Some(tamper) = &mut *self.tamper.lock().unwrap() {
            answer = tamper(&request, answer);
        }
        let left = self.answers_lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if left.is_ok() { Err(lost()) } else { Ok(answer) }
    }

    async fn watch(&self, request: Request) -> Result<Watched, TransportError> {
        if self.is_down.load(Ordering::SeqCst) {
            return Err(TransportError("the line is down".into()));
        }
        self.asked.lock().unwrap().push(request.path.clone());
        if self.is_unknown(&request.path) {
            return Ok(Watched::Refused(not_found()));
        }
        self.http.watch(request).await
    }
}

pub(crate) struct Device {
    pub(crate) client: Client,
    pub(crate) link: Link,
    pub(crate) path: PathBuf,
    pub(crate) name: String,
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
        let config = configure(config(self.link.clone(), &self.name));
        self.reopen_as(SCHEMA, config).unwrap();
    }

    /// Opens the database with other tables or as somebody else.
    pub(crate) fn reopen_as(&mut self, schema: &str, config: Config) -> Result<(), outrigger_client::Error> {
        drop(self.client.close());
        self.client = Client::open(connect(&self.path, schema), config)?;
        Ok(())
    }

    /// Another connection of the app's to the same file.
    pub(crate) fn connection(&self) -> Connection {
        connect(&self.path, "")
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

/// The conflicts that were decided so far.
pub(crate) fn conflicts(events: &mut tokio::sync::broadcast::Receiver<Event>) -> usize {
    drained(events).iter().filter(|event| matches!(event, Event::Conflict { .. })).count()
}

/// The events so far.
pub(crate) fn drained(events: &mut tokio::sync::broadcast::Receiver<Event>) -> Vec<Event> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}
