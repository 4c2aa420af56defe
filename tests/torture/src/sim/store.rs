//! The database under the server: what can be done to it, and all that it holds.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrigger_testkit::{Cluster, Settings};
use rusqlite::Connection;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, Row};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

/// Connections that Postgres has: few, so that they can run out.
const CONNECTIONS: u32 = 40;
const TERMINATE: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'outrigger'";
/// The database of an episode, and its backup.
const DATABASE: &str = "sim";
const BACKUP: &str = "sim_backup";

const SQLITE_TABLES: &str = "
CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT, age INTEGER, email TEXT, owner TEXT);
CREATE TABLE posts (id TEXT PRIMARY KEY, title TEXT, author_id TEXT REFERENCES users (id), owner TEXT);";
const POSTGRES_TABLES: &str = "
CREATE TABLE users (id uuid PRIMARY KEY, name text, age bigint, email text, owner text);
CREATE TABLE posts (id uuid PRIMARY KEY, title text, author_id uuid REFERENCES users (id), owner text);";

/// Rows as text, whatever their columns are.
pub(crate) type Table = Vec<Vec<Option<String>>>;

/// A Postgres that episodes run on, one after another.
pub struct Postgres {
    cluster: Arc<Cluster>,
}

impl Postgres {
    /// Starts one. What it has answered is on the disk, as in production.
    pub async fn start() -> Self {
        let settings = Settings { parameters: vec![("max_connections", CONNECTIONS.to_string())] };
        let started = spawn_blocking(move || Arc::new(Cluster::start(&settings))).await;
        Self { cluster: started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) }
    }
}

/// The database of one episode.
#[derive(Clone)]
pub(crate) enum Store {
    Sqlite(PathBuf),
    Postgres {
        cluster: Arc<Cluster>,
        /// Whoever stops the cluster or swaps the database has it for himself.
        turn: Arc<Mutex<()>>,
    },
}

fn text(error: impl ToString) -> String {
    error.to_string()
}

impl Store {
    /// A new file in the folder, with the app's tables.
    pub(crate) fn sqlite(folder: &std::path::Path) -> Result<Self, String> {
        let path = folder.join("server.db");
        Connection::open(&path).and_then(|connection| connection.execute_batch(SQLITE_TABLES)).map_err(text)?;
        Ok(Self::Sqlite(path))
    }

    /// A new database of that Postgres, with the app's tables.
    pub(crate) async fn postgres(postgres: &Postgres) -> Result<Self, String> {
        let store = Self::Postgres { cluster: Arc::clone(&postgres.cluster), turn: Arc::default() };
        for database in [DATABASE, BACKUP] {
            store.administer(format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)")).await?;
        }
        store.administer(format!("CREATE DATABASE {DATABASE}")).await?;
        let mut connection = PgConnection::connect(&store.url()).await.map_err(text)?;
        connection.execute(POSTGRES_TABLES).await.map_err(text)?;
        Ok(store)
    }

    /// What the server is told.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite://{}", path.display()),
            Self::Postgres { cluster, .. } => cluster.url(DATABASE),
        }
    }

    /// All rows of a query, which has `{sync}` before the names of the sidecar's tables.
    pub(crate) async fn rows(&self, sql: &str) -> Result<Table, String> {
        match self {
            Self::Sqlite(path) => read_sqlite(path, &sql.replace("{sync}", "")),
            Self::Postgres { cluster, .. } => read_postgres(cluster, &sql.replace("{sync}", "sync.")).await,
        }
    }

    /// Stops Postgres the hard way, and starts it again.
    pub(crate) async fn stop(&self, is_killed: bool, down: Duration) -> Result<(), String> {
        let Self::Postgres { cluster, turn } = self else { return Ok(()) };
        let _turn = turn.lock().await;
        let stopped = Arc::clone(cluster);
        spawn_blocking(move || if is_killed { stopped.kill() } else { stopped.stop() }).await.map_err(text)?;
        sleep(down).await;
        let started = Arc::clone(cluster);
        spawn_blocking(move || started.restart()).await.map_err(text)
    }

    /// Terminates a share of the server's connections.
    pub(crate) async fn terminate(&self, percent: u8) -> Result<(), String> {
        self.administer(format!("{TERMINATE} AND hashint4(pid) % 100 BETWEEN -{percent} AND {percent}")).await
    }

    /// Takes all connections that there are, those of the server too, and holds them: whatever it opens meanwhile is
    /// refused, or taken from it.
    pub(crate) async fn exhaust(&self, hold: Duration) {
        let Self::Postgres { cluster, .. } = self else { return };
        let until = Instant::now() + hold;
        let mut held: Vec<PgConnection> = Vec::new();
        while Instant::now() < until {
            match PgConnection::connect(&cluster.url("postgres")).await {
                Ok(connection) => held.push(connection),
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
            // One that fails was cut by another fault, and is one less that is held.
            if held.len() >= CONNECTIONS as usize / 2
                && let Some(connection) = held.last_mut()
                && connection.execute(TERMINATE).await.is_err()
            {
                held.pop();
            }
        }
    }

    /// Holds the lock that a user's uploads need.
    pub(crate) async fn hold(&self, user: &str, hold: Duration) -> Result<(), String> {
        match self {
            Self::Sqlite(path) => {
                let path = path.clone();
                let held = spawn_blocking(move || {
                    let connection = Connection::open(path)?;
                    connection.busy_timeout(Duration::from_secs(5))?;
                    connection.execute_batch("BEGIN IMMEDIATE")?;
                    std::thread::sleep(hold);
                    connection.execute_batch("ROLLBACK")
                });
                held.await.map_err(text)?.map_err(text)
            }
            Self::Postgres { .. } => {
                let mut connection = PgConnection::connect(&self.url()).await.map_err(text)?;
                connection.execute("BEGIN").await.map_err(text)?;
                let lock = "SELECT 1 FROM sync.user_stream WHERE user_id = $1 FOR UPDATE";
                sqlx::query(lock).bind(user).execute(&mut connection).await.map_err(text)?;
                sleep(hold).await;
                connection.execute("ROLLBACK").await.map_err(text).map(drop)
            }
        }
    }

    /// Copies the database aside. On Postgres nobody may be connected, so the nodes are down.
    pub(crate) async fn back_up(&self) -> Result<(), String> {
        match self {
            Self::Sqlite(path) => {
                let copy = path.with_extension("backup");
                let connection = Connection::open(path).map_err(text)?;
                connection.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map_err(text).map(drop)
            }
            Self::Postgres { turn, .. } => {
                let _turn = turn.lock().await;
                self.cut_off().await?;
                self.administer(format!("CREATE DATABASE {BACKUP} TEMPLATE {DATABASE}")).await
            }
        }
    }

    /// Puts the copy in the database's place. The nodes are down.
    pub(crate) async fn restore(&self) -> Result<(), String> {
        match self {
            Self::Sqlite(path) => {
                for extension in ["db-wal", "db-shm"] {
                    let _ = std::fs::remove_file(path.with_extension(extension));
                }
                std::fs::rename(path.with_extension("backup"), path).map_err(text)
            }
            Self::Postgres { turn, .. } => {
                let _turn = turn.lock().await;
                self.administer(format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")).await?;
                self.administer(format!("ALTER DATABASE {BACKUP} RENAME TO {DATABASE}")).await
            }
        }
    }

    /// Ends all connections to the database.
    async fn cut_off(&self) -> Result<(), String> {
        let all = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname";
        self.administer(format!("{all} = '{DATABASE}'")).await
    }

    async fn administer(&self, sql: String) -> Result<(), String> {
        let Self::Postgres { cluster, .. } = self else { return Ok(()) };
        let mut connection = PgConnection::connect(&cluster.url("postgres")).await.map_err(text)?;
        connection.execute(AssertSqlSafe(sql)).await.map_err(text)?;
        // It is done, whatever becomes of the connection.
        let _ = connection.close().await;
        Ok(())
    }
}

fn read_sqlite(path: &std::path::Path, sql: &str) -> Result<Table, String> {
    let connection = Connection::open(path).map_err(text)?;
    let mut statement = connection.prepare(sql).map_err(text)?;
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|n| row.get(n)).collect();
    statement.query_map([], row).and_then(Iterator::collect).map_err(text)
}

async fn read_postgres(cluster: &Cluster, sql: &str) -> Result<Table, String> {
    let mut connection = PgConnection::connect(&cluster.url(DATABASE)).await.map_err(text)?;
    let rows: Vec<PgRow> = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.map_err(text)?;
    let row = |row: &PgRow| (0..row.len()).map(|n| row.try_get(n)).collect::<Result<Vec<_>, _>>();
    rows.iter().map(row).collect::<Result<Table, _>>().map_err(text)
}
