//! A store in one SQLite file: for a laptop, a small server, and the demo.
//!
//! The file is in WAL mode. One thread owns the one connection that writes (`writer`), a pool of read-only
//! connections (`readers`) works beside it, and neither waits for the other. Other processes may have the
//! file open at the same time, the app with its own tables, the sqlite3 shell or a second server: what
//! orders a user's commits is the compare and swap in `commit`, not the thread.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{num::NonZeroUsize, thread};

use async_trait::async_trait;
use outrigger_application::TableConfig;
use outrigger_application::ports::store::{Rows, RowsQuery, StoreError, SyncStore};
use outrigger_domain::window::{PageQuery, Slice};
use outrigger_domain::{Kept, Plan, Snapshot, StreamHead, TableName, UserId, Wanted};
use rusqlite::{Connection, ErrorCode, OpenFlags};

mod commit;
mod contacts;
mod demo;
mod error;
mod examine;
mod migrate;
mod projection;
mod read;
mod readers;
mod retention;
mod rows;
mod transaction;
mod users;
mod writer;

pub use error::OpenError;
pub use examine::{Examined, examine, migrations_known};
use migrate::Refused;
pub use projection::Materializers;
use projection::Projection;
use readers::Readers;
use transaction::Transaction;
use writer::Writer;

/// What an answered commit survives. In every case the file stays whole and commits stay whole.
///
/// Neither level below `NORMAL` nor above `FULL` is offered: `OFF` can lose the whole file with the power, and `EXTRA`
/// adds nothing to `FULL` in WAL mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// The death of the process (`kill -9`) and of the machine (loss of power): the write-ahead log is flushed
    /// to the disk before a commit is answered, once for all commits that arrived together. Holds as far as
    /// the disk does what it is told.
    #[default]
    Full,
    /// The death of the process, but not of the machine: after a loss of power the last commits, usually up to
    /// half a minute of them, may be gone. Devices that were told of them are then ahead of the server and do not
    /// send them again.
    Normal,
}

/// How a [`SqliteStore`] uses its file.
#[derive(Clone)]
pub struct SqliteOptions {
    /// What an answered commit survives.
    pub synchronous: Synchronous,
    /// Connections that read, and so reads that run at once; at least one.
    pub readers: usize,
    /// How long to wait for another process that holds the file's write lock. After that a commit
    /// fails with [`StoreError::Unavailable`].
    pub busy_timeout: Duration,
    /// The registered tables; those whose business tables exist are projected. The business table of `public.users` is
    /// the table `users`, that of `shop.users` the table `"shop.users"`, with the dot in its name.
    pub tables: Vec<TableConfig>,
    /// How long the projection of one upload may take.
    pub projection_timeout: Duration,
    /// What projects a table instead of the projection by its columns.
    pub materializers: Materializers,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        // Reads that the page cache answers are bound by cores, others by the disk.
        let readers = thread::available_parallelism().map_or(4, NonZeroUsize::get).clamp(4, 16);
        Self {
            synchronous: Synchronous::Full,
            readers,
            busy_timeout: Duration::from_secs(5),
            tables: Vec::new(),
            projection_timeout: Duration::from_secs(2),
            materializers: Materializers::new(),
        }
    }
}

/// The streams of all users, kept in one SQLite file.
///
/// Dropping it ends its writer, once all that was asked of it is written, and waits for that.
pub struct SqliteStore {
    // The order matters: the connection that is closed last moves the write-ahead log into the file and
    // removes it, and only the writer's can.
    readers: Arc<Readers>,
    writer: Writer,
}

impl SqliteStore {
    /// Opens the database, makes it if it is not there, and migrates it. Blocks, for at most the busy timeout and
    /// what the migrations take.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let sqlite = |source| OpenError::Sqlite { path: path.into(), source };
        let writer = open_writer(path, &options)?;
        let readers = (0..options.readers.max(1)).map(|_| open_reader(path, &options)).collect::<Result<_, _>>();
        let readers = Arc::new(Readers::new(readers.map_err(sqlite)?));
        let SqliteOptions { tables, materializers, projection_timeout, .. } = options;
        let projection = Projection::start(&writer, tables, materializers, projection_timeout)?;
        Ok(Self { readers, writer: Writer::start(writer, projection)? })
    }
}

#[async_trait]
impl SyncStore for SqliteStore {
    async fn load(&self, user: &UserId, wanted: &Wanted) -> Result<Snapshot, StoreError> {
        let (user, wanted) = (user.clone(), wanted.clone());
        self.readers.read(move |tx| read::load(tx, &user, &wanted)).await
    }

    async fn commit(&self, user: &UserId, plan: Plan) -> Result<(), StoreError> {
        self.writer.commit(user, plan).await
    }

    async fn page(&self, user: &UserId, query: &PageQuery) -> Result<Slice, StoreError> {
        let (user, query) = (user.clone(), query.clone());
        self.readers.read(move |tx| read::page(tx, &user, &query)).await
    }

    async fn head(&self, user: &UserId) -> Result<(StreamHead, Kept), StoreError> {
        let user = user.clone();
        self.readers.read(move |tx| read::head(tx, &user)).await
    }

    async fn rows(&self, user: &UserId, query: &RowsQuery) -> Result<Rows, StoreError> {
        let (user, query) = (user.clone(), query.clone());
        self.readers.read(move |tx| rows::rows(tx, &user, &query)).await
    }

    async fn tables(&self, user: &UserId) -> Result<Vec<TableName>, StoreError> {
        let user = user.clone();
        self.readers.read(move |tx| rows::tables(tx, &user)).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        // With the file's write lock, in its turn: a writer that hangs, or cannot have it, answers nothing.
        let writer = self.writer.call(|connection, _| migrate::still_there(Transaction::begin(connection)?.connection));
        writer.await?;
        self.readers.read(read::ping).await
    }
}

/// Statements that a connection keeps prepared: more than there are in this crate, and some for business tables.
const STATEMENTS: usize = 128;

/// Pages in the write-ahead log after which a commit moves them into the file: 16 MiB of 4 KiB pages. The more
/// there are, the more commits share one write of a page that many of them change.
const CHECKPOINT_PAGES: i64 = 4_000;

fn open_writer(path: &Path, options: &SqliteOptions) -> Result<Connection, OpenError> {
    // While it turns a file to WAL mode SQLite may answer "busy" at once, whatever the busy timeout is.
    let deadline = Instant::now() + options.busy_timeout;
    loop {
        match try_open_writer(path, options) {
            Ok(connection) => return Ok(connection),
            Err(Refused::Sqlite(error)) if is_busy(&error) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            Err(Refused::Sqlite(source)) => return Err(OpenError::Sqlite { path: path.into(), source }),
            Err(Refused::Open(error)) => return Err(error),
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn try_open_writer(path: &Path, options: &SqliteOptions) -> Result<Connection, Refused> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    configure(&connection, options)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Refused::Open(OpenError::NoWriteAheadLog { mode }));
    }
    match options.synchronous {
        Synchronous::Full => {
            connection.pragma_update(None, "synchronous", "full")?;
            // On macOS an fsync alone leaves the data in the disk's cache.
            connection.pragma_update(None, "fullfsync", true)?;
            connection.pragma_update(None, "checkpoint_fullfsync", true)?;
        }
        Synchronous::Normal => connection.pragma_update(None, "synchronous", "normal")?,
    }
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // A reader in another process can keep the log from being reused; what it grew to is given back later.
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    // 8 MiB: what a round changes fits unless it is very full, and is not written to the log before its time.
    connection.pragma_update(None, "cache_size", -8 * 1024)?;
    migrate::migrate(&mut connection)?;
    // Not left to how SQLite was built: the business tables' foreign keys are the app's word.
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

fn open_reader(path: &Path, options: &SqliteOptions) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection, options)?;
    // 1 MiB for each: the upper levels of every tree; what is below is in the system's own cache. No mmap: an I/O error
    // in mapped memory is a signal that ends the process instead of an error that ends the request.
    connection.pragma_update(None, "cache_size", -1024)?;
    Ok(connection)
}

fn configure(connection: &Connection, options: &SqliteOptions) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(options.busy_timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pragma(connection: &Connection, name: &str) -> i64 {
        connection.pragma_query_value(None, name, |row| row.get(0)).unwrap()
    }

    #[test]
    fn the_writer_flushes_every_commit_unless_told_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let full = open_writer(&path, &SqliteOptions::default()).unwrap();
        assert_eq!((pragma(&full, "synchronous"), pragma(&full, "fullfsync")), (2, 1));
        let options = SqliteOptions { synchronous: Synchronous::Normal, ..SqliteOptions::default() };
        assert_eq!(pragma(&open_writer(&path, &options).unwrap(), "synchronous"), 1);
    }

    #[test]
    fn readers_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let _writer = open_writer(&path, &SqliteOptions::default()).unwrap();
        let reader = open_reader(&path, &SqliteOptions::default()).unwrap();
        assert!(reader.execute_batch("DELETE FROM user_stream").is_err());
    }

    #[test]
    fn a_database_that_is_not_a_local_file_is_refused() {
        let error = SqliteStore::open(Path::new(":memory:"), SqliteOptions::default()).err().unwrap();
        assert!(matches!(error, OpenError::NoWriteAheadLog { .. }), "{error}");
        let missing = SqliteStore::open(Path::new("/no/such/folder/a.db"), SqliteOptions::default()).err().unwrap();
        assert!(missing.to_string().starts_with("cannot open the database /no/such/folder/a.db: "), "{missing}");
    }
}
